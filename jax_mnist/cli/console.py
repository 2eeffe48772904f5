"""Shared parts of the commands: parsing, presets, device selection, the console, exit codes."""

import atexit
import functools
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro
from rich.console import Console
from tyro.conf import arg
from tyro.extras import subcommand_type_from_defaults

from ..recipes import RECIPES, SUMMARIES, Recipe
from ..words import count_of

# At exit Python would search all imported objects for garbage, which takes 0.2 s.
atexit.register(gc.freeze)

EXIT_OK, EXIT_TARGET_MISSED, EXIT_BAD_INPUT = 0, 1, 2


def optional(metavar: str, default: str = "none") -> Any:
    """Return how `--help` shows an option that is None by default."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


Platform = Annotated[Literal["cpu", "gpu", "tpu"] | None, optional("{cpu,gpu,tpu}", "JAX's choice")]

if TYPE_CHECKING:
    Preset = Recipe
else:
    # The name of a preset comes first, without an option; each of its values is then an option with its default.
    Preset = subcommand_type_from_defaults(RECIPES, SUMMARIES, prefix_names=False)


def command(config_type: Any, run: Callable[[Any], int], args: Sequence[str] | None = None, prog: str = "") -> int:
    """Parse the arguments into the configuration and run it; bad input is one line and exit code 2."""
    flags = (
        tyro.conf.OmitArgPrefixes,
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.CascadeSubcommandArgs,  # the command's own options may follow the name of the preset
        tyro.conf.FlagCreatePairsOff,  # --tensorboard, without a --no-tensorboard
    )
    config = tyro.cli(config_type, args=args, prog=prog or None, config=flags)
    try:
        return run(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def script(config_type: Any, run: Callable[[Any], int]) -> Callable[..., int]:
    """Return the `main(args=None) -> exit code` of a command that is also a script."""
    return functools.partial(command, config_type, run)


def require_positive(config: Any, *names: str) -> None:
    """Raise ValueError, naming the option, for an option that is given and below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")


def use_platform(platform: Platform) -> Any:
    """Return the first device of the platform, by default of JAX's choice, without falling back to another platform.

    Call it before any other use of JAX. Raises ValueError if JAX finds no such device.
    """
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        wanted = "device" if platform is None else f"device for --platform {platform}"
        raise ValueError(f"JAX finds no {wanted} ({error})") from error
    if jax.default_backend() != device.platform:
        raise ValueError(f"--platform {platform}: JAX uses {jax.default_backend()}; unset JAX_PLATFORMS")
    return device


def use_one_thread() -> None:
    """Make XLA compute on one CPU thread, so that the order of its sums is the same on any number of cores.

    Call it before any other use of JAX. Raises ValueError if it is too late.
    """
    try:
        jax.config.update("jax_num_cpu_devices", 1)
    except RuntimeError as error:
        raise ValueError("--deterministic must be set before JAX is used in this process") from error
    os.environ["NPROC"] = "1"  # read by XLA; --xla_cpu_multi_thread_eigen=false does not change the threads


def make_console(**options: Any) -> Console:
    """Return a console that prints paths and messages as they are: no markup, emoji, colors or line breaks."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)


def show_reading(console: Console) -> dict[str, Any]:
    """Return the options of `load` that show on a console what is prepared, and what was done or left out."""
    from rich.progress import track

    progress = functools.partial(track, description="preparing pictures", console=console, transient=True)
    return {"report": lambda note: console.print(f"note: {note}"), "progress": progress}


def describe(device: Any) -> str:
    """Return a device in words: "cpu, 1 device, jax 0.10.2"."""
    count = jax.device_count()
    kind = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    return f"{device.platform}{kind}, {count_of(count, 'device')}, jax {jax.__version__}"
