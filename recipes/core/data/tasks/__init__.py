"""Things to answer and who judges the answers: sums with exact answers, film reviews and their judges, labelled texts.

May import `data.text`, and what `data` may.
"""
