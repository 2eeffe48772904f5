import jax.numpy as jnp
import numpy as np
import pytest

from jax_mnist import accuracy, correct, predicted_labels


def test_one_column_is_cut_at_zero():
    scores = jnp.array([[-0.1], [0.0], [0.1]])
    assert predicted_labels(scores).tolist() == [0, 0, 1]
    assert accuracy(scores, np.array([0, 0, 1])) == 1


def test_more_columns_take_the_largest_and_the_first_of_equals():
    scores = jnp.array([[0.0, 0.0], [1.0, 2.0], [-1.0, -2.0]])
    assert predicted_labels(scores).tolist() == [0, 1, 0]
    assert correct(scores, np.array([1, 1, 0])).tolist() == [False, True, True]
    assert float(accuracy(scores, np.array([1, 1, 0]))) == pytest.approx(2 / 3)


def test_labels_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"need labels of shape \(3,\)"):
        accuracy(jnp.zeros((3, 1)), jnp.zeros((3, 1), jnp.int32))
