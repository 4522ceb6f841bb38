"""Methods that ask which tokens carried an output: why a model wrote it, whether it knew, whether it wrote it.

What the recipes of this family share:

samples                     texts with what a frozen model says of their tokens, in one pass, cached by content
"""
