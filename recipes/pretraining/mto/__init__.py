"""Masked token optimisation, reconstructed: what visible tokens of an image take from masked ones."""
