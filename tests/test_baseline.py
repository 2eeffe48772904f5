import numpy as np
import pytest

from jax_mnist import Dataset, class_means, l1_distance, l2_distance, nearest_mean


def test_uint8_differences_do_not_wrap_around():
    dark, light = np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)
    for distance in (l1_distance, l2_distance):
        assert float(distance(dark, light)) == float(distance(light, dark)) == 1


def test_distances_match_numpy_in_float64(x64):
    a, b = np.random.default_rng(0).random((2, 3, 5, 5))
    np.testing.assert_allclose(l1_distance(a, b), np.abs(a - b).mean((1, 2)))
    np.testing.assert_allclose(l2_distance(a, b[0]), np.sqrt(((a - b[0]) ** 2).mean((1, 2))))


def test_class_means_of_float_and_uint8_images_agree():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8)
    labels = np.array([0, 1, 0, 2, 2, 2], np.int32)
    expected = np.stack([images[labels == c].mean(axis=0) / 255 for c in range(3)])
    for pixels in (images, (images / 255).astype(np.float32)):
        np.testing.assert_allclose(class_means(Dataset(pixels, labels)), expected, rtol=1e-6)


def test_class_means_count_uint8_labels_past_255():
    images = np.zeros((300, 2, 2), np.uint8)
    images[:150] = 255
    np.testing.assert_allclose(class_means(Dataset(images, np.zeros(300, np.uint8))), 0.5)


@pytest.mark.parametrize("labels", [[], [0, 2], [1]])
def test_class_means_rejects_a_class_without_images(labels):
    with pytest.raises(ValueError, match="every class must have at least one image"):
        class_means(Dataset(np.zeros((len(labels), 2, 2), np.uint8), np.array(labels, np.int32)))


def test_nearest_mean_takes_any_leading_axes():
    means = np.stack([np.zeros((2, 2)), np.ones((2, 2))]).astype(np.float32)
    assert nearest_mean(np.full((2, 2), 200, np.uint8), means) == 1
    assert nearest_mean(np.full((3, 2, 2, 2), 100, np.uint8), means).shape == (3, 2)


def test_integers_other_than_uint8_are_rejected():
    with pytest.raises(ValueError, match="uint8"):
        l1_distance(np.zeros((2, 2), np.int32), np.zeros((2, 2), np.int32))


def test_class_without_images_is_never_the_nearest():
    dataset = Dataset(np.full((2, 28, 28), 255, np.uint8), np.array([0, 2], np.int32))
    means = class_means(dataset, class_count=4)
    assert np.isnan(means[1]).all()
    assert nearest_mean(dataset.images, means).tolist() == [0, 0]
