"""Recipes: presets as data, and the Learner that each of them is."""

import functools
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import optax

from .data.augment import random_affine, random_shift
from .data.load import class_names, hold_out, load, load_train
from .losses import mnist_loss, softmax_cross_entropy
from .models.dense import linear, mlp
from .models.precision import matmul_precision, mixed_precision
from .training.ema import with_ema
from .types import Augment, Learner, LossFunction, Model, Params, Splits

ModelName = Literal["linear", "mlp", "flax_mlp", "cnn"]
OptimizerName = Literal["sgd", "momentum", "adam", "muon"]
Precision = Literal["default", "high", "highest"]
ScheduleName = Literal["constant", "linear", "cosine", "one-cycle"]


class Recipe(NamedTuple):
    """The dataset, model and hyperparameters of a training run; the defaults are the chapter's two-layer net.

    >>> RECIPES["mnist-cnn"]._replace(epochs=6).learning_rate
    0.007
    """

    dataset: str = "mnist_sample"
    """mnist_sample (3 or 7), mnist, fashion_mnist, kmnist, tfds:NAME, or a path."""
    model: ModelName = "mlp"
    """The chapter's linear or mlp, or the Flax modules flax_mlp or cnn."""
    hidden: tuple[int, ...] = (30,)
    """Sizes of the hidden layers; for a cnn, of those after its convolutions."""
    filters: tuple[int, ...] = ()
    """Filters of a cnn's convolutions: 5x5 with 2x2 pooling, 4x4 with stride 2, then 3x3."""
    epochs: int = 40
    """Passes over the training images."""
    batch_size: int = 256
    """Images per step, over all devices."""
    learning_rate: float = 0.1
    """Step size, or the schedule's peak; smaller for adam and muon than for sgd, such as 0.001."""
    optimizer: OptimizerName = "sgd"
    """Optax's; momentum is SGD with momentum 0.9, muon is Muon for convolutions and NAdam for the rest."""
    schedule: ScheduleName = "constant"
    """Linear and cosine fall to 0, linear after a short rise; one-cycle is fastai's fit_one_cycle."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam, also of Muon's NAdam."""
    weight_decay: float = 0.0
    """Decoupled weight decay, as in AdamW."""
    label_smoothing: float = 0.0
    """Share of each label spread over all classes; 0 for two classes."""
    clip_norm: float = 0.0
    """Maximum global norm of the gradient; 0 for no clipping."""
    ema: float = 0.0
    """Decay rate of an EMA of the parameters, which is evaluated and saved; 0 for none."""
    shift: int = 0
    """Maximum random shift of a training image, in pixels."""
    rotation: float = 0.0
    """Maximum random rotation of a training image, in degrees."""
    bfloat16: bool = False
    """Compute in bfloat16; the parameters stay float32."""
    matmul_precision: Precision = "default"
    """Of float32 matrix products: a TPU's default is bfloat16, a recent GPU's TF32; a CPU has only float32."""
    unroll: int = 1
    """Steps in an iteration of the compiled loop; more compile longer and launch fewer kernels on a GPU."""


_MNIST = Recipe("mnist", "flax_mlp", (512,), epochs=20, batch_size=64, learning_rate=0.3, schedule="cosine")
_CNN = Recipe(
    model="cnn", hidden=(), batch_size=128, learning_rate=0.007, optimizer="muon", schedule="linear", betas=(0.7, 0.9)
)
_MNIST_CNN = _CNN._replace(dataset="mnist", filters=(24, 64, 96), label_smoothing=0.1)

RECIPES: dict[str, Recipe] = {
    "chapter": Recipe(),
    "chapter-linear": Recipe(model="linear", hidden=(), epochs=20, learning_rate=1.0),
    "threes-sevens-cnn": _CNN._replace(filters=(8, 16, 32), epochs=5, shift=2, rotation=10),
    "mnist": _MNIST._replace(shift=1, rotation=15),
    "mnist-cnn": _MNIST_CNN._replace(epochs=3, shift=1, rotation=10),
    "mnist-cnn-augmented": _MNIST_CNN._replace(epochs=12, shift=2, rotation=10),
    "fashion": _MNIST._replace(dataset="fashion_mnist"),
}
"""The presets by name. All but the chapter's were chosen on held-out images; see docs/hyperparameters.md."""

