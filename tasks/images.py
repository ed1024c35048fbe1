"""Pictures: read a file, prepare it for a network, write one. Knows no task.

A picture is an array uint8 [H, W, 3] in RGB order, upright as its camera held it.
"""

import re
import zlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from internimage.models import IMAGENET_MEAN, IMAGENET_STD

Image = NDArray[np.uint8]

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

PNG = b"\x89PNG\r\n\x1a\n"  # what such files start with
_JPEG = b"\xff\xd8\xff"
# A marker that starts a segment or ends the picture: not a stuffed zero, a fill byte or a restart.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
# Beyond this ratio of sides only the middle is resized: a strip of 1 x 100000 pixels would need gigabytes.
_LONGEST_STRIP = 32


class ImageError(ValueError):
    """A file that can't be read as a picture. The message starts with the file's name."""


def read_image(path: str | PathLike[str]) -> Image:
    """Read a picture file of any format that OpenCV knows.

    Raises:
        ImageError: the file is missing, a folder, empty, truncated, damaged, or not a picture.
    """
    return decode_image(read_file(path), str(path))


def read_file(path: str | PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: the file is missing, a folder, or can't be read.
    """
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, expected a picture file") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: can't be read: {error.strerror}") from error


def decode_image(data: bytes, name: str) -> Image:
    """Decode the bytes of a picture file; `name` is what errors call it.

    Grey pictures become three equal channels, CMYK becomes RGB, 16 bits are scaled to 8, and the orientation that a
    camera noted is applied. Transparent pixels are blended with white, as most viewers show them: what lies under
    them is arbitrary. (Of a picture with transparency, an orientation note is ignored.)

    Raises:
        ImageError: no data, or data that is truncated, damaged, or not a picture.
    """
    check_whole(data, name)
    if not data.startswith(_JPEG):  # JPEG has no transparency
        pixels = decode_pixels(data, cv2.IMREAD_UNCHANGED, name)
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"{name}: has pixels of type {pixels.dtype}, expected 8 or 16 bits; convert it first")
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            return _blend_with_white(pixels)
    return cv2.cvtColor(decode_pixels(data, cv2.IMREAD_COLOR, name), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def check_whole(data: bytes, name: str) -> None:
    """See that a picture file is complete, as far as its format tells.

    Raises:
        ImageError: no data; a JPEG or PNG file that is truncated or damaged.
    """
    if not data:
        raise ImageError(f"{name}: is empty, expected a picture")
    for signature, find_damage in _FIND_DAMAGE.items():
        if data.startswith(signature) and (damage := find_damage(data)):
            raise ImageError(f"{name}: {damage}; copy or download it again")


def decode_pixels(data: bytes, flags: int, name: str) -> NDArray[Any]:
    """Decode with OpenCV, as its `flags` say; colours are in BGR order.

    Raises:
        ImageError: data that OpenCV can't decode.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # for one, more pixels than OpenCV accepts
        raise ImageError(f"{name}: can't be decoded: {error.err or error}") from error
    if pixels is None:
        raise ImageError(f"{name}: not a picture that OpenCV can decode, or damaged; expected JPEG, PNG, WebP, TIFF...")
    return pixels


def _blend_with_white(pixels: NDArray[Any]) -> Image:
    scaled = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    alpha = scaled[..., 3:]
    blended = scaled[..., 2::-1] * alpha + (1 - alpha)
    opaque: Image = np.rint(blended * 255).astype(np.uint8)
    return opaque


def _jpeg_damage(data: bytes) -> str | None:
    """Decoders fill the missing part with grey and say nothing, so follow the segments to the end-of-image marker."""
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        if match[1] == b"\xd9":
            return None
        # A segment tells its length, so a thumbnail's own end marker is stepped over.
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return "truncated JPEG: it has no end-of-image marker"


def _png_damage(data: bytes) -> str | None:
    position = len(PNG)
    while position + 12 <= len(data):  # length, type, content, checksum
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            break
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"damaged PNG: the checksum of its {kind.decode('latin-1')} chunk is wrong"
        if kind == b"IEND":
            return None
        position = end
    return "truncated PNG: it has no IEND chunk"


_FIND_DAMAGE: dict[bytes, Callable[[bytes], str | None]] = {_JPEG: _jpeg_damage, PNG: _png_damage}


def resize(image: Image, height: int, width: int) -> Image:
    """Resize to `height` x `width` pixels, whatever the aspect ratio: uint8 [height, width, 3].

    Bicubic with antialiasing, in 8 bits, as Pillow does it, which the released weights were evaluated with: more than
    99 % of the values are equal, the rest differ by 1, seldom 2. (Where Pillow finds it less work to resize the
    columns before the rows, up to a fourth differ, by as little. OpenCV's INTER_CUBIC doesn't smooth before it
    shrinks.)
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def resize_short_side(image: Image, size: int) -> Image:
    """Resize, keeping the aspect ratio, so that the shorter side has `size` pixels.

    Of a strip longer than 32 times its width only the middle is kept.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    image = _crop(image, min(height, short * _LONGEST_STRIP), min(width, short * _LONGEST_STRIP))
    height, width = image.shape[:2]
    return resize(image, size * height // short, size * width // short)


def centre_crop(image: Image, size: int) -> Image:
    """Cut the middle `size` x `size` pixels out.

    Raises:
        ValueError: a side is shorter than `size`.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"centre_crop: the picture has {height}x{width} pixels, expected at least {size}x{size}; resize it first"
        )
    return _crop(image, size, size)


def _crop(image: Image, height: int, width: int) -> Image:
    top = round((image.shape[0] - height) / 2)
    left = round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]


def normalise(image: Image) -> Tensor:
    """Scale to [0, 1], then subtract ImageNet's mean and divide by its standard deviation: float32 [3, H, W]."""
    scaled = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


def prepare(image: Image, size: int) -> Tensor:
    """What the released classifiers expect: short side to `size`, centre crop, normalise; float32 [3, size, size]."""
    return normalise(centre_crop(resize_short_side(image, size), size))


def write_image(path: str | PathLike[str], image: Image) -> None:
    """Write a picture, RGB [H, W, 3] or grey [H, W], in the format of the path's suffix.

    Raises:
        ValueError: the suffix is of no format that OpenCV writes.
        OSError: the file can't be written.
    """
    path = Path(path)
    try:
        bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        written, data = cv2.imencode(path.suffix, bgr)
    except cv2.error:
        written = False
    if not written:
        raise ValueError(f"write_image: OpenCV writes no '{path.suffix}' files, got {path}; use .png or .jpg")
    path.write_bytes(data.tobytes())
