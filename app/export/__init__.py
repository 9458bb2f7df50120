"""Charts, maps and tables as files, with where they come from."""
