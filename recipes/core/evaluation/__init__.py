"""What is measured: per-example scores, curves, plots, strips of images.

May import `training` and what stands below it.
"""
