"""What to type here for what people type elsewhere: options of Hydra and of trainers' scripts."""

import re
from collections.abc import Sequence

from recipes.core.errors import UserError

DRY = "steelyard run RECIPE --dry-run shows the composed config"
LIST = "steelyard list RECIPE shows every key with its default"
HYDRA = {
    "--cfg": DRY,
    "-c": DRY,
    "--resolve": DRY,
    "--info": f"{DRY}; steelyard doctor shows what this machine can do",
    "--package": DRY,
    "--config-name": "the recipe is the first word after `run`; --config FILE reads keys from a YAML file of yours",
    "--config-path": "--config FILE reads keys from a YAML file of yours",
    "--hydra-help": LIST,
    "--shell-completion": "steelyard --install-completion",
    "--experimental-rerun": "the same command again resumes or reuses a run",
    "--resume": "the same command again resumes a run; --fresh starts anew",
    "--resume-from-checkpoint": "the same command again resumes a run; --fresh starts anew",
    "--force": "--fresh starts a run anew",
    "--overwrite": "--fresh starts a run anew",
}


def pointer(option: str, words: Sequence[str]) -> str:
    """What to type in place of an option that there is not; empty if nothing is known.

    Args:
        option: As typed, without a value ("--lr").
        words: The whole command line.
    """
    if option in HYDRA:
        return HYDRA[option]
    key = option.lstrip("-").replace("-", "_")
    recipe = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    if not option.startswith("--") or not re.fullmatch(r"[\w.]+", key):
        return ""
    return _as_key(option, key, recipe, words)


def _as_key(option: str, key: str, recipe: str, words: Sequence[str]) -> str:
    """An option that names a key: keys are typed without dashes."""
    from recipes.core.config import compose
    from recipes.core.config.overrides import in_shell
    from recipes.core.config.synonyms import likely_keys

    try:
        known = list(compose.config_keys(recipe))
    except UserError:
        return ""
    meant = [key] if key in known else likely_keys(key, known, list(compose.groups()))
    if not meant:
        return ""
    value = _value(option, words)
    return f"keys are typed without dashes: {in_shell(meant[0], value) if value else f'{meant[0]}=VALUE'}"


def _value(option: str, words: Sequence[str]) -> str:
    """What stands behind an option on the line."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return "" if after.startswith("--") or "=" in after else after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""
