"""SIGTERM and Ctrl-C: they end a command without a traceback; `train` first saves its last finished epoch.

A handler in Python runs in the main thread, which may be inside a compilation or a compiled epoch for minutes. So a
thread reads the signals that Python writes to a socket as they arrive (`signal.set_wakeup_fd`), and acts at once. It
does not raise an exception in the main thread: there, one in the middle of an import aborts some extension modules.

The entry points import this module before JAX, so it imports only the standard library.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signals() -> None:
    """Let SIGINT and SIGTERM end this process at once, with the exit code of a shell: 128 + the signal's number.

    An entry point calls it first; it stays in place until the process ends. A file that was being written is left
    under its temporary name, which begins with a dot.
    """
    reader, writer = _wakeup_sockets()
    threading.Thread(target=lambda: _exit(128 + _next_signal(reader)), daemon=True).start()
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a script's background job ignores Ctrl-C
            signal.signal(number, _leave_to_thread)


@contextlib.contextmanager
def saving_on_signals(save: Callable[[str], None]) -> Iterator[AbstractContextManager[Any]]:
    """Make a signal call `save` with the signal's name before the process ends; a second signal ends it at once.

    Yields a lock. While the block holds it, saving waits; while `save` runs, the lock is taken, so what the block
    changes under the lock is consistent. Errors of `save` become one line. Without `exit_on_signals`, as in a notebook
    or a test, nothing changes: Ctrl-C raises KeyboardInterrupt.
    """
    lock = threading.Lock()
    if all(signal.getsignal(number) is not _leave_to_thread for number in _SIGNALS):
        yield lock
        return
    reader, writer = _wakeup_sockets()
    thread = threading.Thread(target=_save_and_exit, args=(reader, lock, save), daemon=True)
    thread.start()
    outer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield lock
    finally:
        signal.set_wakeup_fd(outer)
        writer.send(b"\0")
        thread.join()  # after a signal the thread ends the process instead
        reader.close()
        writer.close()


def _save_and_exit(reader: socket.socket, lock: AbstractContextManager[Any], save: Callable[[str], None]) -> None:
    first = _next_signal(reader)
    if not first:
        return

    def save_once() -> None:
        with lock:  # never released: the main thread must not go on
            try:
                save(signal.Signals(first).name)
            except Exception as error:  # such as a full disk
                print(f"error: the last epoch is not saved: {error}", file=sys.stderr, flush=True)
            finally:
                _exit(128 + first)

    saving = threading.Thread(target=save_once, daemon=True)
    saving.start()
    if second := _next_signal(reader):
        _exit(128 + second)
    saving.join()


def _exit(code: int) -> None:
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")  # show the cursor, which a progress display hides
    os._exit(code)  # a normal exit would wait for the program that runs on the device


def _wakeup_sockets() -> tuple[socket.socket, socket.socket]:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    return reader, writer


def _next_signal(reader: socket.socket) -> int:
    """Wait for the number of the next signal that ends a command, or for 0, which ends the waiting."""
    while (number := reader.recv(1)[0]) not in (0, *_SIGNALS):  # other signals may have Python handlers too
        pass
    return number


def _leave_to_thread(number: int, frame: object) -> None:
    """Do nothing; without a handler in Python, no signal would reach the thread."""
