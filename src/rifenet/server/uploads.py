"""Checks uploaded files and names, then decodes the files. Content decides what a file is, not its name or type."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray
from PIL import Image

from rifenet.formats.geotiff import is_placed
from rifenet.formats.label_files import load_labels
from rifenet.formats.picture_files import Frame, open_picture
from rifenet.formats.pictures import load_photo, lossy_kind, read_picture
from rifenet.formats.remarks import heard, remark
from rifenet.formats.run_lengths import Check, unchecked
from rifenet.server.json_bodies import let_go, parse_labels
from rifenet.server.limits import Limits
from rifenet.server.problem import Problem

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_NAME = 60
_HEAD = 512  # bytes of a file that tell what it is
_SCIENTIFIC = "`rifenet segment` and Python read it (rifenet[tiff]); for the server, save it as PNG of 8 or 16 bits."
_OTHERS = tuple(
    (re.compile(begins, re.DOTALL), told)
    for begins, told in (
        (rb"II[*+]\0|MM\0[*+]", f"a TIFF of numbers, bands or pages that the server does not read. {_SCIENTIFIC}"),
        (rb".{4}ftyp(hei|hev|mif|msf)", "something else: an HEIC. Save it as JPEG."),
        (
            rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ",
            "something else: a video. Send its frames; `rifenet segment` reads videos.",
        ),
        (rb".*<annotations", "something else: CVAT's XML. Export the labels as COCO 1.0; `rifenet segment` reads it."),
        (rb"PK\x03\x04", "something else: a zip. Unpack it, and send its files."),
    )
)
"""How files of other kinds begin, and what to say of them."""
_PART = 2**12  # bytes that are decoded between two checks; a JPEG can hold hundreds of scans in 64 KiB


def composed(text: str) -> str:
    """A name as it is stored and compared: accents composed (NFC), no blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def class_name(text: str) -> str:
    """A class's name: 1 to 60 printable characters that are safe in paths, headers and pages.

    Raises Problem: 422.
    """
    name = composed(text)
    if not 1 <= len(name) <= MAX_NAME:
        raise Problem(422, f"Expected a class name of 1 to {MAX_NAME} characters, but it has {len(name)}. Change it.")
    if not name.isprintable() or set(name) & set('/\\<>"') or not name.strip("."):
        raise Problem(
            422, 'Expected a class name of printable characters without / \\ < > ", but got another. Change it.'
        )
    return name


def file_name(upload: UploadFile, index: int) -> str:
    """What to call an uploaded file in answers: its last path part, printable and short, or `photo N`."""
    name = re.split(r"[/\\]", upload.filename or "")[-1]
    name = "".join(letter for letter in name if letter.isprintable() and letter not in '<>"')[:100].strip()
    return name if name.strip(".") else f"photo {index}"


def is_json(upload: UploadFile) -> bool:
    """Whether an upload is text that begins like a JSON, whatever it is called."""
    upload.file.seek(0)
    start = upload.file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    upload.file.seek(0)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
        start = start[2:].strip(b"\0")
    return start[:1] in (b"{", b"[")


def check_files(uploads: Sequence[UploadFile], limits: Limits, what: str) -> None:
    """Looks at number, size, type and pixels, and decodes nothing. `what` is "photo" or "mask", which may be a JSON.

    Raises Problem: 413 for too many or too large, 415 for another type, 422 for an empty file.
    """
    if len(uploads) > limits.files:
        raise Problem(413, f"Expected at most {limits.files} {what}s in a request, but got {len(uploads)}. Send fewer.")
    for index, upload in enumerate(uploads, 1):
        _check_file(upload, f"{what} {file_name(upload, index)}", limits, lossless=what == "mask")


def _check_file(upload: UploadFile, name: str, limits: Limits, lossless: bool) -> None:
    if not upload.size:
        raise Problem(422, f"Expected a picture, but {name} is empty. Send the file's content.")
    if upload.size > limits.file_mb * 1e6:
        raise Problem(
            413,
            f"Expected files of at most {limits.file_mb} MB, but {name} has {upload.size / 1e6:.1f}. Make it smaller.",
        )
    if lossless and is_json(upload):
        return  # `read_mask` checks the size that it gives
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the pixels are counted below
            upload.file.seek(0)
            picture = open_picture(upload.file, FORMATS)
    except Exception:  # Pillow's readers raise OSError, SyntaxError, struct.error and more on bad bytes
        raise Problem(415, f"Expected a picture ({', '.join(FORMATS)}), but {name} is {_kind_of(upload)}") from None
    if picture.width * picture.height > limits.megapixels * 1e6:
        raise _too_many_pixels(name, limits)
    if lossless and (kind := lossy_kind(picture)):
        raise Problem(415, f"Expected a lossless mask, but {name} is {kind}, which may change labels. Send a PNG.")


