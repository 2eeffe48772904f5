"""The options of `train`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from .console import Platform
from .recipes import ModelName, OptimizerName, ScheduleName

_SEE_ABOVE = "(default: see above)"
_NONE = "(default: none)"
_LAST = Path("runs/last")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a digit classifier, show how it goes, and write the run into a directory.

    Defaults for two classes are the chapter's: its two-layer net, mlp with 30 hidden units, 40 epochs of SGD in
    batches of 256 at rate 0.1. For more they are flax_mlp, 512 hidden units, 20 epochs, batches of 64, and a rate that
    falls from 0.3 to 0 along a cosine. cnn, with 24 and 32 filters, is trained for 8 epochs of one cycle of adam, with
    weight decay and label smoothing, up to rate 0.01.
    """

    dataset: str = "mnist_sample"
    """mnist_sample (3 or 7), mnist (ten digits), fashion_mnist, kmnist, tfds:NAME, or a directory of IDX files or
    images; `python -m jax_mnist datasets` lists what is here."""
    model: Annotated[ModelName | None, arg(metavar="{linear,mlp,flax_mlp,cnn}", help_behavior_hint=_SEE_ABOVE)] = None
    """linear and mlp are the chapter's own functions, flax_mlp and cnn are Flax NNX modules."""
    hidden: Annotated[tuple[int, ...] | None, arg(metavar="[INT ...]", help_behavior_hint=_SEE_ABOVE)] = None
    """Sizes of the hidden layers; of cnn those that follow its convolutions."""
    filters: Annotated[tuple[int, ...] | None, arg(metavar="[INT ...]", help_behavior_hint=_SEE_ABOVE)] = None
    """Numbers of filters of cnn's convolutions, each followed by a pooling; the first are 5x5, the others 3x3."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_SEE_ABOVE)] = None
    """How often every training image is seen."""
    batch_size: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_SEE_ABOVE)] = None
    """Images a step."""
    learning_rate: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_SEE_ABOVE)] = None
    """The optimizer's step size; where left out, a tenth of SGD's with momentum, and 0.001 with adam."""
    optimizer: Annotated[OptimizerName | None, arg(metavar="{sgd,momentum,adam}", help_behavior_hint=_SEE_ABOVE)] = None
    """Optax's; momentum is SGD with momentum 0.9."""
    schedule: Annotated[
        ScheduleName | None, arg(metavar="{constant,cosine,one-cycle}", help_behavior_hint=_SEE_ABOVE)
    ] = None
    """How the learning rate changes, step by step: one-cycle rises to it and falls to 0, as fastai's fit_one_cycle."""
    betas: Annotated[tuple[float, float] | None, arg(metavar="FLOAT FLOAT", help_behavior_hint=_SEE_ABOVE)] = None
    """How much adam keeps of its mean gradient and of its mean square, each step."""
    weight_decay: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_SEE_ABOVE)] = None
    """The share of the parameters, times the learning rate, that each step takes away."""
    label_smoothing: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_SEE_ABOVE)] = None
    """The share of each label that is spread over all classes; for more than two classes."""
    clip_norm: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_NONE)] = None
    """Scale a gradient down to this norm, over all parameters together, where it is longer."""
    ema: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_NONE)] = None
    """Evaluate and keep the exponential moving average of the parameters, of which each step keeps this share."""
    shift: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_NONE)] = None
    """Move each training image by up to so many pixels in each direction, anew each time."""
    rotation: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_NONE)] = None
    """Turn each training image by up to so many degrees, anew each time."""
    bfloat16: bool = False
    """Compute in bfloat16; the parameters stay float32."""
    seed: int = 0
    """Draws the parameters and the order of the images: the same seed gives the same run."""
    seeds: int = 1
    """Train so many seeds from this one on; the files are the first one's, result.json tells of all."""
    hold_out: int = 0
    """Validate on so many training images, set apart, instead of on the validation set."""
    patience: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_NONE)] = None
    """Stop after so many epochs without a lower loss on held-out images, and keep the best epoch; with --hold-out."""
    max_seconds: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_NONE)] = None
    """Stop after the epoch with which training and evaluation have taken so long, a resumed run's earlier parts too."""
    target_accuracy: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_NONE)] = None
    """End with exit code 1 when the last accuracy, the mean over the seeds, is below this, in [0, 1]."""
    out: Path = _LAST
    """Where config.json, history.csv, result.json, model.safetensors, checkpoints and the pictures go."""
    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: each epoch, if 5 s have passed, and the last)")
    ] = None
    """Write checkpoint-EPOCH.safetensors after every so many epochs; the newest two are kept."""
    resume: Annotated[Path | None, arg(metavar="RUN", help_behavior_hint=_NONE)] = None
    """Go on from the last good checkpoint of RUN, or start it where there is none; instead of --out, all else equal."""
    deterministic: bool = False
    """Compute on one thread, for the same bits on any number of cores."""
    tensorboard: bool = False
    """Write TensorBoard's event files into out/tensorboard, epoch by epoch; needs jax_mnist[tensorboard]."""
    debug_nans: bool = False
    """Where the loss turns NaN or infinite, find the operation that did it."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""
    devices: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1; of several processes, all)")] = (
        None
    )
    """Split each batch over so many devices, in each process; on a CPU they are virtual ones."""
    processes: int = 1
    """Start so many processes on this machine, to try it out."""
    distributed: bool = False
    """Be one of the processes that Slurm, a TPU pod or Open MPI has started."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint=_NONE)] = None
    """Be one of several processes, started by hand; the address is that of the first."""
    process_id: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_NONE)] = None
    """Which one of them, from 0."""
    num_processes: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_NONE)] = None
    """How many there are."""


def check_config(config: TrainConfig) -> None:
    """Raise ValueError for options that do not go together, before anything is read."""
    if config.target_accuracy is not None and not 0 <= config.target_accuracy <= 1:
        raise ValueError(f"--target-accuracy must be in [0, 1], such as 0.98, not {config.target_accuracy}")
    for name in ("seeds", "patience", "checkpoint_every"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")
    if config.max_seconds is not None and not config.max_seconds > 0:
        raise ValueError(f"--max-seconds must be positive, not {config.max_seconds}")
    if config.patience is not None and not config.hold_out:
        raise ValueError(
            "--patience chooses an epoch, and what chooses must not see the validation set: give --hold-out as well, "
            "such as --hold-out 2000"
        )
    if config.seeds > 1 and (config.patience is not None or config.max_seconds is not None):
        raise ValueError("--seeds trains all for the same epochs: it goes with neither --patience nor --max-seconds")
    if config.resume is not None and config.out not in (_LAST, config.resume):
        raise ValueError(f"--resume {config.resume} writes there; leave out --out {config.out}")
