"""A task's model as a folder that runs without PyTorch, and the engine that runs it."""
