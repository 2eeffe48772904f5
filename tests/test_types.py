import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mnist import Dataset


@pytest.mark.parametrize("module", [np, jnp])
def test_a_dataset_is_a_sequence_of_pairs(module):
    dataset = Dataset(module.arange(12, dtype="uint8").reshape(3, 2, 2), module.arange(3, dtype="int32"))
    pairs = list(dataset)
    assert [int(label) for _, label in pairs] == [0, 1, 2]
    np.testing.assert_array_equal(dataset[-1][0], [[8, 9], [10, 11]])
    assert int(dataset[np.int64(1)][1]) == 1
    for outside in (3, -4):
        with pytest.raises(IndexError):
            dataset[outside]


def test_a_dataset_is_a_pytree():
    dataset = Dataset(np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.int32))
    assert [leaf.shape for leaf in jax.tree.leaves(dataset)] == [(3, 2, 2), (3,)]
    assert jax.tree.map(lambda a: a.shape, dataset).labels == (3,)
    assert isinstance(jax.jit(lambda d: d)(dataset), Dataset)
