"""Chapter 4 by hand, the place to start.

`baseline` compares pixels with the mean digits, `from_scratch` is gradient descent in the chapter's seven steps, and
`parabola` is the chapter's worked example, the roller coaster.
"""

from .baseline import class_means, l1_distance, l2_distance, nearest_mean
from .from_scratch import gradient, init_params, linear_layer, loss, predict, step, update
from .parabola import Quadratic, descend, measured_speeds, quadratic, quadratic_loss

__all__ = [  # noqa: RUF022, in the chapter's order
    "class_means",
    "l1_distance",
    "l2_distance",
    "nearest_mean",
    "init_params",
    "linear_layer",
    "predict",
    "loss",
    "gradient",
    "step",
    "update",
    "Quadratic",
    "measured_speeds",
    "quadratic",
    "quadratic_loss",
    "descend",
]
