"""From what was typed to a checked config: settings, schema, composition, overrides, and the registry of recipes.

May import `storage` and what stands below it. Nothing here imports torch.
"""
