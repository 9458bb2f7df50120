"""What a session remembers: results, address, opened records."""
