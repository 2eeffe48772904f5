"""`python -m jax_mnist COMMAND`; without a command, the versions and devices."""

import sys
from collections.abc import Sequence

from .cli.signals import exit_on_signals


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Without `args`, use this process's, and let signals end it."""
    if args is None:
        exit_on_signals()  # before JAX is imported, which takes a second
    from .cli.commands import run

    return run(sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    sys.exit(main())
