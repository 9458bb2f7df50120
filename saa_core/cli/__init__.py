"""The ``saa`` command, one file per group of commands."""
