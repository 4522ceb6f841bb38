"""Shell completion of recipes, keys and values.

Bash breaks words at `=`, so `arm=pr` may arrive as one word or as the three words `arm`, `=`, `pr`; what is offered
continues the last word. Completion must never show an error, so a config that cannot be read offers nothing.
"""

import typer

from recipes.core.config import compose, registry
from recipes.core.errors import UserError
from recipes.core.storage.assets import ASSETS


def recipes(incomplete: str) -> list[tuple[str, str]]:
    """Recipe names with their titles."""
    return [(name, _title(name)) for name in registry.recipe_names() if name.startswith(incomplete)]


def _title(name: str) -> str:
    try:
        return registry.card(name).title
    except UserError:  # of a recipe that is being written
        return ""


def asset_names(incomplete: str) -> list[tuple[str, str]]:
    """Asset names with what they are."""
    return [(name, asset.label) for name, asset in ASSETS.items() if name.startswith(incomplete)]


def launchers(incomplete: str) -> list[str]:
    """Names of launchers."""
    from recipes.core.trial.launch import LAUNCHERS

    return [name for name in LAUNCHERS if name.startswith(incomplete)]


def arms(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Arms of the recipe typed before; behind a comma those that are not yet in the list."""
    words = [context.params.get("recipe"), *context.args]  # an option that waits for its value leaves words unparsed
    recipe = next((word for word in words if word in registry.recipe_names()), None)
    if recipe is None:
        return []
    before, comma, begun = incomplete.rpartition(",")
    taken = before.split(",")
    return [
        (f"{before}{comma}{name}", text)
        for name, text in compose.arms(recipe).items()
        if name.startswith(begun) and name not in taken
    ]


def overrides(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """`KEY=VALUE`: keys as long as there is no `=`, then the key's values."""
    typed, key, prefix = _position(list(context.params.get("overrides") or []), incomplete)
    try:
        values = _values(context.params["recipe"] or "", typed)
    except UserError:
        return []
    if key is not None:
        offers = [(f"{prefix}{value}", text) for value, text in values.get(key, [])]
        return [item for item in offers if item[0].startswith(incomplete)]
    matching = [name for name in values if name.startswith(incomplete)]
    if len(matching) == 1:  # the shell would add a blank after a lone `key=`
        return [(f"{matching[0]}={value}", text) for value, text in values[matching[0]]]
    return [(f"{name}=", "") for name in matching]


def _position(words: list[str], incomplete: str) -> tuple[list[str], str | None, str]:
    """Complete `KEY=VALUE` words, the key whose value is being typed (None: a key is), and what to keep before it."""
    joined: list[str] = []
    for word in words:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    if joined and joined[-1].endswith("="):
        return joined[:-1], joined[-1][:-1], ""
    if "=" in incomplete:
        key = incomplete.partition("=")[0]
        return joined, key, f"{key}="
    if joined and "=" not in joined[-1]:  # Bash, right behind the `=`
        return joined[:-1], joined[-1], ""
    return joined, None, ""


def _values(recipe: str, typed: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Every key with the values to offer: choices, or the default."""
    offers = {"arm": list(compose.arms(recipe, typed).items())}
    groups = compose.options(recipe) | compose.kinds(recipe)
    offers |= {group: [(option, "") for option in options] for group, options in groups.items()}
    for key, info in compose.config_keys(recipe, typed).items():
        if key in offers or key == "recipe":
            continue
        options = info.choices or ((True, False) if isinstance(info.default, bool) else (info.default,))
        offers[key] = [(text_of(option), info.help) for option in options]
    return offers


def text_of(value: object) -> str:
    """A config value as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(text_of(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
