"""ZeTT: a hypernetwork, trained once for a model, predicts the rows of any tokenizer's tokens."""
