"""The model that a run trained, as others load it: its folder, its card, its upload, its marks in benchmarks.

May import `report` and what stands below it.
"""
