"""Each kind of picture file is read as viewers show it, or refused with a reason; preprocessing equals Pillow's."""

import io
import os
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from internimage.models import IMAGENET_MEAN, IMAGENET_STD
from internimage.tasks import images

PIL = pytest.importorskip("PIL", reason="Pillow makes the test files; it comes with matplotlib")
from PIL import Image as Pillow  # noqa: E402

ORANGE = (200, 100, 50)


def encoded(picture: Any, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def photo(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def plain(mode: str = "RGB", colour: Any = ORANGE) -> Any:
    return Pillow.new(mode, (8, 6), colour)


CASES = {
    "JPEG": (encoded(plain(), "JPEG", quality=95), ORANGE),
    "progressive JPEG": (encoded(plain(), "JPEG", quality=95, progressive=True), ORANGE),
    "grey JPEG": (encoded(plain("L", 90), "JPEG", quality=95), (90, 90, 90)),
    "CMYK JPEG": (encoded(plain().convert("CMYK"), "JPEG", quality=95), ORANGE),
    "PNG": (encoded(plain(), "PNG"), ORANGE),
    "grey PNG": (encoded(plain("L", 90), "PNG"), (90, 90, 90)),
    "black and white PNG": (encoded(plain("1", 1), "PNG"), (255, 255, 255)),
    "palette PNG": (encoded(plain().quantize(4), "PNG"), ORANGE),
    "16-bit grey PNG": (encoded(Pillow.fromarray(np.full((6, 8), 40000, np.uint16)), "PNG"), (156, 156, 156)),
    "opaque alpha PNG": (encoded(plain("RGBA", (*ORANGE, 255)), "PNG"), ORANGE),
    "half transparent PNG": (encoded(plain("RGBA", (*ORANGE, 51)), "PNG"), (244, 224, 214)),
    "transparent PNG": (encoded(plain("RGBA", (*ORANGE, 0)), "PNG"), (255, 255, 255)),
    "grey PNG with alpha": (encoded(plain("LA", (200, 0)), "PNG"), (255, 255, 255)),
    "WebP with alpha": (encoded(plain("RGBA", (*ORANGE, 0)), "WEBP", lossless=True), (255, 255, 255)),
    "BMP": (encoded(plain(), "BMP"), ORANGE),
    "TIFF": (encoded(plain(), "TIFF"), ORANGE),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_this_kind_becomes_upright_8_bit_rgb(case):
    data, expected = CASES[case]
    image = images.decode_image(data, case)
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.astype(int), np.broadcast_to(expected, image.shape), atol=2)


def test_16_bit_alpha_is_blended_with_white():
    pixels = np.full((6, 8, 4), 40000, np.uint16)
    pixels[..., 3] = 65535 // 2
    written, data = cv2.imencode(".png", pixels)
    assert written
    expected = round((40000 / 65535 * 0.5 + 0.5) * 255)
    np.testing.assert_allclose(images.decode_image(data.tobytes(), "x").astype(int), expected, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_noted_is_applied(orientation):
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :8] = 255
    exif = Pillow.Exif()
    exif[0x112] = orientation
    upright = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    image = images.decode_image(encoded(Pillow.fromarray(corner), "JPEG", exif=exif, quality=95), "x")
    assert image.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    row, column = (-4 if far else 4 for far in upright)
    assert image[row, column].min() > 240
    assert image.mean() == pytest.approx(255 / 8, abs=3)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1)])
def test_one_pixel_pictures_are_prepared(size):
    image = images.decode_image(encoded(Pillow.fromarray(photo(*size)), "PNG"), "x")
    assert image.shape[:2] == size
    prepared = images.prepare(image, 32)
    assert prepared.shape == (3, 32, 32)
    assert prepared.isfinite().all()


def test_a_long_strip_is_prepared_in_little_memory():
    image = np.zeros((1, 300_000, 3), np.uint8)
    image[:, 149_000:151_000] = 255
    assert images.resize_short_side(image, 224).shape[1] < 20_000
    assert images.prepare(image, 224).min() > 2  # the middle is what is left


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_refused(format, kept):
    data = encoded(Pillow.fromarray(photo(200, 300)), format)
    with pytest.raises(images.ImageError, match=r"^holiday: .*(truncated|damaged)"):
        images.decode_image(data[: int(len(data) * kept)], "holiday")


