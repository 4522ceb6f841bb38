"""The collection that a config describes."""

from recipes.retrieval.beir import read_collection
from recipes.retrieval.collection import Collection
from recipes.retrieval.config import CollectionConfig, WikiSearchConfig
from recipes.retrieval.leads import wiki_search


def load_collection(config: WikiSearchConfig | CollectionConfig) -> Collection:
    """Passages, queries and judgements.

    Raises:
        UserError: an asset cannot be had, or the user's files cannot be used.
    """
    return wiki_search(config) if isinstance(config, WikiSearchConfig) else read_collection(config)
