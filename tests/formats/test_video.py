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
from rifenet.formats.paged_files import opened
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


def test_a_picture_of_a_pixel_and_pictures_of_other_sizes_make_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "tiny.mp4", [np.full((1, 5, 3), 200, np.uint8)], Fraction(5))
    assert open_video(str(tmp_path / "tiny.mp4"))[0].read().shape == (2, 4, 3)
    write_video(tmp_path / "turned.mp4", [frame(0), np.swapaxes(frame(1), 0, 1)], Fraction(5))
    assert [page.read().shape for page in open_video(str(tmp_path / "turned.mp4"))] == [(HEIGHT, WIDTH, 3)] * 2


def test_a_file_without_pictures_gets_a_sentence(clip: Path, tmp_path: Path) -> None:
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux([*stream.encode(silence), *stream.encode()])
    with pytest.raises(ValueError, match=r"Expected a video, but \S+sound.mp4 has no pictures"):
        open_video(str(tmp_path / "sound.mp4"))
    with av.open(clip) as source, av.open(tmp_path / "none.avi", "w") as container:
        container.add_stream_from_template(source.streams.video[0])
        container.start_encoding()
    with pytest.raises(ValueError, match=r"Expected a video, but \S+none.avi has no frames"):
        open_video(str(tmp_path / "none.avi"))


def test_frames_that_a_damaged_file_lost_are_told(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mkv", (frame(number % 9) for number in range(60)), Fraction(25))
    assert len(open_video(str(tmp_path / "long.mkv"))) == 60  # and no remark
    content = (tmp_path / "long.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"It says that it lasts 2.4 seconds, about 60 frames, but \d+ can be read"):
        video = open_video(str(tmp_path / "cut.mkv"))
    assert 0 < len(video) < 50


def test_the_times_of_frames_do_not_count(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """As of a phone, whose frames come at uneven times."""
    with av.open(tmp_path / "uneven.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number, milliseconds in enumerate((0, 10, 300, 320, 1500, 1510, 1600, 4000)):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            picture.pts, picture.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    video = open_video(str(tmp_path / "uneven.mp4"))
    assert len(video) == 8
    assert all(close(video[number].read(), frame(number)) for number in range(8))
    assert not recwarn.list


def test_what_is_transparent_in_a_gif_is_white_as_in_photos(tmp_path: Path) -> None:
    pictures = []
    for number in range(3):
        bands = np.dstack([frame(number), np.full((HEIGHT, WIDTH), 255, np.uint8)])
        bands[30:, :, 3] = 0
        pictures.append(Image.fromarray(bands))
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=40, disposal=2)
    gif = open_gif(str(tmp_path / "a.gif"))
    assert gif is not None
    for number in range(3):
        photo = gif[number].read()
        assert (photo[30:] == 255).all()
        np.testing.assert_allclose(photo[:30].astype(int), frame(number)[:30], atol=3)  # of a palette
