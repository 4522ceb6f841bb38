"""T-REG: preference optimisation whose implicit token rewards are drawn to given ones."""
