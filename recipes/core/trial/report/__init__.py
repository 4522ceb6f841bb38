"""The page, the picture and the Markdown of a trial.

May import what `trial` may.
"""
