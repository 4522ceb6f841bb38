"""Recipes: published methods as runnable experiments, grouped by family, over one shared core."""
