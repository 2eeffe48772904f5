"""Files and directories of other formats: what each is, and how to turn it into what `load` reads."""

import gzip
import zlib
from pathlib import Path

from .image_folder import is_picture, list_visible

_SAVE = "np.savez('mnist.npz', x_train=..., y_train=..., x_test=..., y_test=...) writes what is read"
_UNPACK = "an archive; unpack it and give the directory"
_PICKLE = f"a pickle, which can run any code and is not opened; if you trust its author, read it yourself, then {_SAVE}"
_TORCH = f"a file of PyTorch; read it with torch.load(..., weights_only=True), then {_SAVE}"
_HDF5 = f"an HDF5 file; read it with h5py, then {_SAVE}"
_MATLAB = f"a MATLAB file; read it with scipy.io.loadmat, then {_SAVE}"
_PARQUET = f"a Parquet file; read it with pandas.read_parquet, decode its images with Pillow, then {_SAVE}"
_ARROW = f"an Arrow file; read it with datasets.Dataset.from_file or pyarrow, then {_SAVE}"
_IDX = "one of the four IDX files of a dataset; give the directory that has all of them"
_EXCEL = "a spreadsheet; save it as CSV"
_TFRECORD = "a file of TensorFlow Datasets; give tfds:NAME, with TFDS_DATA_DIR set to the directory above NAME"
_PICTURE = "one picture; give a directory with a folder of pictures for each class. `predict RUN PICTURE` reads it"

_UNKNOWN = "not a dataset that is read; expected an .npz, .csv or .csv.gz file, or a directory"

_BY_START = {
    b"PAR1": _PARQUET,
    b"ARROW1": _ARROW,
    b"\x89HDF": _HDF5,
    b"MATLAB": _MATLAB,
    b"\x93NUMPY": f"one NumPy array; {_SAVE}",
    b"7z\xbc\xaf": _UNPACK,
    b"Rar!": _UNPACK,
    b"BZh": _UNPACK,
    b"\xfd7zXZ": _UNPACK,
    b"\0\0\x08\x03": _IDX,
    b"\0\0\x08\x01": _IDX,
    b"\0\0\x0c\x02": _IDX,
    b"\x80\x02": _PICKLE,
    b"\x80\x03": _PICKLE,
    b"\x80\x04": _PICKLE,
    b"\x80\x05": _PICKLE,
    b"SQLite": "an SQLite database; write its table as CSV",
}
_BY_SUFFIX = {
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".p": _PICKLE,
    ".joblib": _PICKLE,
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".mat": _MATLAB,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".parquet": _PARQUET,
    ".arrow": _ARROW,
    ".feather": _ARROW,
    ".arff": f"an ARFF file; read it with scipy.io.arff.loadarff, then {_SAVE}",
    ".xlsx": _EXCEL,
    ".xls": _EXCEL,
    ".ods": _EXCEL,
    ".zip": _UNPACK,
    ".tar": _UNPACK,
    ".tgz": _UNPACK,
    ".rar": _UNPACK,
    ".7z": _UNPACK,
}


def describe_file(path: Path) -> str:
    """Describe a file that `load` does not read, and what to do with it; only its first bytes are read."""
    with path.open("rb") as file:
        start = file.read(512)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if start[:2] == b"\x1f\x8b":
        start = _unzipped_start(path)
        if start[257:262] == b"ustar":
            return _UNPACK
    if ".tfrecord" in path.name or ".array_record" in path.name:
        return _TFRECORD
    for suffix in reversed(suffixes):
        if suffix in _BY_SUFFIX:
            return _BY_SUFFIX[suffix]
    known = next((what for begin, what in _BY_START.items() if start.startswith(begin)), None)
    if known is not None:
        return known
    if start[:4] == b"PK\3\4":
        return _UNPACK
    if is_picture(path):
        return _PICTURE
    return _UNKNOWN


def describe_directory(path: Path) -> str | None:
    """Describe a directory without a dataset that `load` reads, and what to do with it; None if it is unknown."""
    files = [child for child in list_visible(path) if child.is_file()]
    names = {file.name for file in files}
    below = [grandchild for child in list_visible(path) if child.is_dir() for grandchild in list_visible(child)]
    if names & {"dataset_dict.json", "state.json"} or any(
        file.suffix in (".arrow", ".parquet") for file in files + below
    ):
        return (
            "a Hugging Face dataset; read it with datasets.load_from_disk or datasets.load_dataset(PATH), put its "
            f"images and labels into arrays, then {_SAVE}"
        )
    if "dataset_info.json" in names or "features.json" in names:
        return "a dataset of TensorFlow Datasets; give tfds:NAME, with TFDS_DATA_DIR set to the directory above NAME"
    pictures = sum(map(is_picture, [*files, *below]))
    if pictures:
        return (
            f"a directory of pictures ({pictures:,}), but not of two or more class folders; put those of each class "
            "into a folder named after it"
        )
    described = ((file, describe_file(file)) for file in [*files, *below] if file.is_file())
    other = next(((file, what) for file, what in described if what not in (_UNKNOWN, _IDX)), None)
    return f"not a dataset that is read; {other[0].relative_to(path)} is {other[1]}" if other else None


def _unzipped_start(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(512)
    except (OSError, EOFError, zlib.error):
        return b""
