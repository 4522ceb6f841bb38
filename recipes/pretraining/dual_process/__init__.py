"""Embeddings forgotten on a schedule, so that a model answers from context what it has no memory of."""
