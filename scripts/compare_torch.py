import sys

from jax_mnist.cli.compare_torch import main

if __name__ == "__main__":
    sys.exit(main())
