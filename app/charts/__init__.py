"""Traces and figures as charts. Words and theme come as arguments; knows no widget."""
