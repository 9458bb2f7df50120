"""Components of several pages."""
