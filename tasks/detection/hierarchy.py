"""The hierarchy of Open Images' classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from internimage.tasks.detection.objects import Ancestors
from internimage.tasks.folders import DatasetError, neighbours


def read_hierarchy(path: Path, labels: Mapping[str, int]) -> Ancestors:
    """Read a file such as bbox_labels_600_hierarchy.json: nested nodes with LabelName and Subcategory.

    The root, which is everything, is no ancestor, nor is a class of which another is a Part (a car of a wheel). A class
    may stand in several places.

    Args:
        path: of the file.
        labels: of the classes, by their keys.

    Raises:
        DatasetError: the file is missing, damaged, or of other classes.
    """
    try:
        root = json.loads(path.read_text(encoding="utf-8"))
        pairs = [pair for node in root["Subcategory"] for pair in _kinds(node, ())]
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file of a hierarchy{neighbours(path)}") from None
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: isn't JSON, or damaged: {error}; copy or download it again") from error
    except (KeyError, TypeError):
        raise DatasetError(
            f"{path}: isn't a hierarchy of classes, expected nested objects with LabelName and Subcategory"
        ) from None
    if labels.keys().isdisjoint(key for key, _ in pairs):
        raise DatasetError(f"{path}: has none of the {len(labels)} classes of the data; give the file of these classes")
    ancestors: list[set[int]] = [set() for _ in labels]
    for key, above in pairs:
        if key in labels:
            ancestors[labels[key]].update(labels[one] for one in above if one in labels)
    return tuple(map(frozenset, ancestors))


def _kinds(node: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every class from a node on, and those above it."""
    key = node["LabelName"]
    yield key, above
    for kind in node.get("Subcategory", ()):
        yield from _kinds(kind, (*above, key))
