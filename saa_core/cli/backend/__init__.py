"""The backend from the command line: serving, and asking one instead of loading a model here."""
