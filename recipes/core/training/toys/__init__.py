"""Small models that a run trains before it measures anything: a language model on domains that ship; on canvases of
digits a vision transformer, and a LLaVA behind it.

May import what `training` may.
"""
