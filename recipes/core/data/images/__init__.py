"""Images with captions, questions and answers: read, generated or from a package.

May import `data.files`, `data.text`, and what `data` may.
"""
