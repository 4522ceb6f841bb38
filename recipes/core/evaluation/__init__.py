"""What is measured: per-example scores, probes on frozen features, curves, plots, strips of images, cut texts, token
importance.

May import `training` and what stands below it.
"""
