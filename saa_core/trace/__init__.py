"""The immutable record of one run: made, checked, stored, tabulated, summarised."""
