"""Label files give back the numbers that were stored, whatever wrote them, and what can't be labels is explained."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from internimage.tasks.images import ImageError
from internimage.tasks.segmentation.class_names import Classes, ClassFile, classes_of
from internimage.tasks.segmentation.label_files import read_labels, write_labels
from internimage.tasks.segmentation.label_values import mapped, plain, reduced, values_of

pytestmark = pytest.mark.once

COLOURS = np.array([[128, 64, 128], [70, 130, 180], [0, 0, 0]], np.uint8)
SQUARE = np.arange(12, dtype=np.uint8).reshape(3, 4)
ALL_BYTES = plain(255)


def numbers(bits, shape=(13, 19), seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint16 if bits == 16 else np.uint8)


def own_file(*, classes=3, palette=COLOURS, **settings):
    names = tuple(f"class {label}" for label in range(classes))
    has_palette = palette is not None
    return values_of(ClassFile(Classes(names, COLOURS if palette is None else palette), has_palette, **settings))


def save(path, image, **settings):
    image.save(path, "PNG", **settings)
    return path


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, bits, colour, rows, *, interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed_rows(values, bits):
    """Rows of a PNG: a filter byte, then numbers of few bits, the first in the highest."""
    one_by_one = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(len(values), -1)
    return np.pad(np.packbits(one_by_one, axis=1), ((0, 0), (1, 0))).tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_an_indexed_picture_gives_its_indices_and_not_its_colours(tmp_path, bits, transparent):
    stored = numbers(bits)
    image = Image.fromarray(stored)
    image.putpalette(np.random.default_rng(1).integers(0, 256, 3 * 2**bits).astype(np.uint8).tobytes())
    assert image.mode == "P"
    path = save(tmp_path / "x.png", image, bits=bits, **({"transparency": 1} if transparent else {}))
    np.testing.assert_array_equal(read_labels(path, ALL_BYTES), np.asarray(Image.open(path)))
    np.testing.assert_array_equal(read_labels(path, ALL_BYTES), stored)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_picture_of_few_bits_gives_its_numbers_unscaled(tmp_path, bits):
    stored = numbers(bits)
    path = tmp_path / "x.png"
    path.write_bytes(png(19, 13, bits, 0, packed_rows(stored, bits)))
    np.testing.assert_array_equal(read_labels(path, ALL_BYTES), stored)


def test_an_interlaced_picture_gives_its_numbers(tmp_path):
    stored = numbers(8, (17, 21))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(packed_rows(stored[top::down, left::right], 8) for top, left, down, right in passes)
    path = tmp_path / "x.png"
    path.write_bytes(png(21, 17, 8, 0, rows, interlaced=1))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), stored)
    np.testing.assert_array_equal(read_labels(path, ALL_BYTES), stored)


def test_a_picture_of_16_bits_is_read_where_its_numbers_are_classes(tmp_path):
    stored = numbers(16) % 3
    path = save(tmp_path / "x.png", Image.fromarray(stored))
    labels = read_labels(path, plain(3))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, stored)
    stored[2:4, 5] = 26001
    save(path, Image.fromarray(stored))
    with pytest.raises(ImageError, match=r"26001 \(2 pixels\), expected 0 to 2 for .*single objects"):
        read_labels(path, plain(3))
    np.testing.assert_array_equal(
        read_labels(path, own_file(ignore_index=26001)), np.where(stored == 26001, 255, stored)
    )


def test_notes_in_a_file_change_nothing(tmp_path):
    """Such as gamma, or the camera's orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = save(tmp_path / "x.png", Image.fromarray(SQUARE), exif=exif, transparency=3)
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(b"gAMA", struct.pack(">I", 100000)) + data[33:] + b"appended")
    np.testing.assert_array_equal(read_labels(path, ALL_BYTES), SQUARE)


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)), st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_written_labels_are_read_back_to_the_bit(tmp_path_factory, labels, classes):
    path = tmp_path_factory.mktemp("labels") / "x.png"
    palette = np.random.default_rng(0).integers(0, 256, (classes, 3)).astype(np.uint8)
    write_labels(path, labels, palette)
    np.testing.assert_array_equal(read_labels(path, ALL_BYTES), labels)
    image = Image.open(path)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    seen = np.asarray(image.convert("RGB"))
    inside = labels < classes
    np.testing.assert_array_equal(seen[inside], palette[labels[inside]])
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], seen)


