"""The page of a run, and what all pages share: figures, tables, templates and styles. Recipes hand over numbers
(`evaluation.plots`); charts are drawn here.

May import `recipe` and what stands below it.
"""
