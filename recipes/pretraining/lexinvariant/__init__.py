"""Lexinvariant language models: vectors of tokens drawn anew for every sequence, so that none is known beforehand."""
