"""Pretraining methods: which tokens and samples deserve the loss."""
