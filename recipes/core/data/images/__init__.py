"""Images with captions, questions and answers, or classes: read, generated or from a package.

May import `data.files`, `data.text`, `data.tasks`, and what `data` may.
"""
