"""Pruning methods: which tokens of an image a model still has to look at."""