def test_pixels_of_no_class_are_pale_in_a_written_file(tmp_path):
    write_labels(tmp_path / "x.png", np.full((2, 2), 255, np.uint8), classes_of("cityscapes").palette)
    assert Image.open(tmp_path / "x.png").convert("RGB").getpixel((0, 0)) == (224, 224, 192)


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 2), np.int64), np.zeros((1, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_only_labels_are_written(tmp_path, labels):
    with pytest.raises(ValueError, match=r"write_labels: expected labels uint8 \[H, W\], got"):
        write_labels(tmp_path / "x.png", labels, COLOURS)
    assert not (tmp_path / "x.png").exists()


# What numbers stand for


def test_zero_is_no_class_where_labels_are_reduced(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(np.array([[0, 1, 2, 150, 255]], np.uint8)))
    assert read_labels(path, reduced(150)).tolist() == [[255, 0, 1, 149, 255]]


def test_each_number_has_the_class_that_the_table_says(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(np.array([[7, 8, 0, 3, 255]], np.uint8)))
    assert read_labels(path, mapped({7: 1, 8: 0}, [0, 3])).tolist() == [[1, 0, 255, 255, 255]]


def test_a_mask_of_no_class_at_all_is_fine(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(np.full((2, 3), 255, np.uint8)))
    assert (read_labels(path, plain(3)) == 255).all()


def test_numbers_that_are_no_class_are_named_and_counted(tmp_path):
    stored = np.array([[0, 1, 2], [9, 9, 12], [255, 2, 1]], np.uint8)
    path = save(tmp_path / "x.png", Image.fromarray(stored))
    with pytest.raises(ImageError) as error:
        read_labels(path, plain(3, ignored=200))
    assert str(error.value) == (
        f"{path}: holds 9 (2 pixels), 12 (1 pixels), expected 0 to 2 for classes and 200, 255 for none; is this "
        "another version of the data, or another list of classes?"
    )
    with pytest.raises(ImageError, match=r"expected 1 to 2 for classes and 0, 255 for none"):
        read_labels(path, reduced(2))


def test_labels_that_start_at_one_are_recognised(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8)))
    with pytest.raises(ImageError, match=r"3 \(1 pixels\).*set \"reduce_zero_label\": true in classes.json"):
        read_labels(path, own_file())
    assert read_labels(path, own_file(reduce_zero_label=True)).tolist() == [[255, 0, 1, 2]]


def test_the_ignored_number_may_be_any(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(np.array([[0, 1, 2, 11, 255]], np.uint8)))
    assert read_labels(path, own_file(ignore_index=11)).tolist() == [[0, 1, 2, 255, 255]]
    path = save(tmp_path / "x.png", Image.fromarray(np.array([[0, 1, 2]], np.uint8)))
    assert read_labels(path, own_file(ignore_index=0)).tolist() == [[255, 1, 2]]


# Colours


def test_colours_of_the_palette_are_classes(tmp_path):
    stored = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    path = save(tmp_path / "x.png", Image.fromarray(COLOURS[stored]))
    np.testing.assert_array_equal(read_labels(path, own_file()), stored)


def test_a_strange_colour_is_named_with_its_place(tmp_path):
    colours = COLOURS[np.zeros((4, 5), int)]
    colours[2, 3] = colours[3, 1] = (128, 64, 129)
    colours[3, 2] = (255, 255, 255)
    path = save(tmp_path / "x.png", Image.fromarray(colours))
    with pytest.raises(ImageError, match=r"\[128, 64, 129\], first in row 2, column 3, in 2 pixels, which the palette"):
        read_labels(path, own_file())


def test_colours_are_explained_where_no_palette_names_them(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(COLOURS[None]))
    with pytest.raises(ImageError, match=r"is an RGB picture, expected 0 to 2 for .* grey or indexed PNG.*\"palette\""):
        read_labels(path, own_file(palette=None))
    save(path, Image.fromarray(SQUARE).convert("RGB"))
    with pytest.raises(ImageError, match=r"its channels are equal: save one of them"):
        read_labels(path, plain(12))


def test_colours_are_refused_where_two_classes_have_the_same(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(COLOURS[None]))
    with pytest.raises(ImageError, match="classes 0 and 2 have the same colour"):
        read_labels(path, own_file(palette=COLOURS[[0, 1, 0]]))


# Files that are no label files


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pictures_are_refused(tmp_path, mode):
    path = save(tmp_path / "x.png", Image.fromarray(SQUARE).convert(mode))
    with pytest.raises(ImageError, match=f"{'grey' if mode == 'LA' else 'RGB'} PNG with transparency"):
        read_labels(path, own_file())