def test_a_truncated_jpeg_whose_thumbnail_is_whole_is_refused():
    thumbnail = encoded(Pillow.fromarray(photo(30, 40)), "JPEG")
    data = encoded(Pillow.fromarray(photo(200, 300)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    assert images.decode_image(whole, "x").shape == (200, 300, 3)
    with pytest.raises(images.ImageError, match="truncated JPEG"):
        images.decode_image(whole[:-500], "x")


def test_bytes_after_the_end_of_a_jpeg_are_no_damage():
    data = encoded(Pillow.fromarray(photo()), "JPEG")
    assert images.decode_image(data + b"appended by a phone", "x").shape == (60, 80, 3)


def test_a_png_with_a_flipped_bit_is_refused():
    data = bytearray(encoded(Pillow.fromarray(photo()), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(images.ImageError, match="checksum of its IDAT"):
        images.decode_image(bytes(data), "x")


def test_a_png_with_a_wrong_checksum_in_an_unneeded_chunk_is_read():
    data = encoded(plain(), "PNG")
    start = 8 + 25  # after the signature and IHDR
    broken = struct.pack(">I", 1) + b"tEXtx" + struct.pack(">I", zlib.crc32(b"tEXtx") ^ 1)
    assert images.decode_image(data[:start] + broken + data[start:], "x").shape == (6, 8, 3)


def test_float_pictures_are_refused_because_their_range_is_unknown():
    _, data = cv2.imencode(".tiff", np.full((6, 8, 3), 0.5, np.float32))
    with pytest.raises(images.ImageError, match="float32"):
        images.decode_image(data.tobytes(), "x")


def test_files_that_are_no_pictures_are_refused_by_name(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.png").write_text("not a picture\n" * 100)
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "empty.jpg": "is empty",
        "notes.png": "not a picture",
        "folder.png": "is a folder",
        "missing.jpg": "no such file",
    }.items():
        with pytest.raises(images.ImageError, match=message) as raised:
            images.read_image(tmp_path / name)
        assert str(raised.value).startswith(str(tmp_path / name))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(plain(), "PNG"))
    path.chmod(0)
    with pytest.raises(images.ImageError, match="can't be read"):
        images.read_image(path)


@pytest.mark.parametrize(("height", "width", "size"), [(300, 400, 224), (401, 299, 64), (37, 50, 96), (224, 224, 224)])
def test_resizing_equals_pillows_bicubic_but_for_rare_roundings(height, width, size):
    image = photo(height, width)
    ours = images.resize_short_side(image, size)
    pillows = Pillow.fromarray(image).resize(ours.shape[1::-1], Pillow.Resampling.BICUBIC)
    difference = np.abs(ours.astype(int) - np.asarray(pillows).astype(int))
    assert min(ours.shape[:2]) == size
    assert (difference > 0).mean() < 0.01
    assert difference.max() <= 2


@pytest.mark.parametrize(
    ("height", "width", "target"),
    [(160, 220, (128, 128)), (301, 40, (64, 64)), (3, 90, (50, 20)), (1, 1, (5, 7)), (90, 120, (1, 1)), (9, 9, (9, 9))],
)
def test_resizing_to_any_shape_equals_pillows_of_rows_then_columns(height, width, target):
    image = photo(height, width)
    ours = images.resize(image, *target)
    rows = Pillow.fromarray(image).resize((target[1], height), Pillow.Resampling.BICUBIC)
    pillows = rows.resize(target[::-1], Pillow.Resampling.BICUBIC)
    difference = np.abs(ours.astype(int) - np.asarray(pillows).astype(int))
    assert ours.shape == (*target, 3)
    assert (difference > 0).mean() < 0.01
    assert difference.max() <= 2


def test_shrinking_smooths_where_opencvs_bicubic_would_alias():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = images.resize_short_side(stripes, 100)
    assert shrunk.astype(float).std() < 10  # grey all over
    assert cv2.resize(stripes, (100, 100), interpolation=cv2.INTER_CUBIC).astype(float).std() > 30


@pytest.mark.parametrize(("height", "width"), [(8, 13), (13, 8), (8, 8), (9, 15)])
def test_the_centre_crop_leaves_equal_margins(height, width):
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    crop = images.centre_crop(image, 8)
    assert crop.shape == (8, 8, 3)
    top, left = round((height - 8) / 2), round((width - 8) / 2)
    np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])
    with pytest.raises(ValueError, match="at least 14x14"):
        images.centre_crop(image, 14)


def test_normalising_gives_mean_0_and_deviation_1_of_imagenet():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 255
    tensor = images.normalise(image)
    assert tensor.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        assert tensor[channel, 0, 0].item() == pytest.approx((1 - mean) / std, rel=1e-6)
        assert tensor[channel, 1, 1].item() == pytest.approx(-mean / std, rel=1e-6)


def test_a_written_picture_is_read_back(tmp_path):
    image = photo()
    images.write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), image)
    with pytest.raises(ValueError, match=r"'\.txt'"):
        images.write_image(tmp_path / "a.txt", image)
