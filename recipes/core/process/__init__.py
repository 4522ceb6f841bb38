"""This process: the cores it may use, its signals and streams, the launcher that started it, work beside it.

May import `errors` and `messages`.
"""
