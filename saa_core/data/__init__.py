"""Texts, labels and models from outside: pinned downloads, corpora, labelled tables."""
