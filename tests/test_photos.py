import warnings
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jax_mnist import read_photo
from jax_mnist.data.photos import prepare_photo
from jax_mnist.speedrun import recipe as speedrun

# Kinds of pictures that people have, drawn around MNIST's test digits: [h, w] in 0..1, dark on light.


def enlarged(rng, image, low=130, high=230):
    """Return the ink of a digit, enlarged and cropped to it."""
    side = int(rng.integers(low, high))
    ink = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) / 255
    rows, columns = (np.flatnonzero((ink > 0.1).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def placed(rng, ink, margin=0.03, shape=(300, 400)):
    """Return the ink at a random position of an empty sheet, away from its edge."""
    space = int(margin * max(shape))
    top, left = (int(rng.integers(space, shape[axis] - ink.shape[axis] - space + 1)) for axis in (0, 1))
    return np.pad(ink, ((top, shape[0] - top - ink.shape[0]), (left, shape[1] - left - ink.shape[1])))


def on_paper(rng, ink):
    """Return ink on unevenly lit, noisy paper."""
    y, x = np.mgrid[-1 : 1 : ink.shape[0] * 1j, -1 : 1 : ink.shape[1] * 1j]
    paper = rng.uniform(0.65, 0.85) + rng.uniform(0, 0.1) * (x * rng.choice([-1, 1]) + y * rng.choice([-1, 1])) / 2
    return paper * (1 - ink) + rng.uniform(0.05, 0.3) * ink + rng.normal(0, 0.015, ink.shape)


def plain(rng, image):
    return on_paper(rng, placed(rng, enlarged(rng, image)))


def uneven_light(rng, image):
    """Return ink on grey paper that is up to twice as light on one side as on the other."""
    ink = placed(rng, enlarged(rng, image))
    y, x = np.mgrid[-1 : 1 : ink.shape[0] * 1j, -1 : 1 : ink.shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    paper = 0.55 + 0.15 * (np.cos(angle) * x + np.sin(angle) * y)
    return paper * (1 - ink) + 0.08 * ink + rng.normal(0, 0.02, ink.shape)


def thinned(strokes):
    """Return the skeleton of a mask, one pixel wide (Zhang and Suen, 1984)."""
    strokes = np.pad(strokes, 1).astype(int)
    before = None
    while before is None or (strokes != before).any():
        before = strokes
        for first in (True, False):
            ring = [np.roll(strokes, shift, (0, 1)) for shift in CLOCKWISE]
            count, starts = sum(ring), sum((a == 0) & (b == 1) for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
            n, e, s, w = ring[::2]
            loose = (n * e * s == 0) & (e * s * w == 0) if first else (n * e * w == 0) & (n * s * w == 0)
            strokes = np.where((count >= 2) & (count <= 6) & (starts == 1) & loose, 0, strokes)
    return strokes[1:-1, 1:-1]


CLOCKWISE = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))


def one_pixel_strokes(rng, image):
    ink = thinned(enlarged(rng, image, 200, 290) > 0.5)
    return 1 - rng.uniform(0.4, 1) * placed(rng, ink)


def on_dark_table(rng, image, share):
    """Return a sheet that leaves a strip of a dark table, as wide as a share of the side, on one to four sides."""
    sheet = on_paper(rng, placed(rng, enlarged(rng, image, 130, 180), share + 0.03))
    strip = int(share * min(sheet.shape))
    has_strip = rng.random(4) < 0.7
    has_strip[rng.integers(4)] = True
    top, bottom, left, right = np.where(has_strip, strip, 0)
    is_table = np.ones(sheet.shape, bool)
    is_table[top : sheet.shape[0] - bottom, left : sheet.shape[1] - right] = False
    table = rng.uniform(0.05, 0.35) + rng.normal(0, 0.02, sheet.shape)
    return ndimage.gaussian_filter(np.where(is_table, table, sheet), 0.7)


def narrow_dark_table(rng, image):
    return on_dark_table(rng, image, 0.05)


def wide_dark_table(rng, image):
    return on_dark_table(rng, image, 0.12)


def soft_shadow(rng, image):
    sheet = plain(rng, image)
    y, x = np.mgrid[-1 : 1 : sheet.shape[0] * 1j, -1 : 1 : sheet.shape[1] * 1j]
    angle, softness = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.1)
    shade = 1 / (1 + np.exp(-(np.cos(angle) * x + np.sin(angle) * y - rng.uniform(-0.5, 0.5)) / softness))
    return sheet * (1 - rng.uniform(0.2, 0.5) * shade)


def framed(rng, image, margin):
    """Return a digit in a rectangle of lines that is this far from the edge."""
    ink = placed(rng, enlarged(rng, image), 0.1)
    width, position = int(rng.integers(2, 7)), int(margin * 300)
    frame = np.pad(np.zeros((300 - 2 * position - 2 * width, 400 - 2 * position - 2 * width)), width, constant_values=1)
    return on_paper(rng, np.maximum(ink, rng.uniform(0.5, 1) * np.pad(frame, position)))


def frame_at_the_edge(rng, image):
    return framed(rng, image, 0)


def frame_inside(rng, image):
    return ndimage.rotate(
        framed(rng, image, rng.uniform(0.03, 0.07)), rng.normal(0, 0.5), reshape=False, mode="nearest"
    )


def ruled_box(rng, image):
    ink = placed(rng, enlarged(rng, image, 130, 200), 0.12)
    for axis in rng.permutation(4)[: rng.integers(1, 5)]:
        position = int(rng.uniform(0, 0.08) * ink.shape[axis % 2])
        lines = np.moveaxis(ink, axis % 2, 0)[:: 1 if axis < 2 else -1]  # a view, counted from one of the four edges
        lines[position : position + 4] = 1
    return on_paper(rng, ink)


def plot_with_axes(rng, image):
    size = (6.4, 4.8) if rng.random() < 0.5 else (2.6, 2.6)
    figure, axes = plt.subplots(figsize=size, dpi=100)
    axes.imshow(image, cmap=rng.choice(["viridis", "gray", "gray_r"]))
    figure.canvas.draw()
    picture = np.asarray(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("L")) / 255
    plt.close(figure)
    return picture


def blurred_close_crop(rng, image):
    ink = enlarged(rng, image, 60, 110)
    sheet = on_paper(rng, np.pad(ink, int(rng.uniform(0.08, 0.2) * max(ink.shape))))
    return ndimage.gaussian_filter(sheet, rng.uniform(0.02, 0.035) * max(ink.shape)) + rng.normal(0, 0.005, sheet.shape)


def slanted_sheet(rng, image):
    """Return a sheet on a dark table, turned by up to 15 degrees, all of it in view or with its corners cut off."""
    side = int(rng.choice([240, 420]))
    sheet = to_picture(on_paper(rng, placed(rng, enlarged(rng, image, 130, 180), 0.12, (side, side))))
    turned = sheet.convert("RGBA").rotate(rng.uniform(4, 15) * rng.choice([-1, 1]), Image.Resampling.BICUBIC, expand=1)
    picture = Image.new("L", (400, 360), int(rng.integers(10, 90)))
    picture.paste(turned.convert("L"), tuple((np.array(picture.size) - turned.size) // 2), turned.getchannel("A"))
    return np.asarray(picture) / 255 + rng.normal(0, 0.01, (360, 400))


def circled(rng, image):
    ink = enlarged(rng, image, 130, 200)
    side = int(1.1 * np.hypot(*ink.shape)) + 16
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    space = [((side - size) // 2, side - size - (side - size) // 2) for size in ink.shape]
    circle = np.abs(np.hypot(y, x) - side / 2 + 4) < rng.uniform(1, 3)
    return on_paper(rng, placed(rng, np.maximum(np.pad(ink, space), circle)))


def box_with_a_side_missing(rng, image):
    ink = placed(rng, enlarged(rng, image, 130, 200), 0.14)
    frame = np.pad(np.zeros((260, 360)), 4, constant_values=1)
    sides = (np.s_[:4, 4:-4], np.s_[-4:, 4:-4], np.s_[4:-4, :4], np.s_[4:-4, -4:])
    frame[sides[rng.integers(4)]] = 0
    return on_paper(rng, np.maximum(ink, np.pad(frame, 16)))


def punched_sheet(rng, image):
    ink = placed(rng, enlarged(rng, image, 100, 140), 0.2)
    y, x = np.mgrid[:300, :400]
    holes = [np.hypot(y - top, x - 28) < 12 for top in (80, 220)]
    return np.where(np.any(holes, axis=0), rng.uniform(0.05, 0.3), on_paper(rng, ink))


def thick_close_crop(rng, image):
    ink = ndimage.grey_dilation(enlarged(rng, image, 80, 110), (5, 5))
    return on_paper(rng, np.pad(ink, int(rng.integers(3, 8))))


KINDS = {
    kind.__name__: (kind, needed)
    for kind, needed in [
        (plain, 38),
        (uneven_light, 38),
        (one_pixel_strokes, 38),
        (narrow_dark_table, 38),
        (wide_dark_table, 38),
        (soft_shadow, 36),
        (frame_at_the_edge, 38),
        (frame_inside, 38),
        (ruled_box, 38),
        (plot_with_axes, 38),
        (blurred_close_crop, 38),
        (slanted_sheet, 38),
        (circled, 38),
        (box_with_a_side_missing, 38),
        (punched_sheet, 38),
        (thick_close_crop, 38),
    ]
}


def to_picture(grey):
    return Image.fromarray(np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8))


def save_plain(path, rng, grey):
    """Save a picture as it is, or with light and dark exchanged."""
    to_picture(grey if rng.random() < 0.7 else 1 - grey).save(path, compress_level=1)


def save_transparent(path, rng, grey, color):
    """Save the ink of a picture as the alpha channel of a single color, as a canvas without background does."""
    picture = Image.new("RGBA", grey.shape[::-1], color)
    picture.putalpha(to_picture((1 - grey) / (1 - grey).max()))
    picture.save(path)


def save_light_on_transparent(path, rng, grey):
    save_transparent(path, rng, grey, tuple(rng.integers(200, 256, 3).tolist()))


def save_dark_on_transparent(path, rng, grey):
    save_transparent(path, rng, grey, tuple(rng.integers(0, 100, 3).tolist()))


def save_dithered(path, rng, grey):
    to_picture(0.75 * grey + 0.1).convert("1").save(path)


def save_turned(path, rng, grey):
    """Save a picture turned or mirrored, with the EXIF orientation that says so."""
    turns = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
             Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE,
             Image.Transpose.ROTATE_270]  # fmt: skip
    orientation, exif = int(rng.integers(8)), Image.Exif()
    exif[0x0112] = orientation + 1
    picture, turn = to_picture(grey), turns[orientation]
    (picture if turn is None else picture.transpose(turn)).save(path, format="JPEG", exif=exif)


@pytest.fixture(scope="session")
def classify(mnist):
    """Return a function from images to labels: the speedrun's net, 99% correct."""
    params = speedrun.train(jax.random.key(0), mnist.train.images, mnist.train.labels, steps=704)
    return lambda images: np.argmax(speedrun.predict(params, np.stack(images)), axis=1)


def drawn(mnist, directory, draw, save, count=40):
    """Return the prepared images of pictures of test digits, and their labels."""
    rng = np.random.default_rng(0)
    indices = rng.choice(len(mnist.valid), count, replace=False)
    images = []
    for index in indices:
        save(directory / "photo.png", rng, draw(rng, mnist.valid.images[index]))
        images.append(read_photo(directory / "photo.png"))
    return images, mnist.valid.labels[indices]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_digits_in_their_surroundings_are_classified_correctly(classify, mnist, tmp_path, kind):
    draw, needed = KINDS[kind]
    images, labels = drawn(mnist, tmp_path, draw, save_plain)
    hits = int((classify(images) == labels).sum())
    print(f"\n{kind}: {hits} of 40 correct")
    assert hits >= needed


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_light_on_transparent, save_dark_on_transparent, save_dithered, save_turned])
def test_saved_forms_are_classified_correctly(classify, mnist, tmp_path, save):
    def draw(rng, image):
        return 1 - placed(rng, enlarged(rng, image))

    images, labels = drawn(mnist, tmp_path, draw, save)
    hits = int((classify(images) == labels).sum())
    print(f"\n{save.__name__}: {hits} of 40 correct")
    assert hits >= 38


@pytest.mark.slow
def test_saved_test_digits_are_classified_as_their_pixels(classify, mnist, tmp_path):
    images, labels = mnist.valid.images[:1500], mnist.valid.labels[:1500]
    photos = []
    for i, image in enumerate(images):
        Image.fromarray(image if i % 2 else 255 - image).save(tmp_path / "digit.png")
        photos.append(prepare_photo(tmp_path / "digit.png"))
    assert [photo.inverted for photo in photos] == [i % 2 == 0 for i in range(1500)]
    assert not any(photo.cropped for photo in photos)
    hits, raw_hits = ((classify(x) == labels).sum() for x in ([photo.image for photo in photos], images))
    print(f"\n{hits} of 1500 correct, {raw_hits} of their pixels")
    assert hits >= raw_hits - 2


@pytest.mark.parametrize("kind", ["narrow_dark_table", "wide_dark_table", "frame_at_the_edge", "frame_inside"])
def test_removed_surroundings_leave_the_digit(mnist, tmp_path, kind):
    draw, _ = KINDS[kind]
    for seed in range(3):
        rng, image = np.random.default_rng(seed), mnist.valid.images[seed]
        to_picture(draw(rng, image)).save(tmp_path / "photo.png")
        photo = prepare_photo(tmp_path / "photo.png")
        assert photo.inverted
        assert photo.cropped
        assert np.abs(photo.image.astype(int) - image).mean() < 20  # a shift by one pixel is 12, a frame 60


def beside(rng, mnist, indices):
    """Return digits side by side, of about the same height, with gaps between them."""
    inks = [enlarged(rng, mnist.valid.images[index], 110, 130) for index in indices]
    height = max(len(ink) for ink in inks)
    gap = np.zeros((height, int(rng.integers(10, 50))))
    columns = [part for ink in inks for part in (np.pad(ink, ((height - len(ink), 0), (0, 0))), gap)]
    return np.concatenate(columns[:-1], axis=1)


def test_several_digits_are_refused(mnist, tmp_path):
    refused = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ink = beside(rng, mnist, rng.integers(10_000, size=2 + seed % 2))
        save_plain(tmp_path / "photo.png", rng, on_paper(rng, placed(rng, ink, shape=(300, 600))))
        try:
            read_photo(tmp_path / "photo.png")
        except ValueError as error:
            refused += "photo.png: shows several digits; expected one digit" in str(error)
    assert refused >= 19


def test_digits_one_above_the_other_are_refused(mnist, tmp_path):
    refused = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        inks = [enlarged(rng, mnist.valid.images[index], 110, 130) for index in rng.integers(10_000, size=2)]
        column = np.concatenate([np.pad(ink, ((30, 30), (40, 160 - ink.shape[1]))) for ink in inks])
        save_plain(tmp_path / "photo.png", rng, on_paper(rng, column))
        try:
            read_photo(tmp_path / "photo.png")
        except ValueError as error:
            refused += "photo.png: shows several digits; expected one digit" in str(error)
    assert refused >= 17  # of a thin digit in pieces, each can be small enough for a speck


BROKEN = {
    "a 5 with its bar apart": [(70, 60, 75, 140), (66, 150, 78, 200), (85, 60, 150, 72), (140, 72, 152, 150),
                               (150, 72, 230, 80), (150, 140, 230, 150), (222, 72, 232, 150)],
    "a 4 in two strokes": [(60, 60, 150, 72), (140, 60, 152, 120), (50, 132, 240, 144)],
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_one_digit_in_pieces_is_not_refused(tmp_path, name):
    picture = np.full((300, 260), 230, np.uint8)
    for top, left, bottom, right in BROKEN[name]:
        picture[top:bottom, left:right] = 20
    Image.fromarray(picture).save(tmp_path / "photo.png")
    assert not prepare_photo(tmp_path / "photo.png").cropped


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
    """Return the same picture, by file name, in the modes and formats that cameras and drawing programs write."""
    picture = stroke()
    transparent = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    light_on_transparent = Image.new("RGBA", picture.size, (255, 255, 255, 0))
    for box in ((190, 75, 210, 225), (180, 75, 210, 85)):
        transparent.paste((0, 0, 0, 255), box)
        light_on_transparent.paste((255, 255, 255, 255), box)
    cut_out = picture.convert("RGBA")
    cut_out.putalpha(Image.new("L", picture.size, 0))
    cut_out.paste(picture.convert("RGBA").crop((60, 30, 340, 270)), (60, 30))
    # Lab is lightness between two colors without any.
    lab = Image.merge("LAB", [picture, Image.new("L", picture.size, 128), Image.new("L", picture.size, 128)])
    return {
        "light.png": Image.fromarray(255 - np.asarray(picture)),
        "upper.PNG": picture.convert("RGB"),
        "palette.png": picture.convert("P"),
        "one_bit.png": picture.convert("1", dither=Image.Dither.NONE),
        "alpha.png": picture.convert("LA"),
        "16_bit.png": Image.fromarray(np.asarray(picture).astype(np.uint16) * 257),
        "dark_on_transparent.png": transparent,
        "light_on_transparent.png": light_on_transparent,
        "paper_on_transparent.png": cut_out,
        "photo.jpeg": picture,
        "print.JPG": picture.convert("CMYK"),
        "scan.tif": lab,
        "float.tiff": Image.fromarray(np.asarray(picture) / np.float32(255)),
        "photo.bmp": picture,
        "photo.webp": picture.convert("RGB"),
        "frames.gif": picture,
    }


@pytest.mark.parametrize("name", variants())
def test_formats_modes_and_polarities_give_the_same_image(tmp_path, name):
    stroke().save(tmp_path / "reference.png")
    options = {"save_all": True, "append_images": [Image.new("L", (400, 300), 9)]} if name == "frames.gif" else {}
    variants()[name].save(tmp_path / name, **options)
    photo, reference = prepare_photo(tmp_path / name), prepare_photo(tmp_path / "reference.png")
    assert np.abs(photo.image.astype(int) - reference.image).mean() < 2
    assert photo.inverted == ("light" not in name)


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


def save_noise_as_jpeg(path):
    noise = np.random.default_rng(0).normal(180, 8, (480, 640))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path, format="JPEG", quality=30)


def save_empty_sheet_on_a_table(path):
    sheet = np.random.default_rng(0).normal(60, 4, (300, 400))
    sheet[40:260, 50:340] += 150
    Image.fromarray(sheet.astype(np.uint8)).save(path)


def save_page_of_text(path):
    page = np.full((600, 450), 240, np.uint8)
    rng = np.random.default_rng(0)
    for top in range(40, 560, 20):
        for left in range(40, 400, 12):
            page[top : top + rng.integers(6, 12), left : left + rng.integers(3, 9)] = 20
    Image.fromarray(page).save(path)


def save_truncated(path):
    stroke().save(path)
    path.write_bytes(path.read_bytes()[:200])


def save_one_pixel(path):
    Image.new("L", (1, 1)).save(path)


def save_huge(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (20_000, 10_000)).save(path)


def save_heic(path):
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def save_eps(path):
    stroke().save(path, format="EPS")


@pytest.mark.parametrize(("save", "message"), [
    (save_text, "not a readable picture.*; save it as JPEG or PNG"),
    (save_blank, "shows no digit; .*dark on light or light on dark"),
    (save_noise, "shows no digit"),
    (save_noise_as_jpeg, "shows no digit"),
    (save_empty_sheet_on_a_table, "shows no digit"),
    (save_page_of_text, "shows (no|several) digits?"),
    (Path.mkdir, "must be a picture, got a directory; give the pictures in it"),
    (save_truncated, "not a readable picture"),
    (save_one_pixel, "shows no digit"),
    (save_heic, "is a HEIC picture.*; save it as JPEG or PNG"),
    (save_eps, "is EPS, a program"),
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
