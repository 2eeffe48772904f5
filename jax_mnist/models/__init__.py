"""Models: pairs of pure functions `init(key) -> params` and `apply(params, x) -> logits`."""

from typing import TYPE_CHECKING

import lazy_loader

from .dense import linear, mlp
from .precision import matmul_precision, mixed_precision

if TYPE_CHECKING:
    from .conv import Conv, conv2d, max_pool
    from .flax import cnn, flax_mlp, from_flax

__getattr__, _, _ = lazy_loader.attach(
    __name__, submod_attrs={"conv": ["Conv", "conv2d", "max_pool"], "flax": ["cnn", "flax_mlp", "from_flax"]}
)  # they import Flax

__all__ = [  # noqa: RUF022, from the simple to the large
    "linear",
    "mlp",
    "flax_mlp",
    "cnn",
    "from_flax",
    "mixed_precision",
    "matmul_precision",
    "conv2d",
    "max_pool",
    "Conv",
]