SUMMARIES: dict[str, str] = {
    "chapter": "3 or 7, the chapter's two-layer net: accuracy 0.982 in 1 s",
    "chapter-linear": "3 or 7, the chapter's linear model: 0.982 in 0.1 s",
    "threes-sevens-cnn": "3 or 7, a small convolutional net: 0.998 in 2 s",
    "mnist": "ten digits, a Flax MLP: 0.989 in 23 s",
    "mnist-cnn": "ten digits, a convolutional net: 0.995 in 25 s",
    "mnist-cnn-augmented": "the same net for longer, with larger shifts: 0.996 in 102 s",
    "fashion": "Fashion-MNIST, a Flax MLP: 0.898 in 19 s",
}
"""Each preset in a line: mean accuracy on its evaluation images, and training time on 2 CPU cores."""


def read_data(dataset: str, held_out: float | int = 0, **options: Any) -> tuple[Splits, tuple[str, ...]]:
    """Load a dataset by name or path; return it with its class names.

    With `held_out`, `valid` is that many of the training images, or that fraction of them if it is below 1, the same
    ones for all seeds, and `train` the others; the dataset then needs no validation images. `options` are those of
    `load`. Raises ValueError or FileNotFoundError if the dataset cannot be read or has too few images.

    >>> splits, classes = read_data("mnist_sample", 2000)
    >>> len(splits.train), len(splits.valid), classes
    (10396, 2000, ('7', '3'))
    """
    if held_out:
        images = load_train(dataset, **options)
        count = max(int(held_out * len(images)), 1) if held_out < 1 else int(held_out)
        splits = hold_out(jax.random.key(0), images, count)
    else:
        splits = load(dataset, **options)
    return splits, class_names(dataset)


def make_learner(
    recipe: Recipe, image_count: int, class_count: int, *, learning_rate_in_state: bool = False
) -> Learner:
    """Return the Learner of a recipe for this many training images and classes.

    A schedule's length depends on the number of images. Two classes get one logit and the chapter's loss, more get
    softmax cross entropy. With `learning_rate_in_state` the rate is a leaf of the optimizer's state, as `fit_many` and
    `lr_find` need. Raises ValueError, naming the value, for a recipe that cannot be trained.

    >>> learner = make_learner(RECIPES["chapter"], 12_396, 2)
    >>> learner.batch_size, learner.loss_fn is mnist_loss
    (256, True)
    """
    _check(recipe, class_count)
    make = functools.partial(_make_optimizer, recipe, image_count)
    if learning_rate_in_state:
        # inject_hyperparams reads the signature, which must be that of a function of the rate only.
        optimizer = optax.inject_hyperparams(lambda learning_rate: make(learning_rate))(recipe.learning_rate)
    else:
        optimizer = make(recipe.learning_rate)
    model = _make_model(recipe, 1 if class_count == 2 else class_count)
    model = mixed_precision(model) if recipe.bfloat16 else model
    return Learner(
        model if recipe.matmul_precision == "default" else matmul_precision(model, recipe.matmul_precision),
        make_loss(class_count, recipe.label_smoothing),
        optimizer,
        recipe.batch_size,
        augment=_make_augment(recipe),
        unroll=recipe.unroll,
    )


def make_loss(class_count: int, label_smoothing: float = 0.0) -> LossFunction:
    """Return the chapter's loss for two classes, softmax cross entropy for more.

    >>> make_loss(10) is softmax_cross_entropy
    True
    """
    if class_count == 2:
        return mnist_loss
    if label_smoothing:
        return functools.partial(softmax_cross_entropy, label_smoothing=label_smoothing)
    return softmax_cross_entropy


def make_schedule(recipe: Recipe, image_count: int, learning_rate: float | jax.Array) -> optax.Schedule:
    """Return the learning rate as a function of the step, from 0 on, with the given peak.

    >>> schedule = make_schedule(RECIPES["mnist"], 60_000, 0.3)
    >>> round(float(schedule(0)), 6), round(float(schedule(20 * 938)), 6)
    (0.3, 0.0)
    """
    steps = recipe.epochs * math.ceil(image_count / recipe.batch_size)
    if recipe.schedule == "constant":
        return optax.constant_schedule(learning_rate)
    # A schedule with peak 1 is scaled, since fit_many maps the rate, and optax takes no traced peak.
    if recipe.schedule == "linear":
        rise = math.ceil(0.1 * steps)
        parts = optax.linear_schedule(0.1, 1.0, rise), optax.linear_schedule(1.0, 0.0, max(steps - rise, 1))
        shape = optax.join_schedules(parts, [rise])
    elif recipe.schedule == "cosine":
        shape = optax.cosine_decay_schedule(1.0, steps)
    else:
        shape = optax.cosine_onecycle_schedule(steps, peak_value=1.0)
    return lambda step: learning_rate * shape(step)


