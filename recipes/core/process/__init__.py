"""This process: the cores it may use, its signals and streams, its clock, its launcher, work beside it.

May import `errors` and `messages`.
"""
