"""What the commands share: the device they run on, and how they end."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import tyro
from tyro.conf import arg

Platform = Annotated[
    Literal["cpu", "gpu", "tpu"] | None, arg(metavar="{cpu,gpu,tpu}", help_behavior_hint="(default: JAX's choice)")
]

EXIT_OK, EXIT_TARGET_MISSED, EXIT_BAD_INPUT = 0, 1, 2


def command(config_type: Any, run: Callable[[Any], int], args: Sequence[str] | None = None, prog: str = "") -> int:
    """Parse the arguments into the configuration and run it; bad input is one line and exit code 2."""
    config = tyro.cli(config_type, args=args, prog=prog or None, config=(tyro.conf.OmitArgPrefixes,))
    try:
        return run(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def script(config_type: Any, run: Callable[[Any], int]) -> Callable[..., int]:
    """The `main(args=None) -> exit code` of a command that is a script of its own."""
    return functools.partial(command, config_type, run)


def use_platform(platform: Platform) -> Any:
    """The first device of the platform that was asked for, and nothing else: no silent fall back to the CPU.

    It must come before any other use of JAX. Raises ValueError where there is no such device.
    """
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        raise ValueError(f"--platform {platform}: JAX finds no such device here ({error})") from error
    if jax.default_backend() != device.platform:
        raise ValueError(f"--platform {platform}: JAX uses {jax.default_backend()} here, see JAX_PLATFORMS")
    return device


def use_one_thread() -> None:
    """Let XLA compute on one thread of the CPU, so that the order of its sums is the same on any number of cores.

    It must come before any other use of JAX. Raises ValueError where it comes too late.
    """
    try:
        jax.config.update("jax_num_cpu_devices", 1)
    except RuntimeError as error:
        raise ValueError("--deterministic must come before JAX is used in this process") from error
    os.environ["NPROC"] = "1"  # XLA's own; --xla_cpu_multi_thread_eigen=false leaves the threads as they are


def describe(device: Any) -> str:
    """The device as a person would name it: "cpu, 1 device, jax 0.10.2"."""
    count = jax.device_count()
    kind = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    return f"{device.platform}{kind}, {count} device{'s' if count > 1 else ''}, jax {jax.__version__}"
