"""WordNet ids and names of the ImageNet classes, in the label order of the released weights.

`num_classes` chooses the list: 1000 for ImageNet-1K, 21841 for ImageNet-22K (fall-2011 release). Both are sorted by
WordNet id. The names are WordNet lemmas (internimage/data/NOTICE).
"""

import gzip
from functools import cache
from importlib.resources import files

_FILES = {1000: "imagenet1k.tsv", 21841: "imagenet22k.tsv.gz"}

# The teddy bear of 1K has no class in the fall-2011 release; the released models map it to the teapot.
_ABSENT_FROM_22K = {"n04399382": "n04398044"}


@cache
def _table(num_classes: int) -> tuple[tuple[str, str], ...]:
    if num_classes not in _FILES:
        raise ValueError(f"imagenet: num_classes must be 1000 (ImageNet-1K) or 21841 (ImageNet-22K), got {num_classes}")
    data = files("internimage.data").joinpath(_FILES[num_classes]).read_bytes()
    if _FILES[num_classes].endswith(".gz"):
        data = gzip.decompress(data)
    rows = (line.split("\t") for line in data.decode().splitlines())
    return tuple((wordnet_id, name) for wordnet_id, name in rows)


@cache
def wordnet_ids(num_classes: int = 1000) -> tuple[str, ...]:
    """WordNet ids ("n01440764") by label.

    Raises:
        ValueError: `num_classes` is neither 1000 nor 21841.
    """
    return tuple(wordnet_id for wordnet_id, _ in _table(num_classes))


@cache
def class_names(num_classes: int = 1000) -> tuple[str, ...]:
    """Readable names by label: the class's WordNet lemmas, separated by ", ", the most usual first.

    Two classes can share a name (the bird and the machine are both "crane"); `wordnet_ids` tells them apart.

    Raises:
        ValueError: `num_classes` is neither 1000 nor 21841.
    """
    return tuple(name for _, name in _table(num_classes))


@cache
def map_22k_to_1k() -> tuple[int, ...]:
    """For each ImageNet-1K label, the ImageNet-22K label of the same WordNet id.

    Gathering these rows of a 21841-way classifier makes a 1000-way one. n04399382 (teddy bear), which 22K lacks,
    takes the row of n04398044 (teapot), so 999 rows are distinct.
    """
    labels_22k = {wordnet_id: label for label, wordnet_id in enumerate(wordnet_ids(21841))}
    return tuple(labels_22k[_ABSENT_FROM_22K.get(wordnet_id, wordnet_id)] for wordnet_id in wordnet_ids(1000))
