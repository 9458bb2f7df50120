"""Dense against SAA on every text of a corpus, and what that says by kind of text."""
