"""The MNIST family: classes, file names, locations and checksums of each dataset; no logic."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

IMAGES_AND_LABELS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "t10k": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The four file names: images and labels of each part."""

BUNDLED = Path(__file__).parent / "bundled"
DIGITS = tuple("0123456789")


class NoValidationError(FileNotFoundError):
    """A dataset without validation images; `reason` says where they were expected."""

    def __init__(self, reason: str) -> None:
        advice = "give --hold-out N (in Python: hold_out(key, data.load_train(PATH), n))"
        super().__init__(f"{reason}; to validate on training images, {advice}")
        self.reason = reason


class IdxSet(NamedTuple):
    """The names of a dataset's IDX files, images and labels of both parts, and what is in them.

    `classes` are the class names; the label of the first is `first_label`. EMNIST's images are `transposed`.
    """

    train: tuple[str, str]
    valid: tuple[str, str]
    classes: tuple[str, ...] = DIGITS
    first_label: int = 0
    transposed: bool = False


def _emnist(name: str, classes: str, first_label: int = 0) -> IdxSet:
    train, valid = (
        (f"emnist-{name}-{part}-images-idx3-ubyte", f"emnist-{name}-{part}-labels-idx1-ubyte")
        for part in ("train", "test")
    )
    return IdxSet(train, valid, tuple(classes), first_label, transposed=True)


_CAPITALS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

IDX_SETS = {
    "mnist": IdxSet(IMAGES_AND_LABELS["train"], IMAGES_AND_LABELS["t10k"]),
    "emnist-balanced": _emnist("balanced", f"{_CAPITALS}abdefghnqrt"),
    "emnist-byclass": _emnist("byclass", f"{_CAPITALS}abcdefghijklmnopqrstuvwxyz"),
    "emnist-bymerge": _emnist("bymerge", f"{_CAPITALS}abdefghnqrt"),
    "emnist-digits": _emnist("digits", "0123456789"),
    "emnist-letters": _emnist("letters", "abcdefghijklmnopqrstuvwxyz", first_label=1),
    "emnist-mnist": _emnist("mnist", "0123456789"),
    "qmnist": IdxSet(
        ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
        ("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
    ),
}
"""The sets of IDX files that `load` knows by their file names."""


class Source(NamedTuple):
    """Locations and checksums of a dataset's files.

    `classes` are the class names, indexed by label. `archives` maps file names to the SHA-256 of the published .gz,
    which the `mirrors` serve and TFDS lists too. `contents` maps them to the SHA-256 of the decompressed file, if
    known. `mirrors` are base URLs, in the order of trying. `directories` are those into which packages install the
    files; they are searched before the cache and the mirrors.
    """

    classes: tuple[str, ...]
    archives: Mapping[str, str]
    mirrors: tuple[str, ...]
    contents: Mapping[str, str] = {}
    directories: tuple[Path, ...] = ()


FAMILY = {
    "mnist": Source(
        DIGITS,
        contents={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        archives={
            "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        directories=(BUNDLED,),
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
    ),
    "fashion_mnist": Source(
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        contents={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        archives={
            "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        directories=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
    "kmnist": Source(
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        archives={
            "train-images-idx3-ubyte": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train-labels-idx1-ubyte": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "t10k-images-idx3-ubyte": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "t10k-labels-idx1-ubyte": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
        mirrors=(
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
    ),
}
