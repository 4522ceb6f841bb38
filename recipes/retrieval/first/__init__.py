"""FIRST: passages by the logits of the first letter that a model would name."""
