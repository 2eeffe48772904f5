"""The benchmark: jax_mnist and its PyTorch and JAX baselines, timed in interleaved runs."""
