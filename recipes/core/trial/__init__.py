"""Many runs, one answer: which cells there are, where each stands, who does them, the result and its report.

May import `runner` and what stands below it.
"""
