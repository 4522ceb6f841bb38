"""What a frozen model says about tokens, in one pass, computed once and cached by content; completions from one.

`score` is the pass: rows (`rows`), forwards (`forward`), what is read of a distribution (`statistics`), what is kept of
it (`columns`) and at which price (`sizes`).

May import `losses` and what stands below it.
"""
