"""Draw training digits as people draw them, to choose augmentation for photos without any photo.

    python scripts/draw_digits.py runs/drawn
    python scripts/train.py mnist --hold-out 10000 --out runs/candidate
    python scripts/evaluate.py runs/candidate --dataset runs/drawn

The validation pictures are drawn from the 10,000 images that `--hold-out 10000` holds out, so the second command has
not trained on them. The test set is not used.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tyro
from PIL import Image
from scipy import ndimage

from jax_mnist import Dataset, hold_out, load, read_photo

HELD_OUT = 10_000
SCALE, MARGIN = 5, 30  # a drawing is 200 pixels wide


@dataclasses.dataclass(frozen=True)
class DrawConfig:
    """Write an image folder, train/0/... and valid/0/..., of drawings dark on light."""

    out: tyro.conf.Positional[Path]
    """Directory to write."""
    valid: int = 2000
    """Number of held-out digits to draw, at most 10,000; drawings that `read_photo` refuses are left out."""
    train: int = 100
    """Number of training digits to draw, at most 50,000."""
    seed: int = 0
    """Seed of the distortions."""


def draw(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return a digit uint8 [28, 28] as a drawing uint8 [200, 200] by another hand and another pen, dark on light."""
    large = np.pad(np.asarray(ndimage.zoom(image / 255, SCALE, order=3)), MARGIN)
    # The hand: rotation, slant and proportions, each normal, and a smooth displacement of up to 7 pixels.
    angle, slant, aspect = rng.normal(0, np.deg2rad(10)), rng.normal(0, 0.2), np.exp(rng.normal(0, 0.1))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    transform = rotation @ np.array([[1, 0], [slant, 1]]) @ np.diag([aspect, 1 / aspect])
    center = (len(large) - 1) / 2
    positions = np.moveaxis(np.indices(large.shape) - center, 0, -1) @ transform.T + center
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=large.shape), 20) for _ in range(2)])
    displacement = noise / np.abs(noise).max() * rng.uniform(0, 7)
    large = ndimage.map_coordinates(large, np.moveaxis(positions, -1, 0) + displacement, order=1)
    # The pen: the distance from the edge of the ink, positive inside, above a threshold that thins or thickens it.
    ink = large > 0.45
    inside, outside = (np.asarray(ndimage.distance_transform_edt(mask)) for mask in (ink, ~ink))
    distance = inside - outside
    thickest_line = np.percentile(distance[ink], 80) - 1  # thinner, and parts of the digit would vanish
    stroke = distance > min(rng.uniform(-5, 3.5), thickest_line)
    opacity = ndimage.gaussian_filter(stroke.astype(float), rng.uniform(0.3, 1.3))
    paper, black = rng.uniform(190, 255), rng.uniform(0, 110)
    picture = paper + (black - paper) * opacity + rng.normal(0, rng.uniform(0, 4), opacity.shape)
    return picture.clip(0, 255).astype(np.uint8)


def main() -> None:
    """Draw both parts; the same seed gives the same pictures."""
    config = tyro.cli(DrawConfig)
    if config.out.exists():
        raise SystemExit(f"{config.out} must not exist: it would mix these drawings with others")
    splits = hold_out(jax.random.key(0), load("mnist").train, HELD_OUT)
    counts = {"train": config.train, "valid": config.valid}
    for part, count in counts.items():
        limit = len(getattr(splits, part))
        if not 0 < count <= limit:
            raise SystemExit(f"--{part} must be in 1..{limit}, got {count}")
    refused = 0
    for part, count in counts.items():
        digits: Dataset = getattr(splits, part)
        for index in range(count):
            image, label = digits[index]
            path = config.out / part / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing = draw(np.random.default_rng((config.seed, part == "valid", index)), image)
            Image.fromarray(drawing).save(path)
            try:
                read_photo(path)
            except ValueError:  # such as two halves, broken by a thin pen; `load` would refuse the whole folder
                path.unlink()
                refused += 1
    print(f"{sum(counts.values()) - refused:,} drawings written to {config.out}, {refused:,} refused and left out")


if __name__ == "__main__":
    main()
