"""Where `train` runs: on how many devices, and in how many processes."""

import contextlib
import dataclasses
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any

import jax
from jax.sharding import Mesh

from ..training.mesh import data_mesh
from .console import EXIT_BAD_INPUT, EXIT_OK, EXIT_TARGET_MISSED

_MOST_DEVICES = 64  # more virtual ones than that only wait for each other
_HEARTBEAT_SECONDS = 20  # who is silent for so long is taken to be dead, and the others end


def check_devices(config: Any) -> None:
    """Raise ValueError for options that do not fit together, naming them."""
    for name in ("devices", "processes", "num_processes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")
    if config.devices is not None and config.devices > _MOST_DEVICES:
        raise ValueError(f"--devices must be 1 to {_MOST_DEVICES} in each process, not {config.devices}")
    apart = (config.coordinator, config.process_id, config.num_processes)
    if any(value is not None for value in apart) and None in apart:
        raise ValueError("--coordinator HOST:PORT, --process-id I and --num-processes N go together")
    if sum((config.processes > 1, config.coordinator is not None, config.distributed)) > 1:
        raise ValueError("--processes, --coordinator and --distributed are three ways to the same: give one")
    if config.max_seconds is not None and (config.processes > 1 or config.coordinator or config.distributed):
        raise ValueError("--max-seconds is the clock of one process: it does not go with several")


def join(config: Any) -> None:
    """Prepare this process's CPU devices and connect it with the others, if any; before any other use of JAX."""
    if config.devices is not None:
        try:
            jax.config.update("jax_num_cpu_devices", config.devices)
        except RuntimeError as error:
            raise ValueError("--devices must come before JAX is used in this process") from error
    ends: dict[str, Any] = {
        "heartbeat_timeout_seconds": _HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": _HEARTBEAT_SECONDS,
    }
    if config.coordinator is not None:
        jax.distributed.initialize(config.coordinator, config.num_processes, config.process_id, **ends)
    elif config.distributed:
        jax.distributed.initialize(**ends)


def choose_mesh(devices: int | None) -> Mesh | None:
    """A mesh over so many devices of every process, by default all where there are several processes.

    Returns None for the one device of a single process. Raises ValueError where a process has fewer.
    """
    if devices is None and jax.process_count() == 1:
        return None
    if devices is not None and devices > jax.local_device_count():
        here = f"{jax.local_device_count()} {jax.default_backend()} device(s)"
        raise ValueError(f"--devices {devices}: there are {here} here")
    of_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        of_process.setdefault(device.process_index, []).append(device)
    return data_mesh([device for own in of_process.values() for device in own[:devices]])


@contextlib.contextmanager
def other_processes() -> Iterator[None]:
    """Inside, an error of the runtime among several processes is a ValueError that says what became of the others."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"another process has ended or cannot be reached ({reason}); "
            "--resume goes on from the last checkpoint, with any number of processes"
        ) from error


def run_processes(config: Any, run: Callable[[Any], int]) -> int:
    """Start `config.processes` processes on this machine, each with its part of the run; where one dies, end all.

    Returns the exit code of the first. Raises ValueError where a process died.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    count = config.processes
    common = {"processes": 1, "coordinator": coordinator, "num_processes": count}
    context = multiprocessing.get_context("spawn")
    parts = [dataclasses.replace(config, **common, process_id=number) for number in range(count)]
    processes = [context.Process(target=_run_part, args=(run, part)) for part in parts]
    for process in processes:
        process.start()
    try:
        return _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _wait(processes: list[Any]) -> int:
    running = list(processes)
    while running:
        connection.wait([process.sentinel for process in running])
        for process in [process for process in running if process.exitcode is not None]:
            running.remove(process)
            if process.exitcode == EXIT_BAD_INPUT:
                return EXIT_BAD_INPUT
            if process.exitcode not in (EXIT_OK, EXIT_TARGET_MISSED):
                raise ValueError(
                    f"process {processes.index(process)} of {len(processes)} ended with exit code {process.exitcode}, "
                    "and so the others were ended; --resume goes on from the last checkpoint, with any number of "
                    "processes"
                )
    return processes[0].exitcode


def _run_part(run: Callable[[Any], int], config: Any) -> None:
    try:
        code = run(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_BAD_INPUT)  # the usual end waits for processes that may be no more
    sys.exit(code)
