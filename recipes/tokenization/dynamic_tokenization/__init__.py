"""Dynamic tokenization: frequent neighbours of a batch merged into longer tokens, whose rows are predicted."""
