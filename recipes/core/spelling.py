"""What somebody most likely meant to type."""

import difflib


def nearest(word: str, options: list[str]) -> str | None:
    """The option that `word` was most likely meant to be, or None if nothing is close.

    The only option that `word` begins wins over those that are spelled alike.
    """
    begun = [option for option in options if option.startswith(word)]
    if len(begun) == 1:
        return begun[0]
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if close:
        return close[0]
    tails = {option.rpartition(".")[2]: option for option in options}
    close = difflib.get_close_matches(word.rpartition(".")[2], list(tails), n=1, cutoff=0.7)
    return tails[close[0]] if close else None


def did_you_mean(word: str, options: list[str]) -> str:
    """ "did you mean X?", or the list of options if nothing is close."""
    close = nearest(word, options)
    return f"did you mean {close}?" if close else f"choose from {', '.join(options)}"
