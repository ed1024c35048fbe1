import logging
import threading
import time
from pathlib import Path

import pytest

from internimage.ops import file_lock as module
from internimage.ops.file_lock import file_lock

pytestmark = pytest.mark.once


def test_a_waiting_process_says_so_and_goes_on_when_the_lock_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []

    def wait() -> None:
        with file_lock(tmp_path / "lock") as held:
            order.append(f"second: {held}")

    with caplog.at_level(logging.INFO, "internimage"), file_lock(tmp_path / "lock") as held:
        assert held
        second = threading.Thread(target=wait)
        second.start()
        end = time.monotonic() + 10
        while "waiting" not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
        order.append("first leaves")
    second.join(timeout=10)
    assert order == ["first leaves", "second: True"]
    assert caplog.text.count("waiting for it") == 1


def test_a_file_system_without_locks_still_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module, "_try_lock", refuse)
    with file_lock(tmp_path / "lock") as held:
        assert not held
