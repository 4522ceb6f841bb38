"""What a frozen model says about tokens, computed once and cached by content.

May import `losses` and what stands below it.
"""
