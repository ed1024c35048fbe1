"""Training goes on with the next sample where one can't be read."""

import pytest

from internimage.tasks.images import ImageError
from internimage.tasks.training.samples import first_readable

pytestmark = pytest.mark.once


def reader(broken):
    def read(index):
        if index in broken:
            raise ImageError(f"{index}: damaged")
        return f"sample {index}"

    return read


@pytest.mark.parametrize(
    ("broken", "index", "sample", "corrupt"),
    [
        ((), 1, "sample 1", []),
        ((1,), 1, "sample 2", ["1: damaged"]),
        ((2, 0), 2, "sample 1", ["2: damaged", "0: damaged"]),
    ],
)
def test_the_next_readable_sample_is_taken(broken, index, sample, corrupt):
    assert first_readable(reader(broken), index, 3) == (sample, corrupt)


def test_samples_that_are_all_broken_are_named():
    with pytest.raises(ImageError, match="3 samples in a row can't be read: 1: damaged; 2: damaged; 0: damaged"):
        first_readable(reader(range(3)), 1, 3)
    with pytest.raises(ImageError, match=r"20 samples in a row .*; 9: damaged; and 10 more$"):
        first_readable(reader(range(20)), 0, 20)
