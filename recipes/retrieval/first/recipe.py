"""FIRST as an experiment: one token's logits beside written orders, rank losses beside the plain LM loss."""

from recipes.retrieval.letters.experiment import LettersRecipe


class FirstRecipe(LettersRecipe):
    """Orders candidates by the logits of the first letter."""


RECIPE = FirstRecipe
