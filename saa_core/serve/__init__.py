"""The backend: one process that owns models and device and answers over HTTP. ``saa serve`` starts it."""
