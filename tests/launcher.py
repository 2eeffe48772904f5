"""Start several processes of one job on this machine, as a cluster's launcher would."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def started(command: Sequence[str], count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start `command` as `count` processes that join one job; kill those that are left when the block ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    job = ["--coordinator", coordinator, "--num-processes", str(count), "--process-id"]
    processes = [
        subprocess.Popen([*command, *job, str(i)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for i in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()
