"""Models: pairs of `init` and `apply`."""
