import sys

from jax_mnist.cli.prepare_tfds import main

if __name__ == "__main__":
    sys.exit(main())
