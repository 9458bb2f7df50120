"""What runs elsewhere, from the command line: serving, asking a backend instead of loading a model here, exporting."""
