"""A run in several processes: starting them, what they tell each other, sharding.

May import what `training` may.
"""
