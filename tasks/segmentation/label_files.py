"""Label files: PNG whose pixels are numbers, grey or indexed, and the MATLAB files of COCO-Stuff 10K."""

import io
import struct
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from internimage.tasks.images import PNG, ImageError, check_whole, decode_pixels, read_file
from internimage.tasks.segmentation.class_names import colour_map
from internimage.tasks.segmentation.label_values import LabelValues

_GREY, _RGB, _INDEXED = 0, 2, 3  # types of PNG that labels may have
_TRANSPARENT = {4: "grey", 6: "RGB"}


def read_labels(path: str | PathLike[str], values: LabelValues) -> NDArray[np.uint8]:
    """Read a label file: uint8 [H, W], the class of each pixel, 255 where it belongs to none.

    Args:
        path: a PNG file of 1 to 16 bits, grey or indexed (then the indices count, not the colours), in colour where
            `values` says; or a MATLAB file with a matrix S.
        values: what stands for which class.

    Raises:
        ImageError: the file is missing, damaged or of another kind, or holds what stands for no class.
    """
    name = str(path)
    data = read_file(path)
    return values.to_labels(_mat_numbers(data, name) if name.endswith(".mat") else _png_numbers(data, name), name)


def write_labels(path: str | PathLike[str], labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    """Write labels as an indexed PNG: `read_labels` gives them back, viewers show the classes' colours.

    Args:
        labels: uint8 [H, W].
        palette: uint8 [classes, 3], RGB; what lies beyond has the colours of `colour_map`.

    Raises:
        ValueError: labels of another type or shape.
        OSError: the file can't be written.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
        raise ValueError(f"write_labels: expected labels uint8 [H, W], got {labels.dtype} {list(labels.shape)}")
    colours = colour_map(256)
    colours[: len(palette)] = palette
    height, width = labels.shape
    rows = np.pad(labels, ((0, 0), (1, 0)))  # before each row its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)
    chunks = {b"IHDR": header, b"PLTE": colours.tobytes(), b"IDAT": zlib.compress(rows.tobytes()), b"IEND": b""}
    Path(path).write_bytes(PNG + b"".join(_chunk(kind, content) for kind, content in chunks.items()))


def _png_numbers(data: bytes, name: str) -> NDArray[Any]:
    """The numbers [H, W], or the colours [H, W, 3] in RGB, of a PNG file.

    OpenCV gives an indexed picture's colours. As grey the same pixels are its indices, so it is told that they are
    grey; and notes such as transparency are kept from it.
    """
    if data and not data.startswith(PNG):
        raise ImageError(f"{name}: not a PNG file, expected labels as a grey or indexed PNG")
    check_whole(data, name)
    chunks = list(_chunks(data))
    kind, header = chunks[0]
    if kind != b"IHDR" or len(header) != 13:
        raise ImageError(f"{name}: damaged PNG: it doesn't start with a header; copy or download it again")
    bits, colour = header[8:10]
    if colour in _TRANSPARENT:
        raise ImageError(
            f"{name}: is a {_TRANSPARENT[colour]} PNG with transparency, expected labels as a grey or indexed PNG; "
            "save it without transparency"
        )
    if colour == _INDEXED:
        header = header[:9] + bytes([_GREY]) + header[10:]
    pixels = b"".join(_chunk(kind, content) for kind, content in chunks if kind == b"IDAT")
    plain = PNG + _chunk(b"IHDR", header) + pixels + _chunk(b"IEND", b"")
    decoded = decode_pixels(plain, cv2.IMREAD_UNCHANGED, name)
    if colour == _RGB:
        if decoded.dtype != np.uint8:
            raise ImageError(f"{name}: is an RGB picture of 16 bits, expected a grey or indexed PNG")
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return decoded // (255 // (2**bits - 1)) if bits < 8 else decoded  # grey of few bits is scaled to 8


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The parts of a PNG file that is whole: kind and content."""
    position, kind = len(PNG), b""
    while kind != b"IEND":  # what follows the end is no part of the picture
        kind = data[position + 4 : position + 8]
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        yield kind, data[position + 8 : end]
        position = end + 4


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _mat_numbers(data: bytes, name: str) -> NDArray[Any]:
    try:
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=["S"])
    # SciPy raises each of these on one kind of damage or another.
    except (ValueError, TypeError, NotImplementedError, IndexError, OSError, MatReadError, zlib.error) as error:
        raise ImageError(f"{name}: can't be read as a MATLAB file: {error}; copy or download it again") from error
    numbers = content.get("S")
    if not isinstance(numbers, np.ndarray) or numbers.ndim != 2 or numbers.dtype.kind not in "uif":
        raise ImageError(f"{name}: holds no matrix S of labels, as the MATLAB files of COCO-Stuff 10K do")
    with np.errstate(invalid="ignore"):
        unsigned = numbers.astype(np.uint16)
    if (unsigned != numbers).any():
        raise ImageError(f"{name}: its matrix S holds {numbers[unsigned != numbers][0]}, expected 0 to 65535")
    return unsigned
