"""Tar shards hold what other programs say that they hold, and damage is found before it is read."""

import io
import multiprocessing
import os
import pickle
import string
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internimage.tasks.training import shard_index
from internimage.tasks.training import shards as module
from internimage.tasks.training.shard_index import ShardError
from internimage.tasks.training.shards import TarShards, write_shards

pytestmark = pytest.mark.once

Samples = list[tuple[str, dict[str, bytes]]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(folder))
    yield folder
    module._open.cache_clear()


def photos(count: int, first: int = 0) -> Samples:
    """Pictures that are no small members, with labels that are."""
    rng = np.random.default_rng(first)
    return [
        (f"n{i % 3:02}/{i:04}", {"jpg": rng.bytes(200 + 13 * i), "cls": str(i % 3).encode()})
        for i in range(first, first + count)
    ]


def write_tar(path: Path, members: Mapping[str, bytes], **options: int) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def names(shards: TarShards) -> list[str]:
    return [shards.name(i) for i in range(len(shards))]


def as_tarfile_says(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def as_members(shards: TarShards) -> dict[str, bytes]:
    return {
        f"{shards.name(i).partition('/')[2]}.{extension}": content
        for i in range(len(shards))
        for extension, content in shards[i].items()
    }


# Reading


def test_samples_read_back_in_the_order_they_were_written_in(tmp_path):
    samples = photos(10)
    paths = write_shards(samples, tmp_path / "train-%06d.tar", samples_per_shard=4)
    shards = TarShards(tmp_path)
    assert [path.name for path in paths] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert len(shards) == 10
    assert shards.sizes == [4, 4, 2]
    assert [shards[i] for i in range(10)] == [contents for _, contents in samples]
    assert names(shards) == [f"train-{i // 4:06}.tar/{key}" for i, (key, _) in enumerate(samples)]


KEYS = st.from_regex(r"([a-zé_ ]{1,8}/){0,3}[a-z0-9é_ \n-]{1,130}", fullmatch=True)
EXTENSIONS = st.text(string.ascii_lowercase + ".", max_size=8)
CONTENTS = st.one_of(st.binary(max_size=20), st.integers(120, 1100).map(lambda size: b"\1" * size))


@given(st.dictionaries(KEYS, st.dictionaries(EXTENSIONS, CONTENTS, min_size=1, max_size=3), max_size=6))
@settings(max_examples=40, deadline=None)
def test_what_is_written_reads_back_the_same_by_pythons_tarfile_and_by_us(tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("shards")
    paths = write_shards(samples.items(), folder / "%d.tar", samples_per_shard=3)
    if not samples:
        assert paths == []
        return
    members = {f"{key}.{extension}": data for key, parts in samples.items() for extension, data in parts.items()}
    theirs: dict[str, bytes] = {}
    for path in paths:
        theirs |= as_tarfile_says(path)
    assert theirs == members
    assert as_members(TarShards(paths)) == members


@pytest.mark.parametrize("format", ["gnu", "ustar", "pax", "v7"])
def test_archives_of_gnu_tar_read_as_the_files_that_went_into_them(tmp_path, format):
    folder = tmp_path / "in"
    samples = photos(5)
    for key, contents in samples:
        for extension, content in contents.items():
            path = folder / f"{key}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (folder / "README").write_text("no sample")
    shard = tmp_path / "train.tar"
    subprocess.run(["tar", "-C", folder, f"--format={format}", "--sort=none", "-cf", shard, "."], check=True)
    shards = TarShards(shard)
    assert sorted(names(shards)) == sorted(f"train.tar/./{key}" for key, _ in samples)
    assert {name: shards[i] for i, name in enumerate(names(shards))} == {
        f"train.tar/./{key}": contents for key, contents in samples
    }


def test_names_beyond_a_headers_100_bytes_are_read(tmp_path):
    long = {"d" * 90 + "/" + "n" * 200 + ".jpg": b"a", "é" * 120 + ".jpg": b"b"}
    for number, format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        assert as_members(TarShards(write_tar(tmp_path / f"{number}.tar", long, format=format))) == long


def test_webdataset_reads_the_same_samples(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    write_shards(photos(7), tmp_path / "train-%04d.tar", samples_per_shard=4)
    shards = TarShards(tmp_path)
    theirs = []
    for path in sorted(tmp_path.glob("*.tar")):
        with path.open("rb") as file:
            members = webdataset.tariterators.tar_file_iterator(file)
            theirs += webdataset.tariterators.group_by_keys({**member, "__url__": path.name} for member in members)
    assert [sample["__key__"] for sample in theirs] == [name.partition("/")[2] for name in names(shards)]
    assert [{"jpg": sample["jpg"], "cls": sample["cls"]} for sample in theirs] == [shards[i] for i in range(7)]


def test_shards_of_webdatasets_writer_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    samples = photos(7)
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=4, verbose=0) as writer:
        for key, contents in samples:
            writer.write({"__key__": key, **contents})
    shards = TarShards(f"{tmp_path}/train-{{0000..0001}}.tar")
    assert [(shards.name(i).partition("/")[2], shards[i]) for i in range(7)] == samples


def test_a_key_ends_at_the_first_dot_of_the_base_name(tmp_path):
    members = {"a.b/c.seg.png": b"1", "a.b/c.JPG": b"2", "a.b/d.jpg": b"3", ".hidden.jpg": b"4", "LICENSE": b"5"}
    shards = TarShards(write_tar(tmp_path / "x.tar", members))
    assert names(shards) == ["x.tar/a.b/c", "x.tar/a.b/d"]
    assert shards[0] == {"seg.png": b"1", "jpg": b"2"}


def test_members_of_a_sample_need_not_be_neighbours(tmp_path):
    shards = TarShards(write_tar(tmp_path / "x.tar", {"a.jpg": b"A", "b.jpg": b"B", "b.cls": b"1", "a.cls": b"0"}))
    assert [shards[i] for i in range(2)] == [{"jpg": b"A", "cls": b"0"}, {"jpg": b"B", "cls": b"1"}]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 512, 5000])
