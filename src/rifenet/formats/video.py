"""Videos and moving GIFs as their frames, read one after the other, and overlays as a video.

A frame's number is its place among the decoded frames, from 0, whatever the times of a file say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.config import needs
from rifenet.files import naming, scratch_folder
from rifenet.formats.bands import over_white
from rifenet.formats.pages import Pages
from rifenet.formats.picture_files import open_picture
from rifenet.formats.remarks import remark

if TYPE_CHECKING:
    from fractions import Fraction

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts")
"""Suffixes, in lower case, of the files that count as videos; a GIF does if it has several frames."""
_WHOLE = 0.9  # share of the frames that a file promises, below which a remark says so
_RATE = 25  # frames a second, where the file does not tell
_CODECS = ("libx264", "mpeg4")  # of an overlay, the first that is there
_QUALITY = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}


class Frames(Pages):
    """The frames of a video. Reading them in order decodes each once; going back starts again."""

    moving = True
    called = "frames"

    def __init__(self, file: str, count: int, rate: Fraction) -> None:
        self.file, self.rate = file, rate
        self._count = count
        self._next = 0
        self._decoded: Iterator[NDArray[np.uint8]] = iter(())

    def __len__(self) -> int:
        """Number of frames."""
        return self._count

    def photo(self, number: int) -> NDArray[np.uint8]:
        """A frame, [H,W,3]."""
        if number < self._next or self._next == 0:
            self._decoded, self._next = self._decode(), 0
        try:
            for frame in self._decoded:
                self._next += 1
                if self._next > number:
                    return frame
        except Exception as error:  # FFmpeg's and Pillow's errors of damaged files
            raise ValueError(f"Expected to read frame {number} of {self.file}, but cannot: {error}.") from error
        self._next = 0
        raise ValueError(f"Expected to read frame {number} of {self.file}, but it ends before.")

    def _decode(self) -> Iterator[NDArray[np.uint8]]:
        return _frames_of_gif(self.file) if Path(self.file).suffix.lower() == ".gif" else _frames_of_video(self.file)


def open_video(path: str) -> Frames:
    """Opens a video and counts its frames, without decoding them.

    Raises ValueError for what is no video, and `rifenet.config.MissingExtra` (`rifenet[video]`).
    """
    from fractions import Fraction

    with needs("rifenet[video]"):
        import av
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise ValueError(f"Expected a video, but {path} has no pictures.")
            stream = container.streams.video[0]
            rate = Fraction(stream.average_rate or _RATE)
            count = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
            lasts = Fraction(container.duration or 0, av.time_base)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"Expected a video, but cannot read {path}: {error}.") from error
    if not count:
        raise ValueError(f"Expected a video, but {path} has no frames.")
    if count < _WHOLE * lasts * rate - 1:
        told = (
            f"It says that it lasts {float(lasts):.1f} seconds, about {round(lasts * rate)} frames, but {count} can be"
        )
        remark(f"video {path}", f"{told} read. It may be damaged, or cut.")
    return Frames(path, count, rate)


def open_gif(path: str) -> Frames | None:
    """The frames of a moving GIF; None for one of a single frame, or what cannot be read. Needs no extra."""
    from fractions import Fraction

    try:
        with open_picture(path, ("GIF",)) as picture:
            count = int(getattr(picture, "n_frames", 1))
            milliseconds = int(picture.info.get("duration") or 0)
    except Exception:  # whoever reads it as a photo says what is wrong
        return None
    rate = Fraction(1000, milliseconds) if milliseconds else Fraction(_RATE)
    return Frames(path, count, rate) if count > 1 else None


def _frames_of_video(path: str) -> Iterator[NDArray[np.uint8]]:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            pixels = frame.to_ndarray(format="rgb24")
            # Phones store frames as the sensor lies, and the turn beside them.
            yield np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _frames_of_gif(path: str) -> Iterator[NDArray[np.uint8]]:
    with open_picture(path, ("GIF",)) as picture, suppress(EOFError):
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            bands = np.array(picture.convert("RGBA"))
            yield over_white(bands[..., :3], bands[..., 3:])


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture whose sides are even: an odd one loses a pixel, and one of a pixel gets another."""
    height, width = (max(2, side // 2 * 2) for side in picture.shape[:2])
    missing = max(0, height - picture.shape[0]), max(0, width - picture.shape[1])
    padded = np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), "edge")
    return np.ascontiguousarray(padded[:height, :width])


def write_video(path: Path, pictures: Iterable[NDArray[np.uint8]], rate: Fraction) -> None:
    """Writes pictures [H,W,3] as an MP4 (H.264) of the size of the first, whose sides are even (`_even`).

    Raises OSError on a full disk, and `rifenet.config.MissingExtra` (`rifenet[video]`).
    """
    with needs("rifenet[video]"):
        import av

    codec = next(name for name in _CODECS if name in av.codecs_available)
    with naming(path), scratch_folder(path.parent) as scratch:
        new = scratch / path.name  # whose suffix tells the container
        with av.open(new, "w") as container:
            stream: Any = container.add_stream(codec, rate=rate, options=_QUALITY[codec])
            stream.pix_fmt = "yuv420p"
            for number, picture in enumerate(pictures):
                even = _even(picture)
                if number == 0:
                    stream.height, stream.width = even.shape[:2]
                elif even.shape[:2] != (stream.height, stream.width):
                    even = np.asarray(Image.fromarray(even).resize((stream.width, stream.height)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            container.mux(stream.encode())
        new.replace(path)
