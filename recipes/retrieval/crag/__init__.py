"""Clustered retrieval-augmented generation: a prompt that holds one text a cluster in place of all reviews."""