def test_content_of_any_size_and_ending_is_kept(tmp_path, size):
    content = os.urandom(size // 2) + bytes(size - size // 2)  # NUL bytes at the end
    shards = TarShards(write_tar(tmp_path / "x.tar", {"a.bin": content, "b.bin": b"x"}))
    assert shards.read(0, "bin") == content


def test_the_first_extension_that_there_is_is_read(tmp_path):
    shards = TarShards(write_tar(tmp_path / "x.tar", {"a.jpg": b"J", "a.png": b"P", "b.png": b"Q"}))
    assert [shards.read(i, "jpg", "png") for i in range(2)] == [b"J", b"Q"]
    assert shards.read(0, "png", "jpg") == b"P"
    shards.check(0, "jpg", "png")


def test_a_sample_that_lacks_a_member_is_named_with_what_it_has(tmp_path):
    shards = TarShards(write_tar(tmp_path / "x.tar", {"a.jpg": b"J", "b.json": b"{}", "b.txt": b""}))
    message = r"x\.tar/b: has no member jpg or png; it has json, txt"
    with pytest.raises(ShardError, match=message):
        shards.read(1, "jpg", "png")
    with pytest.raises(ShardError, match=message):
        shards.check(0, "jpg", "png")
    with pytest.raises(ShardError, match=r"x\.tar/b: has no member jpg; it has"):
        shards.texts(0, "jpg")


@pytest.mark.parametrize("longest", [5, 128, 129, 3000])
def test_texts_are_one_member_of_each_sample(tmp_path, longest):
    labels = [b"cat", b"dog", b"x" * longest]
    members = {f"{i}.{name}": data for i, label in enumerate(labels) for name, data in (("jpg", b"J"), ("cls", label))}
    paths = [write_tar(tmp_path / name, members) for name in ("0.tar", "1.tar")]
    assert TarShards(paths).texts(1, "cls").tolist() == labels


def test_indices_beyond_the_samples_are_refused(tmp_path):
    write_shards(photos(3), tmp_path / "%d.tar", samples_per_shard=2)
    shards = TarShards(tmp_path)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"samples 0 to 2, got {index}"):
            shards[index]


def test_empty_shards_are_passed_over(tmp_path):
    write_tar(tmp_path / "0.tar", {})
    write_tar(tmp_path / "1.tar", {"a.jpg": b"A"})
    write_tar(tmp_path / "2.tar", {})
    shards = TarShards(tmp_path)
    assert shards.sizes == [0, 1, 0]
    assert shards[0] == {"jpg": b"A"}
    assert shards.texts(0, "jpg").tolist() == []