def _kind_of(upload: UploadFile) -> str:
    """What an upload is that is no picture of `FORMATS`, and what to do with it: the end of a sentence."""
    upload.file.seek(0)
    start = upload.file.read(_HEAD)
    return next((told for begins, told in _OTHERS if begins.match(start)), "something else, or damaged. Send another.")


def _too_many_pixels(name: str, limits: Limits) -> Problem:
    return Problem(
        413, f"Expected pictures of at most {limits.megapixels} million pixels, but {name} has more. Scale it down."
    )


def read_photo(upload: UploadFile, index: int, check: Check = unchecked) -> NDArray[np.uint8]:
    """RGB photo [H,W,3], upright; `check` is called while it is decoded. Raises Problem: 422 where it cannot be."""
    return read_framed(upload, index, check)[0]


def read_framed(upload: UploadFile, index: int, check: Check) -> tuple[NDArray[np.uint8], Frame]:
    """As `read_photo`, and what the labels of the photo have to fit."""
    with _about("photo", upload, index):
        picture = opened(upload, check)
        name = file_name(upload, index)
        if is_placed(picture):
            remark(
                name,
                "It has a place on the map, which its mask will lack, and what holds no data counts as part of it."
                " `rifenet segment` keeps both (rifenet[geo]).",
            )
        try:
            photo, orientation = load_photo(picture)
        except ValueError as error:
            if picture.format != "TIFF":
                raise
            raise ValueError(f"{error} {_SCIENTIFIC[0].upper()}{_SCIENTIFIC[1:]}") from error
    return photo, Frame(photo.shape[0], photo.shape[1], orientation)


def read_mask(
    upload: UploadFile, index: int, labels: Mapping[str, Any], photo: str, limits: Limits, check: Check = unchecked
) -> NDArray[np.uint8]:
    """Where a mask or label file marks the class, [H,W]: 1 the class, 0 not, 255 ignored.

    `labels`: further arguments of `load_labels`; `photo`: the name of its photo; `check` is called between steps.
    Raises Problem: 422 for one that cannot be read, or has no such label.
    """
    most = limits.megapixels * 10**6
    with _about("mask", upload, index):
        if is_json(upload):
            text = upload.file.read()
            with let_go() as kept:
                parse = partial(parse_labels, check=check, kept=kept)
                return load_labels(text, **labels, photo=photo, most_pixels=most, check=check, parse=parse)
        return load_labels(opened(upload, check), **labels)


@contextmanager
def _about(what: str, upload: UploadFile, index: int) -> Iterator[None]:
    """Names the upload in remarks, and in refusals, which become a Problem: 422."""
    name = f"{what} {file_name(upload, index)}"
    try:
        with heard(lambda about, sentence: remark(name, sentence)):
            yield
    except ValueError as error:
        raise Problem(422, f"{name}: {error}") from error


def read_marked(upload: UploadFile, check: Check = unchecked) -> NDArray[np.uint8]:
    """Where a picture of strokes is marked, [H,W]: at least half opaque where it is transparent at all, else not black.

    `check` is called while it is decoded. Raises Problem: 422 for one that cannot be read.
    """
    with _about("mask", upload, 1):
        bands = np.asarray(read_picture(opened(upload, check), "mask")[0].convert("RGBA"))
    opacity = bands[..., 3]
    marked = opacity > 127 if (opacity < 255).any() else (bands[..., :3] > 0).any(2)
    return np.asarray(marked, np.uint8)


class _Checked:
    """A file that calls `check` before it gives a part: Pillow decodes part by part, and so ends when nobody waits."""

    def __init__(self, file: Any, check: Check) -> None:
        self._file, self._check = file, check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> Any:
        self._check()
        return self._file.read(size)


def opened(upload: UploadFile, check: Check = unchecked) -> Image.Image:
    """An uploaded picture that `check_files` has let pass; `check` is called while it is decoded."""
    upload.file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = open_picture(_Checked(upload.file, check), FORMATS)
    picture.decodermaxblock = _PART  # type: ignore[attr-defined]
    return picture
