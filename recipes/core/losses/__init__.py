"""Losses of tokens and sequences: kernels that never hold all logits, log-probs, weights, objectives.

May import `models` and what stands below it.
"""
