"""What the tests of pre-training share."""

import pytest
from pretraining_data import TINY, write_data

from internimage.variants import VARIANTS


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    """The tiny models have names, as recipes need it."""
    VARIANTS.update(TINY)
    yield
    for name in TINY:
        del VARIANTS[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))
