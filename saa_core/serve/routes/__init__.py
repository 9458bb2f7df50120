"""The addresses of the backend, one protocol per file: they shape requests and answers and run nothing."""
