"""From a command's choices to what the library takes: data, model, loss, optimizer, and defaults for the rest."""

import math
from typing import Any, Literal, NamedTuple

import jax
import optax

from .. import class_names, hold_out, linear, load, mlp
from ..losses import mnist_loss, softmax_cross_entropy
from ..training import LossFunction
from ..types import Model, Splits

ModelName = Literal["linear", "mlp", "flax_mlp"]
OptimizerName = Literal["sgd", "momentum", "adam"]


def read_data(dataset: str, held_out: int = 0) -> tuple[Splits, tuple[str, ...]]:
    """The dataset of that name or path and its class names; with `held_out`, validated on that many training images.

    They are the same ones for all seeds and all commands.
    """
    splits = load(dataset)
    if held_out:
        splits = hold_out(jax.random.key(0), splits.train, held_out)
    return splits, class_names(dataset)


class Recipe(NamedTuple):
    """What is trained, and how."""

    model: ModelName
    optimizer: OptimizerName
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float


# Two classes: the chapter's numbers. More: chosen on held-out training images, see docs/choices.md.
_TWO_CLASSES = {
    "linear": Recipe("linear", "sgd", (), epochs=20, batch_size=256, learning_rate=1.0),
    "mlp": Recipe("mlp", "sgd", (30,), epochs=40, batch_size=256, learning_rate=0.1),
}
_MORE_CLASSES = {
    "linear": Recipe("linear", "sgd", (), epochs=20, batch_size=256, learning_rate=0.1),
    "mlp": Recipe("mlp", "sgd", (512,), epochs=20, batch_size=64, learning_rate=0.3),
}


def choose_recipe(
    class_count: int, model: ModelName | None = None, optimizer: OptimizerName = "sgd", **chosen: Any
) -> Recipe:
    """The recipe with everything that the person chose (not None), and our choice for the rest.

    Raises ValueError, naming the option, for a choice that cannot be trained.
    """
    model = model or ("mlp" if class_count == 2 else "flax_mlp")
    ours = (_TWO_CLASSES if class_count == 2 else _MORE_CLASSES)[model.removeprefix("flax_")]
    rates = {"sgd": ours.learning_rate, "momentum": ours.learning_rate / 10, "adam": 1e-3}
    ours = ours._replace(model=model, optimizer=optimizer, learning_rate=rates[optimizer])
    recipe = ours._replace(**{name: value for name, value in chosen.items() if value is not None})
    for name in ("epochs", "batch_size"):
        if getattr(recipe, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(recipe, name)}")
    if not (math.isfinite(recipe.learning_rate) and recipe.learning_rate > 0):
        raise ValueError(f"--learning-rate must be a positive number, not {recipe.learning_rate}")
    if model == "linear" and recipe.hidden:
        raise ValueError(f"--hidden {recipe.hidden}: a linear model has no hidden layers; choose mlp or flax_mlp")
    return recipe


def make_model(name: ModelName, hidden: tuple[int, ...], class_count: int) -> Model:
    """The model of that name, with one column of scores for two classes."""
    sizes = (784, *hidden, 1 if class_count == 2 else class_count)
    if name == "flax_mlp":
        from ..models.nnx import flax_mlp

        return flax_mlp(sizes)
    return linear(sizes[0], sizes[-1]) if name == "linear" else mlp(sizes)


def make_loss(class_count: int) -> LossFunction:
    """The chapter's loss for two classes, softmax cross entropy for more."""
    return mnist_loss if class_count == 2 else softmax_cross_entropy


def fit_options(recipe: Recipe, class_count: int) -> dict[str, Any]:
    """The recipe as the arguments of `fit`, but for the key, the model and the data."""
    return {
        "epochs": recipe.epochs,
        "loss_fn": make_loss(class_count),
        "optimizer": make_optimizer(recipe.optimizer, recipe.learning_rate),
        "batch_size": recipe.batch_size,
    }


def make_optimizer(name: OptimizerName, learning_rate: float | jax.Array) -> optax.GradientTransformation:
    """Optax's optimizer of that name; "momentum" is SGD with momentum 0.9."""
    if name == "adam":
        return optax.adam(learning_rate)
    return optax.sgd(learning_rate, momentum=0.9 if name == "momentum" else None)
