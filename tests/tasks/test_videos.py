"""Videos come back frame by frame; what is none is refused, and a half-written one is removed."""

import numpy as np
import pytest

from internimage.tasks.videos import VideoError, new_video, open_video

pytestmark = pytest.mark.once


def frames(count, height, width):
    return [np.full((height, width, 3), (20 * i, 100, 200 - 20 * i), np.uint8) for i in range(count)]


@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_a_video_keeps_its_frames_and_rate(tmp_path, size):
    with new_video(tmp_path / "a.mp4", 12.5) as video:
        for frame in frames(6, *size):
            video.write(frame)
    with open_video(tmp_path / "a.mp4") as (info, images):
        read = list(images)
    assert (info.frames, info.rate) == (6, pytest.approx(12.5))
    assert [image.shape for image in read] == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 6
    for image, frame in zip(read, frames(6, *size), strict=True):
        assert np.abs(image[8:-8, 8:-8].mean(axis=(0, 1)) - frame[0, 0]).max() < 12  # compressed


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"nothing of the kind" * 100)
    for name, message in (("a.mp4", "no such file"), ("b.mp4", "not a video that OpenCV can decode")):
        with pytest.raises(VideoError, match=message), open_video(tmp_path / name):
            pass


def test_a_half_written_video_is_removed(tmp_path):
    def stop(path):
        with new_video(path, 10) as video:
            video.write(frames(1, 48, 64)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
