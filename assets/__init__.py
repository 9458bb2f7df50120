"""Shipped data: pinned lists, trained gates, examples. Mapped into the wheel as saa_core.assets."""