def _make_optimizer(recipe: Recipe, image_count: int, learning_rate: float | jax.Array) -> optax.GradientTransformation:
    """Return optax's optimizer: clipping, the optimizer's scaling, decoupled weight decay, the schedule, the EMA."""
    b1, b2 = recipe.betas
    scaling = {
        "sgd": optax.identity(),
        "momentum": optax.trace(0.9),
        "adam": optax.scale_by_adam(b1, b2),
        "muon": _scale_by_muon(b1, b2),
    }[recipe.optimizer]
    optimizer = optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm) if recipe.clip_norm else optax.identity(),
        scaling,
        optax.add_decayed_weights(recipe.weight_decay) if recipe.weight_decay else optax.identity(),
        optax.scale_by_learning_rate(
            # A constant is not made a schedule: it would count steps.
            learning_rate if recipe.schedule == "constant" else make_schedule(recipe, image_count, learning_rate)
        ),
    )
    return with_ema(optimizer, recipe.ema) if recipe.ema else optimizer


def _scale_by_muon(b1: float, b2: float) -> optax.GradientTransformation:
    """Return the scaling of Muon for kernels of convolutions, and of NAdam with decay rates b1 and b2 for the rest.

    NAdam is Adam with Nesterov momentum. Muon makes the singular values of an update nearly equal. It is scaled to the
    size of Adam's updates, so that one learning rate serves both. Sources: https://kellerjordan.github.io/posts/muon/,
    and for the scale https://arxiv.org/abs/2502.16982.
    """

    def axes(params: Params) -> Any:
        kernel = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
        return jax.tree.map(lambda leaf: kernel if leaf.ndim == 4 else None, params)

    # The rate -1 undoes the sign of a whole optimizer's updates.
    return optax.contrib.muon(
        -1.0, beta=0.9, consistent_rms=0.2, adam_b1=b1, adam_b2=b2, muon_weight_dimension_numbers=axes
    )


def _make_model(recipe: Recipe, columns: int) -> Model:
    if recipe.model == "linear":
        return linear(784, columns)
    sizes = (784, *recipe.hidden, columns)
    if recipe.model == "mlp":
        return mlp(sizes)
    from .models.flax import cnn, flax_mlp  # importing Flax takes a second

    if recipe.model == "flax_mlp":
        return flax_mlp(sizes)
    return cnn(recipe.filters, hidden=recipe.hidden, classes=columns)


def _make_augment(recipe: Recipe) -> Augment | None:
    if recipe.rotation:
        return functools.partial(random_affine, max_shift=recipe.shift, max_degrees=recipe.rotation)
    return functools.partial(random_shift, max_shift=recipe.shift) if recipe.shift else None


def _check(recipe: Recipe, class_count: int) -> None:
    def require(condition: bool, name: str, expected: str) -> None:
        if not condition:
            value = getattr(recipe, name)
            shown = " ".join(map(str, value)) or "none" if isinstance(value, tuple) else value
            raise ValueError(f"--{name.replace('_', '-')} must be {expected}, got {shown}")

    choices_of = {"model": ModelName, "optimizer": OptimizerName, "schedule": ScheduleName}
    for name, choices in (choices_of | {"matmul_precision": Precision}).items():
        require(getattr(recipe, name) in get_args(choices), name, f"one of {', '.join(get_args(choices))}")
    if class_count < 2:
        raise ValueError(f"--dataset must have two classes or more, got {class_count}")
    require(recipe.epochs >= 1, "epochs", "1 or more")
    require(recipe.batch_size >= 1, "batch_size", "1 or more")
    require(0 < recipe.learning_rate < math.inf, "learning_rate", "a positive number")
    require(all(0 <= beta < 1 for beta in recipe.betas), "betas", "in [0, 1)")
    require(0 <= recipe.weight_decay < math.inf, "weight_decay", "0 or more")
    require(0 <= recipe.label_smoothing < 1, "label_smoothing", "in [0, 1)")
    require(class_count > 2 or not recipe.label_smoothing, "label_smoothing", "0 for two classes")
    require(0 <= recipe.clip_norm < math.inf, "clip_norm", "0 or more")
    require(0 <= recipe.ema < 1, "ema", "in [0, 1), such as 0.999")
    require(0 <= recipe.shift < 28, "shift", "in 0..27 pixels")
    require(0 <= recipe.rotation <= 180, "rotation", "in [0, 180] degrees")
    require(recipe.unroll >= 1, "unroll", "1 or more")
    require(recipe.model != "linear" or not recipe.hidden, "hidden", "empty for a linear model")
    require(recipe.model != "cnn" or bool(recipe.filters), "filters", "one or more sizes for a cnn, such as 24 64 96")
    require(recipe.model == "cnn" or not recipe.filters, "filters", "empty for a model without convolutions")
