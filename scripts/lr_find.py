import sys

from jax_mnist.cli.lr_find import main

if __name__ == "__main__":
    sys.exit(main())
