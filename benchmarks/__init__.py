"""Published figures: one runnable module per table, grouped by what it measures."""
