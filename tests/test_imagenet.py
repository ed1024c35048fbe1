"""The class lists are ImageNet's, in label order; the 22K-to-1K map is the released one."""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from internimage.imagenet import class_names, map_22k_to_1k, wordnet_ids

pytestmark = pytest.mark.once


@pytest.mark.parametrize("num_classes", [1000, 21841])
def test_a_list_has_one_sorted_id_and_one_name_a_class(num_classes):
    ids, names = wordnet_ids(num_classes), class_names(num_classes)
    assert len(ids) == len(names) == num_classes
    assert list(ids) == sorted(set(ids))
    assert all(len(wordnet_id) == 9 and wordnet_id[0] == "n" and wordnet_id[1:].isdigit() for wordnet_id in ids)
    assert all(name.strip() == name and name for name in names)


def test_names_stand_at_their_labels():
    names = class_names(1000)
    assert names[0] == "tench, Tinca tinca"
    assert names[207].startswith("golden retriever")
    assert names[850] == "teddy, teddy bear"
    assert names[999].startswith("toilet tissue")


def test_other_numbers_of_classes_have_no_list():
    with pytest.raises(ValueError, match=r"must be 1000 .* or 21841 .*, got 80"):
        class_names(80)


def test_the_map_is_the_released_one():
    rows = map_22k_to_1k()
    digest = hashlib.sha256(json.dumps(list(rows), separators=(",", ":")).encode()).hexdigest()
    assert digest == "5f2b63aeee3626b231b230f34ebb128b654ae9924bbd869095d6f1eafd1945d5"  # of the official JSON file
    assert len(rows) == 1000
    assert len(set(rows)) == 999
    assert rows[849] == rows[850] == 11136


def test_the_map_joins_equal_ids_but_for_the_teddy_bear():
    one, many = wordnet_ids(1000), wordnet_ids(21841)
    differing = [(one[label], many[row]) for label, row in enumerate(map_22k_to_1k()) if one[label] != many[row]]
    assert differing == [("n04399382", "n04398044")]


def test_the_lists_are_those_of_timm():
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm is not installed: pip install --no-deps timm")
    folder = Path(spec.origin).parent / "data" / "_info"
    assert wordnet_ids(1000) == tuple((folder / "imagenet_synsets.txt").read_text().split())
    assert wordnet_ids(21841) == tuple((folder / "imagenet22k_synsets.txt").read_text().split())
    names = dict(line.split("\t") for line in (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    for num_classes in (1000, 21841):
        assert class_names(num_classes) == tuple(names[wordnet_id] for wordnet_id in wordnet_ids(num_classes))
