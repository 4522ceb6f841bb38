"""From measurements to a verdict: intervals, comparison of arms over seeds, claims, price, scaling.

May import `search` and what stands below it.
"""
