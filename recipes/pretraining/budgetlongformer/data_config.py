"""Config of long texts with a label each. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from recipes.core.config.settings import setting
from recipes.core.data.config import near_duplicates_setting
from recipes.core.data.tasks.labelled_config import LabelledConfig, LabelledTextsConfig


@dataclass(frozen=True, kw_only=True)
class LicenceCategoriesConfig(LabelledConfig):
    """Licences of software (asset licences): permissive or copyleft; families are whole on one side of the split."""

    name: str = setting("licence-categories", help="data set", choices=("licence-categories",))
    texts: int | None = setting(
        None, help="texts that the seed draws at most, of each class its share; null: all", unit="texts", ge=4
    )
    near_duplicates: float | None = near_duplicates_setting()
    described: ClassVar[str] = "licences of software by category, split by family (asset licences)"


@dataclass(frozen=True, kw_only=True)
class LabelledDocumentsConfig(LabelledTextsConfig):
    """Your own long texts with a label each: pretrained on those that are not tested on."""

    name: str = setting("labelled-documents", help="data set", choices=("labelled-documents",))
    texts: int | None = setting(
        None, help="texts that the seed draws at most, of each class its share; null: all", unit="texts", ge=4
    )
    near_duplicates: float | None = near_duplicates_setting()
