"""Documents, shards, domains and mixtures; the ids that a tokenizer gives them, packed into sequences.

May import `data.files`, and what `data` may.
"""
