"""The commands: `python -m jax_mnist COMMAND`."""
