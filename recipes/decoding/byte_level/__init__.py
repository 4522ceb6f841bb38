"""Probabilities of the next byte from a model of tokens."""
