"""From a command's choices to what the library takes: data, model, loss, optimizer, and defaults for the rest."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import optax

from .. import Learner, class_names, hold_out, linear, load, mlp, random_rotation, random_shift, with_ema
from ..losses import mnist_loss, softmax_cross_entropy
from ..models.precision import mixed_precision
from ..types import Augment, LossFunction, Model, Splits

DenseName = Literal["linear", "mlp", "flax_mlp"]
ModelName = Literal[DenseName, "cnn"]
OptimizerName = Literal["sgd", "momentum", "adam"]
ScheduleName = Literal["constant", "cosine", "one-cycle"]


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
    schedule: ScheduleName = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None
    shift: int = 0
    rotation: float = 0.0
    bfloat16: bool = False
    filters: tuple[int, ...] = ()


# Two classes: the chapter's numbers. More: chosen on held-out training images, see docs/choices.md.
_TWO_CLASSES = {
    "linear": Recipe("linear", "sgd", (), epochs=20, batch_size=256, learning_rate=1.0),
    "mlp": Recipe("mlp", "sgd", (30,), epochs=40, batch_size=256, learning_rate=0.1),
}
_MORE_CLASSES = {
    "linear": Recipe("linear", "sgd", (), epochs=20, batch_size=256, learning_rate=0.1),
    "mlp": Recipe("mlp", "sgd", (512,), epochs=20, batch_size=64, learning_rate=0.3, schedule="cosine"),
}
_CNN = Recipe("cnn", "adam", (256,), 8, 256, 0.01, "one-cycle", betas=(0.7, 0.9), weight_decay=0.01, filters=(24, 32))


def choose_recipe(
    class_count: int, model: ModelName | None = None, optimizer: OptimizerName | None = None, **chosen: Any
) -> Recipe:
    """The recipe with everything that the person chose (not None), and our choice for the rest.

    Raises ValueError, naming the option, for a choice that cannot be trained.
    """
    model = model or ("mlp" if class_count == 2 else "flax_mlp")
    ours = _our_recipe(class_count, model)
    if optimizer not in (None, ours.optimizer):
        sgd = 0.1 if model == "cnn" else ours.learning_rate
        rates = {"sgd": sgd, "momentum": sgd / 10, "adam": 1e-3}
        ours = ours._replace(optimizer=optimizer, learning_rate=rates[optimizer])
    recipe = ours._replace(**{name: value for name, value in chosen.items() if value is not None})
    _check(recipe, class_count)
    return recipe


def _our_recipe(class_count: int, model: ModelName) -> Recipe:
    if model == "cnn":
        return _CNN if class_count == 2 else _CNN._replace(label_smoothing=0.1)
    return (_TWO_CLASSES if class_count == 2 else _MORE_CLASSES)[model.removeprefix("flax_")]._replace(model=model)


def _check(recipe: Recipe, class_count: int) -> None:
    for name in ("epochs", "batch_size"):
        if getattr(recipe, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(recipe, name)}")
    if not (math.isfinite(recipe.learning_rate) and recipe.learning_rate > 0):
        raise ValueError(f"--learning-rate must be a positive number, not {recipe.learning_rate}")
    if not (math.isfinite(recipe.weight_decay) and recipe.weight_decay >= 0):
        raise ValueError(f"--weight-decay must be 0 or more, not {recipe.weight_decay}")
    for name, values in {"betas": recipe.betas, "label_smoothing": [recipe.label_smoothing]}.items():
        if not all(0 <= value < 1 for value in values):
            raise ValueError(f"--{name.replace('_', '-')} must be in [0, 1), not {getattr(recipe, name)}")
    if recipe.clip_norm is not None and not (math.isfinite(recipe.clip_norm) and recipe.clip_norm > 0):
        raise ValueError(f"--clip-norm must be a positive number, not {recipe.clip_norm}")
    if recipe.ema is not None and not 0 < recipe.ema < 1:
        raise ValueError(f"--ema must be in (0, 1), such as 0.999, not {recipe.ema}")
    if not 0 <= recipe.shift < 28:
        raise ValueError(f"--shift must be in 0..27 pixels, not {recipe.shift}")
    if not 0 <= recipe.rotation <= 180:
        raise ValueError(f"--rotation must be in [0, 180] degrees, not {recipe.rotation}")
    if recipe.model == "linear" and recipe.hidden:
        raise ValueError(f"--hidden {recipe.hidden}: a linear model has no hidden layers; choose mlp or flax_mlp")
    if recipe.model != "cnn" and recipe.filters:
        raise ValueError(f"--filters {recipe.filters}: only cnn has convolutions, not {recipe.model}")
    if class_count == 2 and recipe.label_smoothing:
        raise ValueError("--label-smoothing is for more than two classes: it belongs to softmax cross entropy")


def make_model(recipe: Recipe, class_count: int) -> Model:
    """The recipe's model, with one column of logits for two classes.

    A cnn's first kernel is 5x5, the others are 3x3. Raises ValueError, naming the sizes, for a net that cannot be.
    """
    model = _make_model(recipe, 1 if class_count == 2 else class_count)
    return mixed_precision(model) if recipe.bfloat16 else model


def _make_model(recipe: Recipe, columns: int) -> Model:
    sizes = (784, *recipe.hidden, columns)
    if recipe.model in ("flax_mlp", "cnn"):
        from ..models.flax import cnn, flax_mlp

        kernels = (5, *[3] * (len(recipe.filters) - 1))
        return flax_mlp(sizes) if recipe.model == "flax_mlp" else cnn(recipe.filters, kernels, recipe.hidden, columns)
    return linear(784, columns) if recipe.model == "linear" else mlp(sizes)


def make_loss(class_count: int, label_smoothing: float = 0.0) -> LossFunction:
    """The chapter's loss for two classes, softmax cross entropy for more."""
    if class_count == 2:
        return mnist_loss
    if label_smoothing:
        return functools.partial(softmax_cross_entropy, label_smoothing=label_smoothing)
    return softmax_cross_entropy


