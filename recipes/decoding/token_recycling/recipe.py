"""Token Recycling as an experiment: prompts continued by a frozen model, with drafts that cost no second model."""

import torch

from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.decoding.experiment import Prepared, SpeculativeRecipe
from recipes.decoding.speculation import Drafter, Nothing
from recipes.decoding.token_recycling.config import TokenRecyclingConfig
from recipes.decoding.token_recycling.drafters import Matrix, NgramCache, PromptLookup
from recipes.decoding.token_recycling.method import Template, published_paths, random_paths, smaller


class TokenRecyclingRecipe(SpeculativeRecipe):
    """Recycled candidates, and three drafters that need no model either."""

    def prepare(self, config: TokenRecyclingConfig, device: str) -> Prepared:
        """Model and prompts. Raises UserError, also where the model has fewer tokens than candidates are kept."""
        prepared: Prepared = super().prepare(config, device)
        tokens = output_head(prepared.model.language_model).vocabulary
        if config.drafter.k > tokens:
            what = f"more candidates than the model's {tokens:,} tokens"
            raise UserError(what, f"drafter.k={config.drafter.k}", "the paper keeps 8")
        return prepared

    def drafter(self, config: TokenRecyclingConfig, prepared: Prepared) -> Drafter:
        """The drafter that the config names."""
        options, model = config.drafter, prepared.model.language_model
        if options.name == "greedy":
            return Nothing()
        if options.name == "prompt_lookup":
            return PromptLookup(options.ngram, options.lookup_tokens)
        vocabulary = output_head(model).vocabulary
        kind = NgramCache if options.name == "ngram_cache" else Matrix
        return kind(
            template(config),
            options.k,
            vocabulary,
            model.device,
            update=options.update,
            update_prefill=options.update_prefill,
            hot_start=options.hot_start,
        )


def template(config: TokenRecyclingConfig) -> Template:
    """The tree of a config."""
    options = config.drafter
    paths = published_paths() if options.nodes == len(published_paths()) else smaller(published_paths(), options.nodes)
    if options.tree == "random":
        paths = random_paths(paths, options.k, torch.Generator().manual_seed(config.seed))
    return Template(paths, options.k)


RECIPE = TokenRecyclingRecipe
