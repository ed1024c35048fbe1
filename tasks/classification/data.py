"""The data sets of classification: folders of classes, tar shards and iNaturalist 2018, as encoded pictures by index.

`open_dataset` recognises what lies in a folder. Paths and labels are arrays, and pictures are decoded by those who need
them (`loading.py`): opening is quick, and millions of pictures take little memory.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.classification.class_list import INTEGER, ClassList
from internimage.tasks.classification.inaturalist import annotations_path, read_inaturalist
from internimage.tasks.folders import DatasetError, files_below, listing, neighbours, some
from internimage.tasks.images import SUFFIXES
from internimage.tasks.training.shards import COMPRESSED_NAME, PICTURES, TarShards, shards_of_split

_SUFFIXES = tuple(os.fsencode(suffix) for suffix in SUFFIXES)
_MOST_LABELS = 1_000_000  # of labels that are numbers: more is an error in the data


@dataclass(frozen=True)
class Sample:
    """One picture, as it is stored."""

    name: str  # what messages call it: a path, or shard/key
    data: bytes  # the encoded picture
    label: int
    metadata: tuple[float, ...] = ()  # iNaturalist: month, degrees north, degrees east; NaN where unknown


class Dataset(Protocol):
    """What every data set offers. Objects may be shared by threads, and forked or pickled to other processes."""

    classes: Sequence[str]  # ids by label: folder names
    sizes: Sequence[int]  # samples of each piece that is best read in one go

    def __len__(self) -> int: ...

    def labels(self) -> NDArray[np.int64]:
        """The labels of all samples: [N]."""

    def name(self, index: int) -> str:
        """What messages call a sample."""

    def __getitem__(self, index: int) -> Sample:
        """Read a sample.

        Raises:
            OSError: the file is missing or can't be read.
            ShardError: the tar shard has changed.
        """


def open_dataset(folder: Path, split: str, *, classes: Path | Sequence[str] | None = None) -> Dataset:
    """Open one split of the data set in a folder, in one of these layouts.

    * Class folders: {split}/<class>/**/*.jpg, or another suffix of `internimage.tasks.images.SUFFIXES`. Symbolic links
      are followed; names that start with a dot are passed over.
    * Tar shards in webdataset naming, {split}*.tar or {split}/*.tar: the picture as jpg, jpeg, png or webp, and the
      class as `cls`, which holds an id or the number of the label.
    * iNaturalist 2018: {split}2018.json, the pictures that it names, and {split}2018_locations.json where there is one.
      The ids of its classes are the numbers of its categories.

    Args:
        split: "train", "val" or another name. In "train", each class must have a picture.
        classes: ids in the order of the labels. A file (one id a line, after a tab a readable name; or a JSON list)
            also chooses the classes: others are left out, with a warning. In a list, such as the classes of the
            training data, every class of the data must stand. Default: the classes of the data, sorted.

    Raises:
        FileNotFoundError: the folder or the class file is missing.
        DatasetError: no known layout, an unknown or an empty class, a label out of range, a file that isn't what its
            layout says, or missing pictures.
        ShardError: a tar shard is damaged, or a sample lacks its picture or class.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder{neighbours(folder)}")
    if annotations_path(folder, split).is_file():
        return _open_inaturalist(folder, split, classes)
    if shards := shards_of_split(folder, split):
        return _open_shards(TarShards(shards), folder, split, classes)
    if (folder / split).is_dir():
        return _open_class_folders(folder / split, split, classes)
    raise DatasetError(_no_layout(folder, split))


def _no_layout(folder: Path, split: str) -> str:
    message = f"{folder}: holds no data called {split}, but {listing(folder)}; "
    names = sorted(path.name for path in folder.iterdir())
    compressed = [name for name in names if name.startswith(split) and COMPRESSED_NAME.search(name)]
    if compressed:
        return f"{message}{compressed[0]} is compressed: store tar shards uncompressed"
    classes = [name for name in names if _is_class_folder(folder / name)]
    if classes:
        return f"{message}the folders of classes ({some(classes)}) must lie in {folder / split}: move them there"
    return (
        f"{message}expected {split}/<class>/*.jpg (ImageNet and alike), tar shards {split}*.tar or {split}/*.tar, or "
        f"{split}2018.json (iNaturalist 2018)"
    )


def _is_class_folder(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())


class PictureFiles:
    """A data set whose pictures are files.

    Args:
        root: what `files` are relative to.
        files: [N], encoded paths.
        labels: [N]
        classes: ids by label.
        metadata: [N, 3] of `Sample.metadata`.
    """

    classes: Sequence[str]
    sizes: Sequence[int]

    def __init__(
        self,
        root: Path,
        files: NDArray[np.bytes_],
        labels: NDArray[np.int64],
        classes: Sequence[str],
        metadata: NDArray[np.float64] | None = None,
    ) -> None:
        self.classes = classes
        self.sizes = [len(files)]
        self._root = root
        self._files = files
        self._labels = labels
        self._metadata = metadata

    def __len__(self) -> int:
        return len(self._files)

    def labels(self) -> NDArray[np.int64]:
        return self._labels

    def name(self, index: int) -> str:
        return str(self._path(index))

    def __getitem__(self, index: int) -> Sample:
        path = self._path(index)
        metadata = () if self._metadata is None else tuple(self._metadata[index].tolist())
        return Sample(str(path), path.read_bytes(), int(self._labels[index]), metadata)

    def _path(self, index: int) -> Path:
        return self._root / os.fsdecode(self._files[index])


class PictureShards:
    """A data set whose pictures lie in tar shards.

    Args:
        labels: of all samples of the shards; those with -1 are left out.
        classes: ids by label.
    """

    classes: Sequence[str]
    sizes: Sequence[int]

    def __init__(self, shards: TarShards, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
        self._shards = shards
        self._rows = np.flatnonzero(labels >= 0)
        self._labels = labels[self._rows]
        self.classes = classes
        self.sizes = np.diff(np.searchsorted(self._rows, np.cumsum([0, *shards.sizes]))).tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self) -> NDArray[np.int64]:
        return self._labels

    def name(self, index: int) -> str:
        return self._shards.name(int(self._rows[index]))

    def __getitem__(self, index: int) -> Sample:
        row = int(self._rows[index])
        return Sample(self._shards.name(row), self._shards.read(row, *PICTURES), int(self._labels[index]))


def _open_class_folders(root: Path, split: str, classes: Path | Sequence[str] | None) -> PictureFiles:
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if not folders:
        raise DatasetError(
            f"{root}: holds no class folder, but {listing(root)}; expected {root.name}/<class>/*.jpg (the validation "
            "pictures of ImageNet come in one folder: sort them into folders of their classes first)"
        )
    known = ClassList(classes, folders, root)
    files, counts = [], []
    folder_labels = known.labels_of(folders)
    for folder, label in zip(folders, folder_labels, strict=True):
        found = files_below(os.fsencode(root / folder), _SUFFIXES, os.fsencode(folder)) if label >= 0 else ()
        names = sorted(found)
        files.append(np.array(names, np.bytes_))
        counts.append(len(names))
    labels = np.repeat(folder_labels, counts)
    known.check_filled(labels, every=split == "train")
    return PictureFiles(root, np.concatenate(files), labels, known.ids)


def _open_shards(shards: TarShards, folder: Path, split: str, classes: Path | Sequence[str] | None) -> PictureShards:
    distinct, rows = _distinct_classes(shards)
    numbers = classes is None and all(INTEGER.fullmatch(id_) for id_ in distinct)
    known = ClassList(classes, _numbered(distinct, folder) if numbers else sorted(set(distinct)), folder)
    labels = known.labels_of(distinct, or_numbers=True)[rows]
    # Numbers alone tell no list of classes: one that doesn't occur is no fault.
    known.check_filled(labels, every=split == "train" and not numbers)
    return PictureShards(shards, labels, known.ids)


def _distinct_classes(shards: TarShards) -> tuple[list[str], NDArray[np.int64]]:
    """What `cls` members hold, and for each sample which of that. Reads the indices only."""
    texts = []
    for shard in range(len(shards.sizes)):
        shards.check(shard, *PICTURES)
        texts.append(shards.texts(shard, "cls"))
    distinct, rows = np.unique(np.concatenate(texts), return_inverse=True)
    ids = [text.decode("utf-8", "replace").strip() for text in distinct.tolist()]
    if "" in ids:
        first = int(np.flatnonzero(rows == ids.index(""))[0])
        raise DatasetError(
            f"{shards.name(first)}: its cls is empty, expected the id of a class or the number of a label"
        )
    return ids, rows


def _numbered(labels: Sequence[str], place: Path) -> list[str]:
    most = max(map(int, labels), default=-1)
    if most >= _MOST_LABELS:
        raise DatasetError(f"{place}: label {most} is out of range, expected less than {_MOST_LABELS}")
    return [str(label) for label in range(most + 1)]


def _open_inaturalist(folder: Path, split: str, classes: Path | Sequence[str] | None) -> PictureFiles:
    pictures = read_inaturalist(folder, split)
    ids = [str(category) for category in pictures.category_ids]
    known = ClassList(classes, ids, annotations_path(folder, split))
    labels = known.labels_of(ids)[pictures.categories]
    known.check_filled(labels, every=split == "train")
    kept = labels >= 0
    return PictureFiles(folder, pictures.files[kept], labels[kept], known.ids, pictures.metadata[kept])
