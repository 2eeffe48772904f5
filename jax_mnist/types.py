"""The data types that the other modules pass along: data, models, and what training carries and reports."""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, overload

import jax
import numpy as np

ArrayLike = jax.Array | np.ndarray
"""The arrays that functions take, on a device or in NumPy. What they return is on a device."""

Params = Any
"""A model's parameters: any pytree of arrays."""

LossFunction = Callable[[Any, Any], Any]
"""logits [b, c], labels [b] -> one loss per example [b]."""

Augment = Callable[[Any, Any], Any]
"""key, x [b, i] -> x [b, i]: a random change of the images of a batch, such as `random_shift`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their labels.

    `images` is uint8 [n, h, w] with pixels in 0..255 (0 is the background), or float in [0, 1]; `labels` is int32 [n],
    or None for images that are only predicted.
    `len()` counts the images and `dataset[i]` is (image, label), which is all that PyTorch's DataLoader and grain need.
    A slice, or an array of indices or bools, gives the Dataset of those images. Raises IndexError for an index out of
    range.

    >>> dataset = Dataset(np.zeros((2, 28, 28), np.uint8), np.array([3, 7], np.int32))
    >>> len(dataset), int(dataset[-1][1]), len(dataset[:1]), dataset[dataset.labels == 7].labels
    (2, 7, 1, array([7], dtype=int32))
    >>> from torch.utils.data import DataLoader
    >>> images, labels = next(iter(DataLoader(dataset, batch_size=2)))
    >>> images.shape, labels.tolist()
    (torch.Size([2, 28, 28]), [3, 7])
    """

    images: Any  # not ArrayLike: JAX rebuilds a pytree with placeholders instead of arrays
    labels: Any = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @overload
    def __getitem__(self, index: int | np.integer) -> tuple[Any, Any]: ...

    @overload
    def __getitem__(self, index: slice | ArrayLike | Sequence[int]) -> "Dataset": ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return jax.tree.map(lambda array: array[index], self)
        # JAX clamps an index that is out of range, so a plain `for` over a dataset would never end.
        if np.ndim(index):
            indices = np.arange(len(self))[np.asarray(index)]
            return jax.tree.map(lambda array: array[indices], self)
        number = range(len(self))[operator.index(index)]
        return self.images[number], None if self.labels is None else self.labels[number]


class Splits(NamedTuple):
    """The two parts of a dataset: `train` is trained on, `valid` is evaluated after every epoch.

    `valid` is the dataset's own test set, unless `hold_out` made it. `load("mnist")` and its relatives give the test
    set, `load("mnist_sample")` the chapter's `valid` folder, which holds test images of MNIST, and a folder of images
    its valid/ or test/. `hold_out` makes a validation set, of training images set aside. Choose hyperparameters and
    the number of epochs on those; then the test set still says how good the choice is.
    """

    train: Dataset
    valid: Dataset


class Batch(NamedTuple):
    """The input of one step: x float [b, h*w] with pixels in [0, 1], y int32 [b], mask bool [b], False for padding.

    `y` is None for images without labels.
    """

    x: jax.Array
    y: Any  # jax.Array or None
    mask: jax.Array


class Layer(NamedTuple):
    """The parameters of one layer: weights [i, o] and bias [o], both float."""

    weights: jax.Array
    bias: jax.Array


class Model(NamedTuple):
    """A model as pure functions: `init(key) -> params` and `apply(params, x [b, i]) -> logits [b, c]`.

    A model that computes something else while it trains, such as dropout or batch statistics, has a third one,
    `apply_train(params, x, key) -> (logits, updates)`. `updates` holds the new values of the parameters that the
    forward pass itself changes: a prefix pytree of the parameters, with None for those that the optimizer trains.
    """

    init: Callable[..., Params]
    apply: Callable[..., Any]
    apply_train: Callable[..., tuple[Any, Any]] | None = None


class Learner(NamedTuple):
    """What is trained and how: a model, a loss, an optax optimizer, and how the images are batched.

    A Learner holds no data and no parameters. It is immutable and hashable, and the compiled functions take it as a
    static argument: an equal Learner compiles once. Build it once and keep it, since `optax.sgd(0.1)`, lambdas and
    `functools.partial` are equal only to themselves. Models made twice with the same arguments are equal:
    `mlp((784, 30, 1)) == mlp([784, 30, 1])`.

    `loss_fn` maps logits [b, c] and labels [b] to one loss per example [b]. `batch_size` is the number of images in a
    step, `shuffle` draws a new order for every epoch, and `augment(key, x)` changes the images of each batch at random.
    `unroll` is the number of steps in an iteration of the compiled loop. With more than one, XLA merges the end
    of a step with the beginning of the next: a GPU launches fewer kernels, but the program takes longer to compile.

    >>> import optax
    >>> from jax_mnist import mlp, mnist_loss
    >>> learner = Learner(mlp((784, 30, 1)), mnist_loss, optax.sgd(0.1))
    >>> learner.batch_size, learner == learner._replace(batch_size=256), learner == learner._replace(shuffle=False)
    (256, True, False)
    """

    model: Model
    loss_fn: LossFunction
    optimizer: Any  # optax.GradientTransformation; Any keeps this file free of optax
    batch_size: int = 256
    shuffle: bool = True
    augment: Augment | None = None
    unroll: int = 1


class TrainState(NamedTuple):
    """All that training carries from one epoch to the next.

    `params` and `opt_state` are the model's and the optimizer's, `epoch` int32 [] counts the finished epochs, and
    `key` is the PRNG key from which every epoch's order and randomness are derived.
    """

    params: Params
    opt_state: Any
    epoch: jax.Array
    key: jax.Array


class Metrics(NamedTuple):
    """The mean loss over a dataset, the accuracy in [0, 1], and the number of images, each an array []."""

    loss: jax.Array
    accuracy: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]


class EpochRecord(NamedTuple):
    """The record of one epoch.

    `train_loss` is the mean over the training images, each seen before its batch's step; `valid_loss` and `accuracy`
    are those of `Splits.valid` after the epoch. `seconds` is the time of training, without evaluation and compilation.
    """

    epoch: int
    train_loss: float
    valid_loss: float
    accuracy: float
    seconds: float
    evaluation_seconds: float


class History(NamedTuple):
    """The records of a run as columns: one array [epochs] for each field of EpochRecord."""

    epoch: np.ndarray
    train_loss: np.ndarray
    valid_loss: np.ndarray
    accuracy: np.ndarray
    seconds: np.ndarray
    evaluation_seconds: np.ndarray

    @classmethod
    def from_records(cls, records: Iterable[EpochRecord]) -> "History":
        """Return the records of a run as columns.

        >>> records = [EpochRecord(1, 0.5, 0.4, 0.9, 0.01, 0.001), EpochRecord(2, 0.3, 0.3, 0.95, 0.01, 0.001)]
        >>> History.from_records(records).accuracy
        array([0.9 , 0.95])
        """
        records = list(records)
        return cls(*(np.array([record[i] for record in records]) for i in range(len(cls._fields))))
