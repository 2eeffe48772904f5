"""Chapter 4 of the fast.ai book in JAX: pure functions from pixels to a trained classifier.

Start with `jax_mnist.chapter`, the chapter by hand. Then follow the data: `data` reads it, `models` map it to logits,
`training` has one loop for every Learner, `analysis` looks at the errors, `plots` draws, and `export` writes models for
use elsewhere. `speedrun` stands alone. These are the names to start with; each package has more.

>>> import jax
>>> from jax_mnist import batches, init_params, load, update
>>> params = init_params(jax.random.key(0), (784, 30, 1))
>>> for batch in batches(load("mnist_sample").train, batch_size=256):
...     params = update(params, batch, 0.1)
"""

import lazy_loader

__version__ = "0.1.0"

# `__init__.pyi` lists the names. Each is imported on first use: a command handles signals before it imports JAX.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
