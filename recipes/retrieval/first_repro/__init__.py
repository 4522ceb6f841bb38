"""A reproduction of FIRST: how a model was tuned, how it is read, and what a server and a first stage leave of it."""
