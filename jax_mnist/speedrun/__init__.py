"""Speedrun: from random weights to 99% of the test digits as fast as two cores can; it stands alone.

`net` explains a convolutional net as matrix products by their shapes, `recipe` trains it as one compiled program.
"""

from .recipe import RECIPE, Params, Recipe, init_params, orthogonalize, predict, train

__all__ = ["RECIPE", "Params", "Recipe", "init_params", "orthogonalize", "predict", "train"]