def make_learner(recipe: Recipe, image_count: int, class_count: int, sweep_learning_rate: bool = False) -> Learner:
    """Return the recipe as a Learner for this many training images and classes.

    With `sweep_learning_rate` the learning rate is in the optimizer's state, where `fit_many` sets it.
    """
    optimizer = make_optimizer(recipe, image_count)
    if sweep_learning_rate:
        make = functools.partial(make_optimizer, recipe, image_count)
        optimizer = optax.inject_hyperparams(lambda learning_rate: make(learning_rate))(recipe.learning_rate)
    return Learner(
        make_model(recipe, class_count),
        make_loss(class_count, recipe.label_smoothing),
        optimizer,
        recipe.batch_size,
        augment=make_augment(recipe.shift, recipe.rotation),
    )


def make_augment(shift: int, rotation: float) -> Augment | None:
    """Random shifts by so many pixels at most and rotations by so many degrees at most, or None for neither."""
    if not shift and not rotation:
        return None

    def augment(key: Any, x: Any) -> Any:
        shift_key, rotation_key = jax.random.split(key)
        x = random_rotation(rotation_key, x, rotation) if rotation else x
        return random_shift(shift_key, x, shift) if shift else x

    return augment


def make_optimizer(
    recipe: Recipe, image_count: int, learning_rate: float | jax.Array | None = None
) -> optax.GradientTransformation:
    """Optax's optimizer for so many training images, at the recipe's rate or at another.

    "momentum" is SGD with momentum 0.9. Weight decay is decoupled from the gradient, as in AdamW (Loshchilov and
    Hutter 2019, arXiv 1711.05101). Gradients are clipped before all else, by the norm of all of them together.
    """
    clip = optax.identity() if recipe.clip_norm is None else optax.clip_by_global_norm(recipe.clip_norm)
    decay = optax.add_decayed_weights(recipe.weight_decay) if recipe.weight_decay else optax.identity()
    b1, b2 = recipe.betas
    scale = {
        "sgd": optax.identity,
        "momentum": functools.partial(optax.trace, 0.9),
        "adam": functools.partial(optax.scale_by_adam, b1, b2),
    }[recipe.optimizer]()
    rate = make_schedule(recipe, image_count, learning_rate)
    optimizer = optax.chain(clip, scale, decay, optax.scale_by_learning_rate(rate))
    return optimizer if recipe.ema is None else with_ema(optimizer, recipe.ema)


def make_schedule(recipe: Recipe, image_count: int, learning_rate: float | jax.Array | None = None) -> Any:
    """The learning rate, or what gives it for each step from 0 on where it changes."""
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    if recipe.schedule == "constant":
        return rate
    shape = _SCHEDULES[recipe.schedule](recipe.epochs * -(-image_count // recipe.batch_size))
    return functools.partial(_scheduled, shape, rate)


_SCHEDULES = {
    "cosine": functools.partial(optax.cosine_decay_schedule, 1.0),
    "one-cycle": functools.partial(optax.cosine_onecycle_schedule, peak_value=1.0),
}
"""By name: the number of steps -> the share of the highest rate at each."""


def _scheduled(shape: optax.Schedule, rate: Any, step: Any) -> Any:
    return rate * shape(step)
