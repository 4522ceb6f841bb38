"""PAWN: machine-written text is detected by statistics of its tokens, which hidden states weigh."""
