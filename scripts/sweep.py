import sys

from jax_mnist.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
