import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mnist import accuracy
from jax_mnist.metrics import calibration, confusion_matrix, correct, per_class, predicted_labels


def test_one_column_is_thresholded_at_zero():
    logits = jnp.array([[-0.1], [0.0], [0.1]])
    assert predicted_labels(logits).tolist() == [0, 0, 1]
    assert accuracy(logits, np.array([0, 0, 1])) == 1


def test_more_columns_take_the_first_maximum():
    logits = jnp.array([[0.0, 0.0], [1.0, 2.0], [-1.0, -2.0]])
    assert predicted_labels(logits).tolist() == [0, 1, 0]
    assert correct(logits, np.array([1, 1, 0])).tolist() == [False, True, True]
    assert float(accuracy(logits, np.array([1, 1, 0]))) == pytest.approx(2 / 3)


def test_labels_that_would_broadcast_are_rejected():
    with pytest.raises(ValueError, match=r"labels must be \(3,\)"):
        accuracy(jnp.zeros((3, 1)), jnp.zeros((3, 1), jnp.int32))


def test_confusion_matrix_counts_every_example_once(strict):
    logits, labels = np.random.default_rng(0).normal(size=(500, 4)), np.random.default_rng(1).integers(0, 4, 500)
    confusion = confusion_matrix(logits.astype(np.float32), labels.astype(np.int32))
    for label, row in enumerate(confusion.tolist()):
        assert row == [int(np.sum(logits[labels == label].argmax(axis=1) == k)) for k in range(4)]
    assert np.trace(confusion) / 500 == pytest.approx(float(accuracy(logits, labels)))
    assert confusion_matrix(jnp.array([[1.0], [-1.0], [2.0]]), np.array([0, 0, 1])).tolist() == [[1, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"labels must be \(3,\)"):
        confusion_matrix(jnp.zeros((3, 1)), jnp.zeros(2, jnp.int32))


def test_precision_and_recall_match_a_worked_example():
    counts, precision, recall = per_class(np.array([[6, 2, 0], [1, 8, 0], [3, 0, 0]]))
    assert counts.tolist() == [8, 9, 3]
    np.testing.assert_allclose(precision, [6 / 10, 8 / 10, np.nan], rtol=1e-6)
    np.testing.assert_allclose(recall, [6 / 8, 8 / 9, 0], rtol=1e-6)


def test_recall_is_nan_for_a_class_without_images():
    np.testing.assert_array_equal(per_class(np.array([[3, 1], [0, 0]])).recall, np.float32([0.75, np.nan]))


def test_calibration_matches_its_definition(strict):
    """Compare with the paper's formula in float64, bin by bin."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1000, 5)).astype(np.float32) * 2
    labels = rng.integers(0, 5, 1000).astype(np.int32)
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    result, error = calibration(logits, labels, bins=7), 0.0
    for i in range(7):
        inside = (confidence > i / 7) & (confidence <= (i + 1) / 7)
        assert int(result.counts[i]) == inside.sum()
        if inside.any():
            np.testing.assert_allclose(result.confidence[i], confidence[inside].mean(), rtol=1e-5)
            np.testing.assert_allclose(result.accuracy[i], right[inside].mean(), rtol=1e-5)
            error += inside.sum() / 1000 * abs(right[inside].mean() - confidence[inside].mean())
        else:
            assert np.isnan(result.accuracy[i])
    assert float(result.error) == pytest.approx(error, rel=1e-4)


def test_calibration_error_is_small_only_if_labels_follow_the_probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50_000, 1)).astype(np.float32) * 2
    labels = (rng.random(50_000) < 1 / (1 + np.exp(-logits[:, 0]))).astype(np.int32)
    assert float(calibration(logits, labels).error) < 0.01
    assert float(calibration(4 * logits, labels).error) > 0.1


def test_confidence_1_falls_into_the_last_bin_and_zero_bins_are_rejected():
    assert calibration(jnp.array([[100.0], [-100.0]]), np.array([1, 1]), bins=2).counts.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"bins must be .* 0$"):
        calibration(jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32), bins=0)


def test_calibration_counts_beyond_the_precision_of_bfloat16():
    result = calibration(jnp.full((1000, 1), 4.0, jnp.bfloat16), np.ones(1000, np.int32), bins=5)
    assert result.counts.tolist() == [0, 0, 0, 0, 1000]
    assert float(result.accuracy[-1]) == 1


@pytest.mark.parametrize("module", [np, jnp])
@pytest.mark.parametrize(("columns", "label"), [(1, 2), (1, 7), (1, -1), (4, 4), (4, -1)])
def test_labels_out_of_range_raise_and_give_no_plausible_number_if_traced(columns, label, module):
    logits, labels = jnp.ones((3, columns)), module.array([0, 1, label])
    for function in (correct, accuracy, confusion_matrix, calibration):
        with pytest.raises(ValueError, match=rf"labels must be in 0\.\.\d, got {label}"):
            function(logits, labels)
    assert np.isnan(jax.jit(accuracy)(logits, labels))
    assert np.isnan(jax.jit(calibration)(logits, labels).error)
    confusion = jax.jit(confusion_matrix)(logits, labels)
    assert (np.asarray(confusion) == -1).all()
    assert np.isnan(per_class(confusion).recall).all()
    assert np.isnan(per_class(confusion).precision).all()
