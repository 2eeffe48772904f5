import sys

from jax_mnist.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
