"""Keys that a run does not read: its config says which, and those of them that were typed are announced.

def unread(self) -> list[tuple[str, str]]:                    # of a recipe's config
    return unread_keys(("search.probes", self.search.index == "approximate", "an exact search has no lists"))

of_no_use([config], ["search.probes=4"])                      # [("search.probes", "an exact search has no lists")]
"""

from collections.abc import Sequence

from recipes.core.config import compose
from recipes.core.config.settings import RunConfig

Rule = tuple[str, bool, str]  # keys with blanks between them, whether the run reads them, why it does not


def unread_keys(*rules: Rule) -> list[tuple[str, str]]:
    """(Key, why) of each key that a run does not read; a key stands for all below it."""
    return [(key, why) for keys, is_read, why in rules if not is_read for key in keys.split()]


def of_no_use(configs: Sequence[RunConfig], overrides: Sequence[str]) -> list[tuple[str, str]]:
    """(Key, why) of each typed key that none of some runs reads; why is what the first of them says.

    Args:
        configs: Configs of runs of one recipe, at least one.
        overrides: What was typed, as `compose.compose` takes it; what follows from it in presets was not.
    """
    words = {word.lstrip("+~").partition("=")[0] for word in overrides}
    unread, rows = [dict(config.unread()) for config in configs], dict[str, str]()
    for key, _ in compose.typed_keys(configs[0].recipe, overrides):
        names = with_parents(key)
        whys = [next((keys[name] for name in names if name in keys), None) for keys in unread]
        if whys[0] is not None and None not in whys and not words.isdisjoint(names) and rows.keys().isdisjoint(names):
            rows[key] = whys[0]
    return list(rows.items())


def with_parents(key: str) -> list[str]:
    """ "a.b.c" as ["a", "a.b", "a.b.c"]."""
    parts = key.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
