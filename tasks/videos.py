"""Videos: read frame by frame, write. Knows no task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from internimage.tasks.images import Image

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mpeg", ".webm", ".wmv"})

_UNKNOWN_RATE = 25.0  # frames a second, where a file doesn't tell


class VideoError(ValueError):
    """A file that can't be read or written as a video. The message starts with the file's name."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself.

    Attributes:
        frames: about how many there are; 0: it doesn't say.
        rate: frames a second.
    """

    frames: int
    rate: float


@contextmanager
def open_video(path: str | PathLike[str]) -> Iterator[tuple[VideoInfo, Iterator[Image]]]:
    """The frames of a video, uint8 [H, W, 3] in RGB, one after the other.

    Raises:
        VideoError: the file is missing, or OpenCV finds no frame in it.
    """
    if not Path(path).is_file():
        raise VideoError(f"{path}: no such file")
    capture = cv2.VideoCapture(str(path))
    try:
        whole, first = capture.read() if capture.isOpened() else (False, None)
        if not whole or first is None:
            raise VideoError(f"{path}: not a video that OpenCV can decode, or damaged; expected MP4, AVI, MKV, WebM...")
        rate = capture.get(cv2.CAP_PROP_FPS)
        info = VideoInfo(
            max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))),
            rate if np.isfinite(rate) and rate > 0 else _UNKNOWN_RATE,
        )
        yield info, _frames(capture, first.astype(np.uint8, copy=False))
    finally:
        capture.release()


@contextmanager
def new_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """Write a video in MPEG-4 (mp4v); when the block is left by an error, the file is removed.

    Args:
        path: of an .mp4 file.
        rate: frames a second.
    """
    writer = VideoWriter(path, rate)
    try:
        yield writer
    except BaseException:
        writer.close()
        path.unlink(missing_ok=True)
        raise
    writer.close()


class VideoWriter:
    """See `new_video`."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path = path
        self._rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: Image) -> None:
        """Append a frame, uint8 [H, W, 3] in RGB; the first one's size is the video's.

        Raises:
            VideoError: OpenCV can't write the file.
        """
        # Sides must be even for most players.
        frame = np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
        if self._writer is None:
            self._size = frame.shape[1], frame.shape[0]
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, self._size)
            if not self._writer.isOpened():
                raise VideoError(
                    f"{self._path}: OpenCV can't write this video of {self._size[0]}x{self._size[1]} pixels"
                )
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


def _frames(capture: cv2.VideoCapture, first: Image) -> Iterator[Image]:
    frame: Image | None = first
    while frame is not None:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        whole, following = capture.read()
        frame = following.astype(np.uint8, copy=False) if whole else None
