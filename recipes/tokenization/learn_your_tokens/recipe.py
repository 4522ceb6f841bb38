"""Learn your tokens as an experiment: what is trained and measured is that of the family."""

from recipes.tokenization.words.experiment import WordRecipe

RECIPE = WordRecipe
