"""The drawings by which augmentation is chosen: held-out digits, still readable, the same for the same seed."""

import itertools
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


def test_drawings_that_read_photo_refuses_are_left_out_and_counted(tmp_path, monkeypatch, capsys):
    draw, number = draw_digits.draw, itertools.count()
    blank = np.full((200, 200), 230, np.uint8)
    monkeypatch.setattr(draw_digits, "draw", lambda *args: draw(*args) if next(number) % 3 else blank)
    monkeypatch.setattr(sys, "argv", ["draw_digits.py", str(tmp_path / "drawn"), "--train", "9", "--valid", "6"])
    draw_digits.main()
    left = {part: sorted(int(path.stem) for path in tmp_path.glob(f"drawn/{part}/*/*")) for part in ("train", "valid")}
    assert left == {"train": [1, 2, 4, 5, 7, 8], "valid": [1, 2, 4, 5]}
    assert capsys.readouterr().out == f"10 drawings written to {tmp_path / 'drawn'}, 5 refused and left out\n"


@pytest.mark.parametrize(
    ("option", "count", "limit"), [("train", 50001, 50000), ("train", 0, 50000), ("valid", 10001, 10000)]
)
def test_more_drawings_than_digits_are_refused_before_any_is_drawn(tmp_path, monkeypatch, option, count, limit):
    monkeypatch.setattr(sys, "argv", ["draw_digits.py", str(tmp_path / "drawn"), f"--{option}", f"{count}"])
    with pytest.raises(SystemExit, match=rf"^--{option} must be in 1\.\.{limit}, got {count}$"):
        draw_digits.main()
    assert not (tmp_path / "drawn").exists()


def test_drawing_is_a_function_of_the_generator(mnist):
    one, again, other = (draw_digits.draw(np.random.default_rng(seed), mnist.train.images[0]) for seed in (0, 0, 1))
    assert (one.dtype, one.shape) == (np.uint8, (200, 200))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert np.median(one) > 150  # dark on light
