"""Small models that a run trains on canvases of digits before its own: a vision transformer, and a LLaVA behind it.

May import what `training` may.
"""
