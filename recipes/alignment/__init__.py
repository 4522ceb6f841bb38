"""Alignment methods: which tokens of an answer carry a preference."""
