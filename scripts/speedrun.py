import sys

from jax_mnist.cli.signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()
    from jax_mnist.cli.speedrun import main

    sys.exit(main())
