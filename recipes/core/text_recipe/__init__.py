"""What methods share that weight tokens or samples of text while a causal language model trains: `TextRecipe`.

May import `recipe` and what stands below it.
"""
