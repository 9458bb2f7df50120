"""The learned scorers: of pairs and of tokens; their files, their reliability, and inputs unlike their training's."""
