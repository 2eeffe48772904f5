import warnings

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from jax_mnist import Learner, fit, make_batch, mlp, mnist_loss, read_photo, softmax_cross_entropy
from jax_mnist.metrics import correct


def photographed(rng, image, light_on_dark):
    """Return a digit enlarged and shifted in 300x400 pixels of unevenly lit, noisy grey paper."""
    scale = rng.integers(5, 10)
    enlarged = Image.fromarray(image).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
    ink = np.zeros((300, 400))
    top, left = rng.integers(0, 301 - 28 * scale), rng.integers(0, 401 - 28 * scale)
    ink[top : top + 28 * scale, left : left + 28 * scale] = np.asarray(enlarged) / 255
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    angle = rng.uniform(0, 2 * np.pi)
    paper = 0.55 + 0.15 * (np.cos(angle) * x + np.sin(angle) * y) + rng.normal(0, 0.02, ink.shape)
    grey = paper * (1 - ink) + (0.95 if light_on_dark else 0.08) * ink
    return np.round(255 * grey.clip(0, 1)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes", "loss_fn"), [
    ("sample", (784, 30, 1), mnist_loss),
    ("mnist", (784, 100, 10), softmax_cross_entropy),
])  # fmt: skip
def test_at_least_190_of_200_photographed_digits_are_classified_correctly(request, tmp_path, name, sizes, loss_fn):
    splits = request.getfixturevalue(name)
    model = mlp(sizes)
    state, _ = fit(jax.random.key(0), Learner(model, loss_fn, optax.adam(2e-3)), splits, epochs=6)
    rng = np.random.default_rng(0)
    indices = rng.choice(len(splits.valid), 200, replace=False)
    images = []
    for i, index in enumerate(indices):
        Image.fromarray(photographed(rng, splits.valid.images[index], i % 2 == 0)).save(
            tmp_path / "photo.png", compress_level=1
        )
        images.append(read_photo(tmp_path / "photo.png"))
    batch = make_batch(np.stack(images), splits.valid.labels[indices])
    hits = int(correct(model.apply(state.params, batch.x), batch.y).sum())
    print(f"\n{name}: {hits} of 200 correct")
    assert hits >= 190


def test_mnist_images_are_almost_unchanged(tmp_path, mnist):
    differences = []
    for i, image in enumerate(mnist.valid.images[:100]):
        Image.fromarray(image if i % 2 else 255 - image).save(tmp_path / "digit.png")
        differences.append(np.abs(read_photo(tmp_path / "digit.png").astype(float) - image).mean())
    assert np.median(differences) < 5


def stroke(height=300, width=400):
    picture = np.full((height, width), 230, np.uint8)
    picture[height // 4 : 3 * height // 4, width // 2 - 10 : width // 2 + 10] = 20
    picture[height // 4 : height // 4 + height // 30, width // 2 - 20 : width // 2 + 10] = 20  # avoids a rounding tie
    return Image.fromarray(picture)


def variants():
    """Yield the same picture in every mode that a camera or drawing program writes."""
    picture = stroke()
    yield picture
    yield Image.fromarray(255 - np.asarray(picture))
    yield picture.convert("RGB")
    yield picture.convert("P")
    yield Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    transparent = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    for box in ((190, 75, 210, 225), (180, 75, 210, 85)):
        transparent.paste((0, 0, 0, 255), box)
    yield transparent


def test_modes_and_polarities_give_the_same_image(tmp_path):
    images = []
    for variant in variants():
        variant.save(tmp_path / "photo.png")
        images.append(read_photo(tmp_path / "photo.png").astype(int))
    stroke().save(tmp_path / "photo.jpeg", quality=60)
    images.append(read_photo(tmp_path / "photo.jpeg").astype(int))
    for image in images[1:]:
        assert np.abs(image - images[0]).mean() < 2


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to be upright
    stroke().save(tmp_path / "photo.jpeg", exif=exif)
    rows, columns = (np.flatnonzero(read_photo(tmp_path / "photo.jpeg").max(axis=axis) > 40) for axis in (1, 0))
    assert len(columns) >= 19
    assert len(rows) <= 5


def test_digit_fills_20_pixels_and_is_centred_by_mass(tmp_path):
    picture = np.zeros((400, 300))
    y, x = np.mgrid[0:1:100j, 0:1:50j]
    picture[20:120, 230:280] = 200 * (x > y)
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "photo.png")
    image = read_photo(tmp_path / "photo.png").astype(float)
    rows = np.flatnonzero(image.max(axis=1) > 60)
    columns = np.flatnonzero(image.max(axis=0) > 60)
    assert 8 <= np.ptp(columns) <= 10
    assert np.ptp(rows) <= 20
    for axis in (0, 1):
        centre = (image.sum(axis=1 - axis) * np.arange(28)).sum() / image.sum()
        assert abs(centre - 14) <= 0.5


def test_large_picture_is_read_without_specks(tmp_path):
    big = stroke(3000, 4000)
    big.paste(20, (300, 300, 340, 340))
    big.save(tmp_path / "photo.png")
    stroke(300, 400).save(tmp_path / "small.png")
    image = read_photo(tmp_path / "photo.png")
    assert (image.max(axis=0) > 40).sum() <= 3
    assert image.max() > 200


def test_large_16_bit_picture_equals_its_8_bit_version(tmp_path):
    picture = stroke(1200, 1600)
    picture.save(tmp_path / "8.png")
    Image.fromarray(np.asarray(picture).astype(np.uint16) * 257).save(tmp_path / "16.png")
    difference = read_photo(tmp_path / "8.png").astype(int) - read_photo(tmp_path / "16.png")
    assert abs(difference).max() <= 2


def save_text(path):
    path.write_text("not a picture")


def save_blank(path):
    Image.new("L", (300, 400), 200).save(path)


def save_noise(path):
    noise = np.random.default_rng(0).normal(128, 3, (300, 400))
    Image.fromarray(noise.astype(np.uint8)).save(path)


def save_truncated(path):
    stroke().save(path)
    path.write_bytes(path.read_bytes()[:200])


def save_one_pixel(path):
    Image.new("L", (1, 1)).save(path)


def save_huge(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (20_000, 10_000)).save(path)


@pytest.mark.parametrize(("save", "message"), [
    (save_text, "not a readable picture"),
    (save_blank, "shows no digit; .*dark on light or light on dark"),
    (save_noise, "shows no digit"),
    (save_truncated, "not a readable picture"),
    (save_one_pixel, "shows no digit"),
    (save_huge, "large|DecompressionBomb|exceeds"),
])  # fmt: skip
def test_file_without_a_readable_digit_is_refused_by_name(tmp_path, save, message):
    path = tmp_path / "photo.png"
    save(path)
    with pytest.raises(ValueError, match=message) as error:
        read_photo(path)
    assert str(path) in str(error.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: there is no such file"):
        read_photo(tmp_path / "nothing.png")
