"""Labelled texts under the key `task`, for encoders that are trained on other texts."""

import re
from dataclasses import fields

from recipes.core.data.tasks.labelled import LabelledSet, load_labelled
from recipes.core.data.tasks.labelled_config import LabelledConfig
from recipes.core.errors import UserError


def load_task(config: LabelledConfig) -> LabelledSet:
    """The labelled texts of `task`.

    Raises:
        UserError: they cannot be used; what it names are keys of `task`.
    """
    try:
        return load_labelled(config)
    except UserError as error:
        keys = "|".join(each.name for each in fields(config))
        where, hint = (re.sub(rf"\bdata(?=\.(?:{keys})\b|=)", "task", text) for text in (error.where, error.hint))
        raise UserError(error.what, where, hint) from error
