"""Pruning methods: which tokens of an image a model still has to look at.

What the recipes of this family share:

options, tokens       keys of pruners (no torch); their one interface: where they act, what they read and return
pruners               one file a method: pure functions of tensors
guards                what is refused: budgets that cannot be reached, states that are no numbers
draws                 random numbers of a sample, the same whatever stands beside it in the batch
adapters              pruners in models of `transformers`, by hooks, and all that is refused before
accounting            multiply-adds that pruning saves
flex                  pooling to any number of tokens, and projectors that take any
"""
