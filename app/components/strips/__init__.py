"""The text and the layers as strips: tokens by attention, tokens that are crossed out, layers by sparsity."""
