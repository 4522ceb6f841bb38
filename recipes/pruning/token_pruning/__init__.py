"""Recipe `token-pruning`: pruners of visual tokens on identical weights."""
