"""The page of a run, and what all pages share: figures, tables, templates and styles.

May import `recipe` and what stands below it.
"""
