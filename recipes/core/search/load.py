"""The collection that a config describes."""

from recipes.core.search.beir import read_collection
from recipes.core.search.collection import Collection
from recipes.core.search.config import CollectionConfig, WikiSearchConfig
from recipes.core.search.leads import wiki_search


def load_collection(config: WikiSearchConfig | CollectionConfig) -> Collection:
    """Passages, queries and judgements.

    Raises:
        UserError: an asset cannot be had, or the user's files cannot be used.
    """
    return wiki_search(config) if isinstance(config, WikiSearchConfig) else read_collection(config)
