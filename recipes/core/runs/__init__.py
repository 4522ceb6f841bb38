"""The folder of a run: its identity, records of what is in it, checkpoints, the tracker, progress.

May import `data` (what a run reads is part of its identity) and what stands below it.
"""
