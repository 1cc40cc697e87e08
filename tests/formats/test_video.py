"""Videos and GIFs frame by frame, and overlays as a video, against frames made by hand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rifenet.formats.contrast import How
from rifenet.formats.opening import opened
from rifenet.formats.video import Frames, open_gif, open_video, write_video

HEIGHT, WIDTH, COUNT = 48, 64, 9


def frame(number: int) -> NDArray[np.uint8]:
    """A grey picture whose left block is brighter with each frame."""
    picture = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    picture[8:40, 8:24] = 90 + 15 * number
    return picture


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", (frame(number) for number in range(COUNT)), Fraction(10))
    return tmp_path / "clip.mp4"


def close(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> bool:
    """As close as a lossy codec keeps flat pictures: frames differ by 15 levels in the block."""
    return bool(np.abs(found.astype(int) - wanted)[10:38, 10:22].mean() < 5)


def test_frames_in_order_and_by_number(clip: Path) -> None:
    video = open_video(str(clip))
    assert len(video) == COUNT
    assert video.rate == 10
    for page in video:
        assert close(page.read(), frame(page.number)), page
    for number in (7, 2, 8, 0, 0):  # forwards, back, and the same again
        assert close(video[number].read(), frame(number)), number
    assert (str(video[4]), video[4].stem) == (f"{clip}#4", "clip_00004")


def test_frames_are_decoded_once_in_order(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    decode = Frames._decode
    monkeypatch.setattr(Frames, "_decode", lambda self: starts.append(1) or decode(self))
    video = open_video(str(clip))
    for number in (0, 1, 2, 5, 6):
        video.photo(number)
    assert len(starts) == 1


def test_a_turned_video_is_upright(clip: Path, tmp_path: Path) -> None:
    """As a phone stores it: landscape, with the turn beside it."""
    turned = tmp_path / "turned.mp4"
    with av.open(str(clip)) as source, av.open(str(turned), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    content = turned.read_bytes()
    identity, quarter = (
        b"".join(value.to_bytes(4, "big", signed=True) for value in (*turn, 0, 1 << 30))
        for turn in ((1 << 16, 0, 0, 0, 1 << 16, 0, 0), (0, 1 << 16, 0, -(1 << 16), 0, 0, 0))
    )
    place = content.index(identity, content.index(b"tkhd"))
    turned.write_bytes(content[:place] + quarter + content[place + len(quarter) :])
    photo = open_video(str(turned))[3].read()
    assert photo.shape == (WIDTH, HEIGHT, 3)
    clockwise = np.rot90(frame(3), -1)  # how players show this matrix
    assert np.abs(photo.astype(int) - clockwise).mean() < 5


def test_a_gif_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    pictures = [Image.fromarray(frame(number)[..., 0]) for number in range(3)]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=40)
    pictures[0].save(tmp_path / "still.gif")
    gif = open_gif(str(tmp_path / "clip.gif"))
    assert gif is not None
    assert (len(gif), gif.rate) == (3, 25)
    for number in (0, 2, 1):
        np.testing.assert_array_equal(gif[number].read(), frame(number))
    assert open_gif(str(tmp_path / "still.gif")) is None
    assert opened([tmp_path / "still.gif"], How()) == [None]
    with pytest.raises(ValueError, match=r"Expected the package av, .* pip install 'rifenet\[video\]'"):
        open_video(str(tmp_path / "clip.mp4"))


def test_what_cannot_be_read_gets_a_sentence(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"Expected a video, but cannot read \S+bad.mp4"):
        open_video(str(tmp_path / "bad.mp4"))
    video = open_video(str(clip))
    with pytest.raises(ValueError, match=r"Expected a page of \S+clip.mp4, 0 to 8, but got 9"):
        video.page(9)
    short = Frames(str(clip), COUNT + 3, Fraction(10))  # as a file that promises more than it holds
    with pytest.raises(ValueError, match=r"Expected to read frame 10 of \S+clip.mp4, but it ends before"):
        short.photo(10)
    assert close(short.photo(1), frame(1))


def test_odd_sides_lose_a_pixel(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", [np.zeros((31, 45, 3), np.uint8)] * 2, Fraction(5))
    assert open_video(str(tmp_path / "odd.mp4"))[1].read().shape == (30, 44, 3)
