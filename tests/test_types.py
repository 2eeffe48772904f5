import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mnist import Dataset


@pytest.mark.parametrize("module", [np, jnp])
def test_dataset_is_a_sequence_of_image_label_pairs(module):
    dataset = Dataset(module.arange(12, dtype="uint8").reshape(3, 2, 2), module.arange(3, dtype="int32"))
    pairs = list(dataset)
    assert [int(label) for _, label in pairs] == [0, 1, 2]
    np.testing.assert_array_equal(dataset[-1][0], [[8, 9], [10, 11]])
    assert int(dataset[np.int64(1)][1]) == 1
    for outside in (3, -4):
        with pytest.raises(IndexError):
            dataset[outside]


INDICES = [
    slice(1, None), slice(None, None, 2), [2, 0], np.array([-1, 1]), np.array([True, False, True]), jnp.array([1]),
]  # fmt: skip


@pytest.mark.parametrize("module", [np, jnp])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slices_and_index_arrays_give_a_dataset(module, index):
    images, labels = np.arange(12, dtype="uint8").reshape(3, 2, 2), np.arange(3, dtype="int32")
    part = Dataset(module.asarray(images), module.asarray(labels))[index]
    np.testing.assert_array_equal(part.images, images[np.asarray(index) if not isinstance(index, slice) else index])
    np.testing.assert_array_equal(part.images[:, 0, 0] // 4, part.labels)
    assert isinstance(part.images, np.ndarray if module is np else jax.Array)


@pytest.mark.parametrize("module", [np, jnp])
@pytest.mark.parametrize("index", [[3], [0, -4], [True, False], [0.5], []])
def test_invalid_index_arrays_raise_index_error(module, index):
    dataset = Dataset(module.zeros((3, 2, 2), "uint8"), module.zeros(3, "int32"))
    with pytest.raises(IndexError):
        dataset[index]


def test_dataset_is_a_pytree():
    dataset = Dataset(np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.int32))
    assert [leaf.shape for leaf in jax.tree.leaves(dataset)] == [(3, 2, 2), (3,)]
    assert jax.tree.map(lambda a: a.shape, dataset).labels == (3,)
    assert isinstance(jax.jit(lambda d: d)(dataset), Dataset)
