"""The data types that every other file passes along; no logic."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import jax
import numpy as np

ArrayLike = jax.Array | np.ndarray
"""What functions take: arrays on the device or in NumPy. What they return is on the device."""

Params = Any
"""A model's parameters: any pytree of arrays."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their labels.

    `images` is uint8 [n, h, w] with pixels in 0..255 (0 is background), `labels` int32 [n]. `len()` counts
    the images and `dataset[i]` is (image, label), which is all that PyTorch's DataLoader and grain ask for. A slice or
    an array, of places or of bools, gives the Dataset of these images. Raises IndexError for a place outside.

    >>> dataset = Dataset(np.zeros((2, 28, 28), np.uint8), np.array([3, 7], np.int32))
    >>> len(dataset), int(dataset[-1][1]), len(dataset[:1]), dataset[dataset.labels == 7].labels
    (2, 7, 1, array([7], dtype=int32))
    >>> from torch.utils.data import DataLoader
    >>> images, labels = next(iter(DataLoader(dataset, batch_size=2)))
    >>> images.shape, labels.tolist()
    (torch.Size([2, 28, 28]), [3, 7])
    """

    images: Any  # not ArrayLike, since JAX rebuilds a pytree with placeholders in its leaves' places
    labels: Any

    def __len__(self) -> int:
        return self.labels.shape[0]

    @overload
    def __getitem__(self, index: int | np.integer) -> tuple[Any, Any]: ...

    @overload
    def __getitem__(self, index: slice | ArrayLike | Sequence[int]) -> "Dataset": ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Dataset(self.images[index], self.labels[index])
        # JAX clamps an index that is out of range, so a plain `for` over a dataset would never end.
        if np.ndim(index):
            places = np.arange(len(self))[np.asarray(index)]
            return Dataset(self.images[places], self.labels[places])
        place = range(len(self))[operator.index(index)]
        return self.images[place], self.labels[place]


class Splits(NamedTuple):
    """A dataset's two parts: the images to learn from and the images to judge by."""

    train: Dataset
    valid: Dataset


class Batch(NamedTuple):
    """What one step sees: x float [b, h*w] with pixels in [0, 1], y int32 [b], mask bool [b], False at padding."""

    x: jax.Array
    y: jax.Array
    mask: jax.Array


class Layer(NamedTuple):
    """One layer's parameters: weights [i, o] and bias [o], both float."""

    weights: jax.Array
    bias: jax.Array


class Model(NamedTuple):
    """A pair of pure functions: `init(key) -> params` and `apply(params, x [b, i]) -> scores [b, c]`.

    A model that computes something else while it trains has a third, `train(params, x, key) -> (scores, changes)`.
    `changes` is a pytree like the parameters, holding what takes a parameter's place after the step, such as batch
    statistics, and None in the place of those that the gradient moves.
    """

    init: Callable[..., Params]
    apply: Callable[..., Any]
    train: Callable[..., tuple[Any, Any]] | None = None


class TrainState(NamedTuple):
    """All that training carries from one epoch to the next; `epoch` counts those done, `key` orders the images."""

    params: Params
    opt_state: Any
    epoch: jax.Array
    key: jax.Array


class Metrics(NamedTuple):
    """A dataset's mean loss, share of right answers in [0, 1], and the number of images they are taken over."""

    loss: jax.Array
    accuracy: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]


class Row(NamedTuple):
    """One epoch's record: `seconds` is its training alone, without evaluation and compilation."""

    epoch: int
    train_loss: float
    valid_loss: float
    accuracy: float
    seconds: float
    evaluation_seconds: float


class History(NamedTuple):
    """The rows of a run as columns: one array [epochs] for each field of Row."""

    epoch: np.ndarray
    train_loss: np.ndarray
    valid_loss: np.ndarray
    accuracy: np.ndarray
    seconds: np.ndarray
    evaluation_seconds: np.ndarray
