"""ELECTRA: an encoder learns from all tokens, by telling those that a small generator has replaced."""
