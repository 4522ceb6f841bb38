"""From measurements to a verdict: intervals, comparison of arms over seeds, claims, price, scaling.

May import `evaluation` and what stands below it.
"""
