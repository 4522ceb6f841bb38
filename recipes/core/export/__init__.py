"""The model that a run trained, as others load it: its folder, its card, its upload, its scores in tasks of lm-eval.

May import `report` and what stands below it.
"""
