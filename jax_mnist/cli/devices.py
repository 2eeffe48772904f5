"""Devices and processes of `train`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import Mesh

from ..training.mesh import data_mesh
from .console import EXIT_BAD_INPUT, require_positive

_MAX_DEVICES = 64  # more virtual devices than that only wait for each other
_HEARTBEAT_SECONDS = 20  # without a heartbeat for this long, a process is considered dead, and the others end


def set_up_devices(config: Any) -> None:
    """Create this process's CPU devices and connect it with the other processes, if any.

    Call it before any other use of JAX. Raises ValueError, naming the option, for options that do not go together.
    """
    require_positive(config, "devices", "num_processes")
    if config.devices is not None and config.devices > _MAX_DEVICES:
        raise ValueError(f"--devices must be in 1..{_MAX_DEVICES} per process, got {config.devices}")
    by_hand = (config.coordinator, config.process_id, config.num_processes)
    if by_hand != (None, None, None) and None in by_hand:
        raise ValueError("--coordinator HOST:PORT, --process-id I and --num-processes N must be given together")
    if config.coordinator is not None and not config.coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator must be HOST:PORT, such as localhost:1234, got {config.coordinator}")
    if config.coordinator is not None and not 0 <= config.process_id < config.num_processes:
        raise ValueError(f"--process-id must be in 0..{config.num_processes - 1}, got {config.process_id}")
    if config.coordinator is not None and config.distributed:
        raise ValueError("--coordinator and --distributed are mutually exclusive")

    if config.devices is not None:
        try:
            jax.config.update("jax_num_cpu_devices", config.devices)
        except RuntimeError as error:
            raise ValueError("--devices must be set before JAX is used in this process") from error
    # It would install a handler of its own for SIGTERM, in C++, in place of that of `exit_on_signals`.
    jax.config.update("jax_enable_preemption_service", False)
    timeouts: dict[str, Any] = {
        "heartbeat_timeout_seconds": _HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": _HEARTBEAT_SECONDS,
    }
    if config.coordinator is not None:
        jax.distributed.initialize(config.coordinator, config.num_processes, config.process_id, **timeouts)
    elif config.distributed:
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as error:
            raise ValueError(
                f"--distributed must run in a job of Slurm, Open MPI, Kubernetes or a TPU pod ({error}); "
                "--coordinator joins a job started by hand"
            ) from error


def choose_mesh(devices: int | None) -> Mesh | None:
    """Return a mesh over this many devices of every process, by default over all if there are several processes.

    Returns None for one device of a single process. Raises ValueError if a process has fewer devices.
    """
    if devices is None and jax.process_count() == 1:
        return None
    if devices is not None and devices > jax.local_device_count():
        available = f"{jax.local_device_count()} {jax.default_backend()} device(s)"
        raise ValueError(f"--devices must be at most the number of devices, {available}, got {devices}")
    of_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        of_process.setdefault(device.process_index, []).append(device)
    return data_mesh([device for own in of_process.values() for device in own[:devices]])


@contextlib.contextmanager
def saving_if_processes_are_lost(save: Callable[[], None], lock: AbstractContextManager[Any]) -> Iterator[None]:
    """Call `save` under the lock if JAX fails in a job of several processes, and raise the error again.

    A cluster stops the processes of a job one after the other: the first may lose another one before its own signal.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if jax.process_count() > 1:
            with lock:
                save()
        raise


@contextlib.contextmanager
def exit_if_processes_are_lost() -> Iterator[None]:
    """End this process with one line and exit code 2 if another process of the job has ended."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).partition("\n")[0]
        print(
            f"error: another process has ended or cannot be reached ({reason}); "
            "--resume continues from the last checkpoint, with any number of processes",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_BAD_INPUT)  # a normal exit would wait for the dead processes, and then abort
