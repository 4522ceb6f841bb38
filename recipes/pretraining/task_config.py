"""Labelled texts that pretrained encoders are probed on, beside the texts they are trained on. Imports no torch."""

from dataclasses import dataclass

from recipes.core.data.tasks.labelled_config import LabelledTextsConfig


@dataclass(frozen=True, kw_only=True)
class TaskTextsConfig(LabelledTextsConfig):
    """Your own texts with a label each, under the key `task`."""

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        return [(key, message.replace("data.", "task.")) for key, message in super().check()]
