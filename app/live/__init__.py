"""What a client is asked for and gives back, and the models that it runs; no widget, no session."""
