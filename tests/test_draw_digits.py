"""The drawings by which augmentation is chosen: held-out digits, still readable, the same for the same seed."""

import sys

import draw_digits
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mnist import hold_out, load


@pytest.mark.slow
def test_drawings_are_those_of_the_held_out_digits(tmp_path, monkeypatch, mnist):
    monkeypatch.setattr(sys, "argv", ["draw_digits.py", str(tmp_path / "drawn"), "--train", "60", "--valid", "80"])
    draw_digits.main()
    held_out = hold_out(jax.random.key(0), mnist.train, 10_000).valid
    for path in (tmp_path / "drawn/valid").rglob("*.png"):
        assert int(path.parent.name) == held_out.labels[int(path.stem)]
    notes = []
    drawn = load(tmp_path / "drawn", report=notes.append).valid
    assert len(drawn) == 80
    assert notes == [f"{tmp_path / 'drawn'}: 140 pictures prepared: 140 inverted"]
    means = jnp.stack([mnist.train.images[mnist.train.labels == digit].mean(axis=0) for digit in range(10)])
    distances = jnp.abs(drawn.images[:, None] - means[None]).mean(axis=(2, 3))
    assert (np.asarray(distances.argmin(axis=1)) == drawn.labels).mean() > 0.5  # by chance a tenth


def test_drawing_is_a_function_of_the_generator(mnist):
    one, again, other = (draw_digits.draw(np.random.default_rng(seed), mnist.train.images[0]) for seed in (0, 0, 1))
    assert (one.dtype, one.shape) == (np.uint8, (200, 200))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert np.median(one) > 150  # dark on light
