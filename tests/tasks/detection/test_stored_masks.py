"""Compressed RLE is told from what isn't, which pycocotools doesn't look at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from internimage.tasks.detection.stored_masks import StoredMasks, decode_masks

pytestmark = pytest.mark.once


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.integers(1, 60))
def test_compressed_rle_is_read_as_it_was_written(seed, height, width, share, run):
    rng = np.random.default_rng(seed)
    pixels = np.repeat(rng.random(-(-height * width // run)) < share, run)[: height * width]
    mask = np.asfortranarray(pixels.reshape(height, width), dtype=np.uint8)
    counts = coco_masks.encode(mask)["counts"]
    masks = StoredMasks()
    assert masks.append({"size": [height, width], "counts": counts.decode()}, (height, width))
    np.testing.assert_array_equal(decode_masks([masks.read(0, (height, width))], (height, width))[0], mask)
    for damaged, size in (
        (counts, (height + 1, width)),
        (counts[:-1], (height, width)),
        (counts + b"0000" + counts, (height, width)),
        (counts + b"P" * 12, (height, width)),
        (b"~" + counts, (height, width)),
    ):
        if damaged[:-1] == counts[:-1] and size == (height, width):
            continue  # a run of none at the end
        with pytest.raises(ValueError, match="don't sum up to"):
            masks.append({"size": list(size), "counts": damaged}, size)
