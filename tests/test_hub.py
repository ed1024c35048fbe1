"""Files arrive whole, whatever the server and the connection do; what isn't a weight file is refused."""

import errno
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch

from internimage import hub
from internimage.hub import DownloadError, download, fetch
from internimage.released import get
from internimage.weight_files import WeightFileError

ROW = get("internimage_t")


class Server(http.server.ThreadingHTTPServer):
    """A server of one file under any path, with faults to order."""

    daemon_threads = True
    content = b""
    etag: str | None = '"one"'
    ranges = True
    tells_range = True  # in Content-Range
    told_length: int | None = None  # in Content-Length, instead of the real one
    status: int | None = None  # answer this instead
    delay_s = 0.0  # before the body
    linked: str | None = None  # redirect once, telling this digest, as Hugging Face does

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.ranges_asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        if server.linked and not self.path.startswith("/storage/"):
            self.send_response(302)
            self.send_header("X-Linked-ETag", f'"{server.linked}"')
            self.send_header("Location", f"/storage{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers["Range"]
        server.ranges_asked.append(asked)
        cut = server.cuts.pop(0) if server.cuts else None  # here, as a client that reads no further asks again at once
        if server.status:
            self.send_error(server.status)
            return
        body, total = server.content, len(server.content)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if self.headers["If-Range"] not in (None, server.etag):
            start = 0
        if start >= total > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start and server.tells_range:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(server.told_length or total - start))
        self.end_headers()
        time.sleep(server.delay_s)
        self.wfile.write(body[start:][:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(weights):
    server = Server()
    server.content = weights
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save({"model": {"weight": torch.arange(300_000.0)}}, path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INTERNIMAGE_WEIGHTS", raising=False)
    monkeypatch.setattr(hub, "_FIRST_PAUSE_S", 0.001)


def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hub" / "checkpoints"


def get_file(server: Server, **options: object) -> Path:
    return download(ROW, base_url=server.url, progress=False, **options)


def test_a_file_lands_in_the_cache_of_torch_hub_and_is_fetched_once(server, weights, tmp_path):
    path = get_file(server)
    assert path == cache(tmp_path) / ROW.file
    assert path.read_bytes() == weights
    assert get_file(server) == path
    assert len(server.ranges_asked) == 1
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")) == [ROW.file]


def test_a_cut_connection_is_continued_where_it_broke(server, weights):
    server.cuts = [400_000, 300_000]
    assert get_file(server).read_bytes() == weights
    assert server.ranges_asked == [None, "bytes=400000-", "bytes=700000-"]


def test_a_broken_download_is_continued_by_the_next_call(server, weights, tmp_path):
    server.cuts = [100_000] + [0] * 20
    with pytest.raises(DownloadError, match="100000 bytes are kept, run again to continue"):
        get_file(server)
    assert not (cache(tmp_path) / ROW.file).exists()
    server.cuts, server.ranges_asked = [], []
    assert get_file(server).read_bytes() == weights
    assert server.ranges_asked == ["bytes=100000-"]


def test_a_download_that_was_whole_but_not_renamed_is_not_fetched_again(server, weights, tmp_path):
    server.cuts = [100_000] + [0] * 20
    with pytest.raises(DownloadError):
        get_file(server)
    (cache(tmp_path) / f"{ROW.file}.part").write_bytes(weights)
    server.ranges_asked = []
    assert get_file(server).read_bytes() == weights
    assert server.ranges_asked == []


def test_a_server_without_ranges_starts_over(server, weights):
    server.ranges = False
    server.cuts = [400_000]
    assert get_file(server).read_bytes() == weights
    assert server.ranges_asked == [None, "bytes=400000-"]


def test_a_server_that_does_not_say_which_range_it_sends_starts_over(server, weights):
    server.tells_range = False
    server.cuts = [400_000, 500_000]
    assert get_file(server).read_bytes() == weights
    assert server.ranges_asked == [None, "bytes=400000-", None]


def test_a_server_without_ranges_that_always_cuts_ends_in_an_error(server):
    server.ranges = False
    server.cuts = [400_000] * 50
    with pytest.raises(DownloadError, match=r"closed after 400000 of \d+ bytes"):
        get_file(server)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"etag": '"two"'}, id="strong tag"),
        pytest.param({"etag": 'W/"two"'}, id="weak tag"),
        pytest.param({"etag": None}, id="tag gone"),
        pytest.param({"length": 50_000}, id="shorter than what is there"),
        pytest.param({"length": 200_000}, id="other length"),
    ],
)
def test_a_changed_file_starts_over(server, tmp_path, change):
    server.cuts = [100_000] + [0] * 20
    with pytest.raises(DownloadError):
        get_file(server)
    server.cuts = []
    if "etag" in change:
        server.etag = change["etag"]
    buffer = tmp_path / "changed.pth"
    torch.save({"model": {"weight": -torch.ones(change.get("length", 300_000) // 4)}}, buffer)
    server.content = buffer.read_bytes()
    if "length" in change:  # the server can't tell by its tag
        server.etag = '"one"'
    assert get_file(server).read_bytes() == server.content


def test_a_file_of_unknown_version_is_not_continued(server, weights, tmp_path):
    cache(tmp_path).mkdir(parents=True)
    (cache(tmp_path) / f"{ROW.file}.part").write_bytes(b"left by something else")
    (cache(tmp_path) / f"{ROW.file}.part.json").write_text('{"etag": ')
    assert get_file(server).read_bytes() == weights
    assert server.ranges_asked == [None]


def test_two_processes_fetch_one_file_once(server, weights, tmp_path):
    code = """if True:
        from internimage.hub import download
        print("ready", flush=True)
        input()
        print(download("internimage_t", progress=False))
    """
    server.delay_s = 1.0  # long enough for the second process to come in between
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "INTERNIMAGE_WEIGHTS": server.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert outputs == [str(cache(tmp_path) / ROW.file)] * 2
    assert Path(outputs[0]).read_bytes() == weights
    assert len(server.ranges_asked) == 1


@pytest.mark.parametrize("status", [404, 403])
def test_a_refusal_names_address_status_and_ways_around(server, status):
    server.status = status
    with pytest.raises(DownloadError, match=rf"{server.url}/{ROW.file}: the server answers {status} .*INTERNIMAGE_WEI"):
        get_file(server)
    assert len(server.ranges_asked) == 1


def test_a_busy_server_is_asked_again_then_given_up(server):
    server.status = 503
    with pytest.raises(DownloadError, match="the server answers 503"):
        get_file(server)
    assert len(server.ranges_asked) == 1 + hub._RETRIES


def test_no_server_is_an_error_that_names_ways_around():
    with pytest.raises(DownloadError, match=r"can't download http://127.0.0.1:9/.*refused.*checkpoint=FILE"):
        download(ROW, base_url="http://127.0.0.1:9", progress=False)


def test_a_web_page_is_not_kept(server, weights, tmp_path):
    server.content = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(WeightFileError, match="is a web page"):
        get_file(server)
    assert [path.name for path in cache(tmp_path).iterdir() if not path.name.endswith(".lock")] == []
    server.content = weights
    assert get_file(server).read_bytes() == weights


def test_a_wrong_digest_is_refused_and_a_right_one_accepted(server, weights, tmp_path):
    with pytest.raises(WeightFileError, match="expected 0000"):
        get_file(server, sha256="0" * 64)
    assert not (cache(tmp_path) / ROW.file).exists()
    digest = hashlib.sha256(weights).hexdigest()
    assert get_file(server, sha256=digest.upper()).read_bytes() == weights
    with pytest.raises(WeightFileError, match="expected 0000"):  # of a file that is there already, too
        get_file(server, sha256="0" * 64)


def test_the_digest_that_a_redirect_tells_is_checked(server, weights):
    server.linked = "0" * 64
    with pytest.raises(WeightFileError, match="SHA-256"):
        get_file(server)
    server.linked = hashlib.sha256(weights).hexdigest()
    server.cuts = [400_000]
    assert get_file(server).read_bytes() == weights
    assert server.ranges_asked[-1] == "bytes=400000-"


def test_a_file_larger_than_the_disk_is_not_begun(server, tmp_path):
    server.told_length = 10**18
    with pytest.raises(DownloadError, match=r"the disk is full: .*1000000000000000000 bytes are to come"):
        get_file(server)


def test_a_disk_that_fills_up_is_named(server, weights, monkeypatch):
    class FullBar(hub.tqdm):  # type: ignore[misc]
        def update(self, n: float = 1) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "tqdm", FullBar)
        with pytest.raises(DownloadError, match=r"the disk is full: .*No space left on device; make room"):
            get_file(server)
    assert get_file(server).read_bytes() == weights


def test_a_cache_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"can't write to .*set TORCH_HOME"):
        get_file(server)


def test_progress_goes_to_stderr(server, capsys):
    download(ROW, base_url=server.url)
    captured = capsys.readouterr()
    assert "internimage_t_1k_224" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("form", ["folder", "file address"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_mirror_folder_is_used_in_place(form, by, weights, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror of weights"
    mirror.mkdir()
    (mirror / ROW.file).write_bytes(weights)
    base = str(mirror) if form == "folder" else mirror.as_uri()
    if by == "environment":
        monkeypatch.setenv("INTERNIMAGE_WEIGHTS", base)
    path = download("internimage_t.in1k_224", base_url=base if by == "argument" else None)
    assert path == mirror / ROW.file
    assert not cache(tmp_path).exists()


def test_a_mirror_without_the_file_says_so(tmp_path):
    with pytest.raises(DownloadError, match=rf"has no file {ROW.file}; put it there \(https://huggingface.co/"):
        download(ROW, base_url=tmp_path)


def test_a_mirror_with_a_page_instead_of_the_file_says_so(tmp_path):
    (tmp_path / ROW.file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(WeightFileError, match="Git LFS pointer"):
        download(ROW, base_url=tmp_path)


def test_fetch_takes_paths_addresses_and_names(server, weights, tmp_path, monkeypatch):
    file = tmp_path / "own file.pth"
    file.write_bytes(weights)
    assert fetch(file) == fetch(str(file)) == fetch(file.as_uri()) == file
    assert fetch(tmp_path) == tmp_path
    first, second = (fetch(f"{server.url}/{name}/model.pth", progress=False) for name in "ab")
    assert first != second
    assert first.read_bytes() == second.read_bytes() == weights
    monkeypatch.setenv("INTERNIMAGE_WEIGHTS", server.url)
    assert fetch(ROW) == fetch("internimage_t") == fetch(ROW.file) == cache(tmp_path) / ROW.file


def test_fetch_explains_what_it_cannot_find(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder internimage_q.*nearest: internimage_"):
        fetch("internimage_q")
    with pytest.raises(ValueError, match="must be a path or start with"):
        fetch("ftp://example.org/w.pth")


class _Repositories(http.server.BaseHTTPRequestHandler):
    """As much of Hugging Face's server as its client asks for."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        name = (
            self.path.rpartition("/resolve/main/")[2] if "/resolve/main/" in self.path else self.path.rpartition("/")[2]
        )
        content = self.files.get(name)
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if with_body and content is not None:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_a_hugging_face_repository_is_fetched_by_its_own_client(tmp_path, monkeypatch):
    torch.save({"model.weight": torch.ones(3)}, tmp_path / "w.bin")
    shard = (tmp_path / "w.bin").read_bytes()
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    index = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    files = {"pytorch_model.bin.index.json": index} | dict.fromkeys(names, shard)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Repositories,), {"files": files}))
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(
        hub, "hf_hub_download", partial(hub.hf_hub_download, endpoint=address, cache_dir=tmp_path / "cache")
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        folder = fetch("hf://some/repository")
        assert sorted(path.name for path in folder.iterdir()) == sorted(files)
        server.RequestHandlerClass.files = {}
        with pytest.raises(DownloadError, match=r"none of model.safetensors, .* is in the repository"):
            fetch("hf://some/empty")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch("hf://some/repository") == folder
    with pytest.raises(DownloadError, match=r"none of model.safetensors, .* is in the cache, and can't be reached"):
        fetch("hf://other/repository")
