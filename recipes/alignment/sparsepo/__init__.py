"""SparsePO: token-level preference optimisation with one weight a token on the reward and one on the KL."""
