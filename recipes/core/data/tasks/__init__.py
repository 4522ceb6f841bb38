"""Things to answer and who judges the answers: prompts, sums with exact answers, film reviews and their judges,
labelled texts.

May import `data.text`, and what `data` may.
"""