def test_colours_of_16_bits_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((2, 2, 3), np.uint16))
    with pytest.raises(ImageError, match="RGB picture of 16 bits"):
        read_labels(tmp_path / "x.png", own_file())


def test_what_is_no_png_file_is_refused_by_name(tmp_path):
    path = tmp_path / "x.png"
    cases = [(b"", "is empty"), (b"labels", "not a PNG file"), (b"\x89PNG\r\n\x1a\n", "truncated PNG")]
    headless = b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b"")
    cases += [(cv2.imencode(".jpg", SQUARE)[1].tobytes(), "not a PNG file"), (headless, "doesn't start with a header")]
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(ImageError, match=message) as error:
            read_labels(path, ALL_BYTES)
        assert str(error.value).startswith(str(path))
    with pytest.raises(ImageError, match="no such file"):
        read_labels(tmp_path / "none.png", ALL_BYTES)
    with pytest.raises(ImageError, match="is a folder"):
        read_labels(tmp_path, ALL_BYTES)


@pytest.mark.parametrize("rows", [b"\0" * 10, b"\0" * 40], ids=["too few", "none"])
def test_a_file_with_too_few_pixels_is_refused(tmp_path, rows, capfd):
    (tmp_path / "x.png").write_bytes(png(100, 40, 8, 0, rows))
    with pytest.raises(ImageError):
        read_labels(tmp_path / "x.png", ALL_BYTES)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "x.png"
    write_labels(path, SQUARE, COLOURS)
    return path


def places(data: bytes):
    """All of the head and the end, some of the palette between them."""
    return [*range(50), *range(50, len(data) - 60, 19), *range(len(data) - 60, len(data))]


def result(path: Path, data: bytes):
    path.write_bytes(data)
    try:
        return read_labels(path, ALL_BYTES).tolist()
    except ImageError:
        return None


def test_a_truncated_file_is_an_error(written, tmp_path):
    data = written.read_bytes()
    assert result(tmp_path / "x.png", data) == SQUARE.tolist()
    assert all(result(tmp_path / "x.png", data[:end]) is None for end in places(data))


def test_a_changed_byte_is_an_error(written, tmp_path, capfd):
    data = written.read_bytes()
    for place in places(data):
        changed = data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :]
        assert result(tmp_path / "x.png", changed) is None, place


# MATLAB files


def save_mat(path, compressed=True, **variables):
    scipy.io.savemat(path, variables, do_compression=compressed)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_a_matlab_file_holds_labels_in_s(tmp_path, dtype):
    names = np.array(["unlabeled", "person"], object)
    path = save_mat(tmp_path / "x.mat", S=SQUARE.astype(dtype), names=names, captions=names)
    labels = read_labels(path, ALL_BYTES)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, SQUARE)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_matlab_file_is_an_error_unless_s_is_whole(tmp_path, compressed):
    path = save_mat(tmp_path / "x.mat", compressed, S=SQUARE, names=np.array(["a"], object))
    data = path.read_bytes()
    results = [result(path, data[:end]) for end in range(0, len(data) + 1, 7)]
    first = results.index(SQUARE.tolist())
    assert results[:first] == [None] * first
    assert first > 128 // 7  # the header
    assert all(found in (None, SQUARE.tolist()) for found in results[first:])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"T": SQUARE}, "no matrix S"),
        ({"S": np.zeros((2, 2, 2), np.uint8)}, "no matrix S"),
        ({"S": "text"}, "no matrix S"),
        ({"S": np.array([[0, 0.5]])}, "holds 0.5, expected 0 to 65535"),
        ({"S": np.array([[0, -1.0]])}, "holds -1.0, expected"),
        ({"S": np.array([[np.nan, 0]])}, "holds nan, expected"),
        ({"S": np.array([[0, 300]], np.uint16)}, r"300 \(1 pixels\)"),
    ],
)
def test_other_matlab_files_are_explained(tmp_path, variables, message):
    with pytest.raises(ImageError, match=message):
        read_labels(save_mat(tmp_path / "x.mat", **variables), ALL_BYTES)


def test_a_file_that_is_called_mat_must_be_one(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(SQUARE).save(buffer, "PNG")
    for data in (b"", b"S = [1 2]", buffer.getvalue()):
        (tmp_path / "x.mat").write_bytes(data)
        with pytest.raises(ImageError, match="can't be read as a MATLAB file"):
            read_labels(tmp_path / "x.mat", ALL_BYTES)