def test_without_pread_files_are_read_by_position(tmp_path, monkeypatch):
    samples = photos(4)
    write_shards(samples, tmp_path / "%d.tar", samples_per_shard=4)
    monkeypatch.delattr(os, "pread")
    assert [TarShards(tmp_path)[i] for i in (2, 0, 3)] == [samples[i][1] for i in (2, 0, 3)]


# Processes and threads


def read_all(shards: TarShards) -> Samples:
    return [(shards.name(i).partition("/")[2], shards[i]) for i in range(len(shards))]


@pytest.mark.parametrize(("method", "processes"), [("fork", 2), ("spawn", 1)])
def test_processes_that_share_shards_read_the_same(tmp_path, method, processes):
    samples = photos(60)
    write_shards(samples, tmp_path / "%d.tar", samples_per_shard=20)
    shards = TarShards(tmp_path)
    shards[0]  # forked processes get an open file, too
    with multiprocessing.get_context(method).Pool(processes) as pool:  # spawned ones must find the function
        read = pool.starmap(TarShards.__getitem__, [(shards, index) for index in range(len(shards))])
    assert read == [sample for _, sample in samples]


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len([*folder.iterdir()]) if folder.exists() else 0


def test_threads_that_share_shards_read_the_same_with_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_open", module.functools.lru_cache(maxsize=2)(module._open.__wrapped__))
    samples = photos(200)
    write_shards(samples, tmp_path / "%02d.tar", samples_per_shard=10)
    shards = TarShards(tmp_path)
    before = open_files()
    wrong: list[int] = []

    def read(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(200).tolist()
        wrong.extend(i for i in order if shards[i] != samples[i][1])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert open_files() - before <= 2


def test_pickled_shards_are_small_however_many_samples_they_have(tmp_path):
    write_shards([(f"{i}", {"cls": b"1"}) for i in range(1000)], tmp_path / "%d.tar", samples_per_shard=1000)
    shards = TarShards(tmp_path)
    shards[0]
    assert len(pickle.dumps(shards)) < 500


# The index


def test_the_index_is_written_once_beside_the_shard_and_is_no_pickle(tmp_path, monkeypatch):
    write_shards(photos(5), tmp_path / "train-%d.tar", samples_per_shard=5)
    expected = read_all(TarShards(tmp_path))
    module._open.cache_clear()
    with np.load(tmp_path / "train-0.tar.index.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored)
    monkeypatch.setattr(shard_index, "_scan", None)  # so that scanning again would fail
    assert read_all(TarShards(tmp_path)) == expected


def test_where_the_folder_cannot_be_written_the_index_goes_to_the_cache(tmp_path, cache, monkeypatch):
    write_shards(photos(5), tmp_path / "data" / "train-%d.tar", samples_per_shard=5)
    whole = shard_index.written_whole

    def write(path: Path) -> object:
        if path.parent == tmp_path / "data":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(shard_index, "written_whole", write)
    assert read_all(TarShards(tmp_path / "data")) == photos(5)
    module._open.cache_clear()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train-0.tar"]
    assert len(list((cache / "shards").iterdir())) == 1
    monkeypatch.setattr(shard_index, "_scan", None)
    assert read_all(TarShards(tmp_path / "data")) == photos(5)


def test_where_no_index_can_be_written_the_message_tells_the_way_out(tmp_path, monkeypatch):
    write_shards(photos(5), tmp_path / "train-%d.tar", samples_per_shard=5)

    def write(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shard_index, "written_whole", write)
    with pytest.raises(ShardError, match=r"train-0\.tar: can't write the index .* set INTERNIMAGE_CACHE"):
        TarShards(tmp_path)


@pytest.mark.parametrize("same_size", [True, False])
def test_a_changed_shard_is_indexed_again(tmp_path, same_size):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"A" * 300})
    assert TarShards(path)[0] == {"jpg": b"A" * 300}
    os.utime(write_tar(path, {"c.jpg": b"C" * (301 if same_size else 9000)}), ns=(1, 1))
    shards = TarShards(path)
    assert names(shards) == ["x.tar/c"]
    assert len(shards[0]["jpg"]) == (301 if same_size else 9000)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_index_is_made_again(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged-index"
    if not folder.exists():
        write_shards(photos(4), folder / "%d.tar", samples_per_shard=4)
        TarShards(folder)
    index = folder / "0.tar.index.npz"
    content = bytearray(index.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    index.write_bytes(content)
    module._open.cache_clear()
    assert read_all(TarShards(folder)) == photos(4)
    index.unlink()
    TarShards(folder)


def test_an_index_that_vanishes_while_in_use_is_made_again(tmp_path):
    write_shards(photos(4), tmp_path / "%d.tar", samples_per_shard=4)
    shards = TarShards(tmp_path)
    (tmp_path / "0.tar.index.npz").unlink()
    assert read_all(shards) == photos(4)


# What is found, and what is wrong with it


def test_a_pattern_names_each_number_of_its_ranges_in_order(tmp_path):
    for name in ("a-08", "a-09", "a-10", "a-11", "b-09", "b-10"):
        write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": b"x"})
    assert names(TarShards(f"{tmp_path}/a-{{09..11}}.tar")) == ["a-09.tar/a-09", "a-10.tar/a-10", "a-11.tar/a-11"]
    for number in range(2):
        for part in range(2):
            write_tar(tmp_path / f"{number}-{part}.tar", {"k.jpg": b"x"})
    shards = TarShards(f"{tmp_path}/{{0..1}}-{{0..1}}.tar")
    assert names(shards) == ["0-0.tar/k", "0-1.tar/k", "1-0.tar/k", "1-1.tar/k"]


def test_paths_stay_in_the_order_they_are_given_in(tmp_path):
    paths = [write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": b"x"}) for name in "cab"]
    assert names(TarShards(paths)) == ["c.tar/c", "a.tar/a", "b.tar/b"]
    assert names(TarShards(tmp_path)) == ["a.tar/a", "b.tar/b", "c.tar/c"]


def test_missing_shards_are_counted_and_named(tmp_path):
    write_tar(tmp_path / "a-0.tar", {"k.jpg": b"x"})
    with pytest.raises(ShardError, match=r"20 of 21 shards are missing: .*a-1\.tar, .*a-10\.tar and 10 more"):
        TarShards(f"{tmp_path}/a-{{0..20}}.tar")


@pytest.mark.parametrize("source", ["folder", "list"])
def test_no_shards_at_all_are_an_error(tmp_path, source):
    with pytest.raises(ShardError, match=r"no shard found, expected \*\.tar files"):
        TarShards(tmp_path if source == "folder" else [])


@pytest.mark.parametrize(
    ("suffix", "mode", "name"), [("gz", "w:gz", "gzip"), ("bz2", "w:bz2", "bzip2"), ("xz", "w:xz", "xz")]
)
def test_compressed_shards_are_refused_with_the_way_out(tmp_path, suffix, mode, name):
    with tarfile.open(tmp_path / f"a.tar.{suffix}", mode) as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ShardError, match=rf"a\.tar\.{suffix} is compressed: store tar files uncompressed"):
        TarShards(tmp_path)
    (tmp_path / f"a.tar.{suffix}").rename(tmp_path / "a.tar")
    with pytest.raises(ShardError, match=rf"a\.tar: is compressed with {name}; store tar files uncompressed"):
        TarShards(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no tar file", os.urandom(5000)], ids=["empty", "text", "noise"])
def test_what_is_no_tar_file_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match=r"a\.tar: not a tar file, or truncated or damaged"):
        TarShards(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]  # no index of it


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_shard_cut_anywhere_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "a.tar"
    write_tar(path, {"a.jpg": b"A" * 700, "é" * 120 + ".jpg": b"B" * 512, "c.cls": b"1"})
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512  # after the last member's block
    path.write_bytes(content[: data.draw(st.integers(0, end + 511))])
    with pytest.raises(ShardError, match=r"a\.tar: .*truncated"):
        TarShards(path)


@given(st.integers(0, 6 * 512 - 1), st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_a_damaged_shard_is_refused_or_differs_in_contents_alone(tmp_path_factory, place, change):
    path = tmp_path_factory.mktemp("damaged") / "a.tar"
    contents = {"a.jpg": b"A" * 700, "b.jpg": b"B" * 512, "c.cls": b"1"}
    write_tar(path, contents)
    content = bytearray(path.read_bytes())
    content[place] ^= change
    path.write_bytes(content)
    try:
        shards = TarShards(path)
    except ShardError:
        return
    read = as_members(shards)
    assert {name: len(data) for name, data in read.items()} == {name: len(data) for name, data in contents.items()}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_special_files_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.linkname = kind, "b.jpg"
        archive.addfile(member)
    with pytest.raises(ShardError, match=r"a\.jpg is a link, a sparse or a special file.*--hard-dereference"):
        TarShards(tmp_path)


def test_sparse_files_are_refused(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["tar", "-C", tmp_path, "-Scf", tmp_path / "a.tar", "a.jpg"], check=True)
    with pytest.raises(ShardError, match=r"a\.jpg is a link, a sparse"):
        TarShards(tmp_path)


def test_the_same_member_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("x/a.jpg", "x/b.jpg", "x/a.JPG"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ShardError, match=r"a\.tar: two members are called x/a\.jpg"):
        TarShards(tmp_path)


@pytest.mark.parametrize("change", ["longer", "cut", "replaced", "gone"])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_shard_that_changes_while_it_is_in_use_is_an_error(tmp_path, change, is_open):
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"A" * 3000, "b.jpg": b"B" * 3000})
    shards = TarShards(path)
    if is_open:
        shards[0]
    if change == "longer":
        with path.open("ab") as file:
            file.write(b"x")
    elif change == "cut":
        os.truncate(path, 2000)
    elif change == "replaced":
        write_tar(tmp_path / "new.tar", {"a.jpg": b"C" * 30000}).replace(path)
    else:
        path.unlink()
    if is_open and change in ("replaced", "gone"):
        assert shards[1] == {"jpg": b"B" * 3000}  # the open file is still the old one
        module._open.cache_clear()
    with pytest.raises(ShardError, match=r"a\.tar: (the shard has changed|the shard is gone)"):
        shards[1]


# Writing


def test_equal_samples_give_equal_files(tmp_path):
    for folder in "ab":
        write_shards(photos(5), tmp_path / folder / "x-%03d.tar", samples_per_shard=2)
    for number in range(3):
        first, second = (tmp_path / folder / f"x-{number:03}.tar" for folder in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_gnu_tar_lists_what_was_written(tmp_path):
    (path,) = write_shards(photos(2), tmp_path / "x-%d.tar", samples_per_shard=9)
    listed = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True).stdout
    assert listed.split() == ["n00/0000.jpg", "n00/0000.cls", "n01/0001.jpg", "n01/0001.cls"]


def test_a_shard_appears_whole_or_not_at_all(tmp_path):
    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield from photos(3)
        raise RuntimeError("the source fails")

    with pytest.raises(RuntimeError, match="the source fails"):
        write_shards(samples(), tmp_path / "%d.tar", samples_per_shard=2)
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"]
    assert read_all(TarShards(tmp_path)) == photos(2)


def test_shards_that_are_there_are_not_mixed_with_new_ones(tmp_path):
    write_shards(photos(6), tmp_path / "[x]-%02d.tar", samples_per_shard=1)
    with pytest.raises(FileExistsError, match=r"\[x\]-00\.tar is there; delete"):
        write_shards(photos(2), tmp_path / "[x]-%02d.tar", samples_per_shard=1)
    assert read_all(TarShards(tmp_path)) == photos(6)


@pytest.mark.parametrize("pattern", ["x.tar", "x-%d-%d.tar", "x-%s.tar", "x-%d.tgz", "%x%d.tar"])
def test_a_pattern_without_one_number_is_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match=r"must hold one number and end in \.tar"):
        write_shards(photos(1), tmp_path / pattern, samples_per_shard=1)


@pytest.mark.parametrize(
    ("key", "extension"), [("a.b", "jpg"), ("a", "JPG"), ("", "jpg"), ("a/", "jpg"), ("a", "x/y"), ("a\0b", "jpg")]
)
def test_names_that_would_not_read_back_are_refused(tmp_path, key, extension):
    with pytest.raises(ValueError, match=r"write_shards: .* doesn't read back as key"):
        write_shards([(key, {extension: b""})], tmp_path / "%d.tar", samples_per_shard=1)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_comes_twice_and_shards_of_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two samples have the key 'a'"):
        write_shards([("a", {"x": b""})] * 2, tmp_path / "%d.tar", samples_per_shard=2)
    with pytest.raises(ValueError, match="samples_per_shard must be at least 1, got 0"):
        write_shards([], tmp_path / "%d.tar", samples_per_shard=0)
