"""Commands: `python -m jax_mnist COMMAND`."""
