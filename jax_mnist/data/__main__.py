"""`python -m jax_mnist.data`: the list of the datasets."""

import sys

from ..cli.datasets import main

if __name__ == "__main__":
    sys.exit(main())
