"""Things to answer and who judges the answers: sums with exact answers, film reviews and their judges.

May import `data.text`, and what `data` may.
"""
