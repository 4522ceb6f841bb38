"""Numbers on pages: trials stored in docs/results, and the tables, verdicts and lists that are written from them.

`python -m recipes.core.pages` (`make docs`) writes them; docs/results/README.md says how to store a trial. May import
every other room; none imports it.
"""
