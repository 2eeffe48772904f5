import sys

from jax_mnist.cli.export_page import main

if __name__ == "__main__":
    sys.exit(main())
