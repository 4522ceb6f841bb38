"""Hierarchical autoregressive transformers: bytes within words, words within text."""
