"""Pretraining methods: which tokens and samples deserve the loss, and what a model attends to and remembers."""
