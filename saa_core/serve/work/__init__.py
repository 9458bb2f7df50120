"""What the model's thread does for one kind of request, step by step."""
