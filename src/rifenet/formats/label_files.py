"""Reads the mask of a class from a label file: index, binary, palette or colour picture, cut-out, JSON, CVAT's XML.

`label` chooses one label of the file: a name, a number, or a colour as #rrggbb. Without `label`, all labels of a
picture count as the class; a colour picture may then have only one colour on black. In a JSON or an XML, the label with
the name of the class counts, and in CVAT's segmentation masks the colour that `labelmap.txt` gives it.

    H W the file's own size, which should equal its photo's
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE
from rifenet.formats.bands import array_of, channels_last
from rifenet.formats.cvat_files import XML, colour_of, read_cvat
from rifenet.formats.label_json import (
    SHAPE_FILES,
    Annotated,
    Asked,
    Parse,
    Shape,
    annotations_of,
    composed,
    parse_annotations,
)
from rifenet.formats.mask_values import listed, object_of, say_what_is_odd
from rifenet.formats.picture_files import Frame, turned_array
from rifenet.formats.pictures import Source, index_of, lossy_kind, read_picture
from rifenet.formats.remarks import remark
from rifenet.formats.run_lengths import Check, unchecked

Label = str | int

MOST_PIXELS = 2**28
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_GREYS = 16  # different greys from which on a palette is that of a grey picture


class Marked(NamedTuple):
    """What `load_labels` returned, to be taken as it is."""

    pixels: NDArray[np.uint8]


def load_labels(
    source: Source | bytes | Marked,
    name: str,
    *,
    label: Label | None = None,
    photo: str = "",
    frame: Frame | None = None,
    white_is_object: bool = False,
    most_pixels: int = MOST_PIXELS,
    check: Check = unchecked,
    parse: Parse = json.loads,
) -> NDArray[np.uint8]:
    """Mask of the class: uint8 [H,W], 1 the class, 0 not, 255 ignored.

    Args:
        source: a picture (path, PIL image or array), a JSON (path, or its bytes), CVAT's XML (path), or what is marked
            already.
        name: the class. Without `label`, it is the label to read in a JSON or an XML; capitals do not matter.
        label: name, number or #rrggbb of the label to read.
        photo: path or file name of the photo, to find it in a JSON of several photos.
        frame: the photo's size and turn. A mask of the size before the turn is turned, too; a JSON may lack the size.
        white_is_object: in an index picture, 255 marks the class, too. In a picture of only 0 and 255 it always does.
        most_pixels: largest photo, in pixels, that a JSON may describe.
        check: called between the steps of drawing a JSON; it may raise to end the work.
        parse: what parses the text of a JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read or lacks the label; the message lists the labels that it has.
    """
    if isinstance(source, Marked):
        return source.pixels
    if isinstance(source, bytes) or (isinstance(source, str | PathLike) and lists_shapes(source)):
        file = "the JSON" if isinstance(source, bytes) else f"label file {fspath(source)}"
        text = source if isinstance(source, bytes) else _bytes_of(Path(source))
        try:
            size = None if frame is None else (frame.height, frame.width)
            if isinstance(source, bytes) or not fspath(source).lower().endswith(XML):
                content = parse_annotations(text, file, parse)
                annotated = annotations_of(content, photo, most_pixels, size, file)
            else:
                annotated = read_cvat(text, Asked(photo, most_pixels, size, file))
            mask = _drawn(annotated, name, label, check, file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file[0].upper()}{file[1:]}: {error}") from error
    else:
        file, mask = _of_picture(source, _colour_label(source, name, label), white_is_object)
    mask = _fitted(mask, frame, file)
    say_what_is_odd(mask, file, chosen=label is not None)
    return mask


def _of_picture(source: Source, label: Label | None, white_is_object: bool) -> tuple[str, NDArray[np.uint8]]:
    """What to call a mask in messages, and what it marks."""
    if not isinstance(source, str | PathLike | Image.Image):
        array, file = array_of(source, "mask"), "the given mask"
        if array.ndim != 3 or 1 in (array.shape[0], array.shape[2]) or array.dtype != np.uint8:
            return file, _chosen(_numbers(array), label, file, white_is_object)
        source = Image.fromarray(np.ascontiguousarray(channels_last(array, file)))
    picture, file = read_picture(source, "mask")
    if kind := lossy_kind(picture):
        raise ValueError(f"Expected a lossless mask, but {file} is {kind}, which may change labels. Save it as PNG.")
    if picture.mode == "P":
        return file, _of_palette(picture, label, file, white_is_object)
    if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
        return file, _chosen(_numbers(np.asarray(picture), file), label, file, white_is_object)
    return file, _from_colours(np.asarray(picture.convert("RGBA")), label, file, white_is_object)


def _numbers(array: NDArray[Any], file: str = "the given mask") -> NDArray[np.uint8]:
    """The numbers of a mask [H,W] as bytes; shares from 0 to 1, and black and white of 16 bits, become grey levels."""
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1 and (array % 1).any():
        array = np.rint(array * 255)
    elif array.dtype.kind in "ui" and array.size and array.max() == 65535 and np.isin(array, (0, 65535)).all():
        array = array > 0
    return index_of(array, file)


def _fitted(mask: NDArray[np.uint8], frame: Frame | None, file: str) -> NDArray[np.uint8]:
    """The mask upright, if it is as large as the photo before its EXIF entry turns it."""
    if frame is None or mask.shape == frame[:2]:
        return mask
    if frame.orientation < 5 or mask.shape != (frame.width, frame.height):
        return mask
    remark(
        file,
        f"It is {mask.shape[1]} x {mask.shape[0]}, as its photo is before its EXIF entry turns it to"
        f" {frame.width} x {frame.height}. It was turned, too.",
    )
    return turned_array(mask, frame.orientation)


def lists_shapes(path: str | PathLike[str]) -> bool:
    """Whether a path ends as files do that list the shapes of photos: .json, .xml."""
    return fspath(path).lower().endswith(SHAPE_FILES)


def _colour_label(source: Source, name: str, label: Label | None) -> Label | None:
    """In CVAT's segmentation masks, the colour of the class, or of the label that is asked for by a name."""
    named = name if label is None else str(label).strip()
    if not isinstance(source, str | PathLike) or named.isdecimal() or _COLOUR.fullmatch(named):
        return label
    return colour_of(Path(source), named) or label


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"Expected label file {path}, but there is no such file.")
    return path.read_bytes()


def _drawn(annotated: Annotated, name: str, label: Label | None, check: Check, file: str) -> NDArray[np.uint8]:
    shapes = _matching(annotated, name if label is None else label)
    faults = list(annotated.faults)
    if not shapes:
        numbers = {
            each: f"{each} ({number})" if number is not None else each for each, number in annotated.labels.items()
        }
        here = [numbers[each] for each in dict.fromkeys(shape.label for shape in annotated.shapes)]
        asked = f"the label {name!r} (the class's name)" if label is None else f"the label {label!r}"
        left_out = f" {len(faults)} annotations cannot be read; the first: {faults[0]}" if faults else ""
        raise ValueError(
            f"Expected {asked} in the photo, but it has {listed(here)}. Choose a label: label=... in Python,"
            f" --label '{name}=...' on the command line.{left_out}"
        )
    mask = np.zeros((annotated.height, annotated.width), np.uint8)
    for shape in sorted(shapes, key=lambda each: not each.ignored):  # ignored shapes first: objects cover them
        check()
        try:
            mask[np.asarray(shape.draw(check), bool)] = IGNORE if shape.ignored else 1
        except ValueError as error:
            faults.append(str(error))
    if faults and not (mask == 1).any():
        raise ValueError(faults[-1])
    if faults:
        which = "annotation was" if len(faults) == 1 else "annotations were"
        remark(file, f"{len(faults)} {which} left out. The first: {faults[0]}")
    return mask


def _matching(annotated: Annotated, wanted: Label) -> list[Shape]:
    """Shapes with exactly this label, else with other capitals, else with this number."""
    text = composed(str(wanted).strip())
    number = int(text) if text.isdecimal() else None
    for fits in (
        lambda shape: composed(shape.label) == text,
        lambda shape: composed(shape.label.strip()).casefold() == text.casefold(),
        lambda shape: number is not None and shape.number == number,
    ):
        if found := [shape for shape in annotated.shapes if fits(shape)]:
            return found
    return []


def _chosen(
    index: NDArray[np.uint8], label: Label | None, file: str, white_is_object: bool, *, grey: bool = True
) -> NDArray[np.uint8]:
    """Mask of the class from an index mask; `grey` as in `object_of`."""
    if label is None:
        return object_of(index, file, white_is_object=white_is_object, grey=grey)
    held = np.flatnonzero(np.bincount(index.ravel(), minlength=256)).tolist()
    number = _number(label)
    if number is None or number not in held:
        raise ValueError(
            f"Expected the label {label!r} in {file}, but it is an index mask and holds {listed(held)}. Choose one"
            " of them."
        )
    mask = (index == number).astype(np.uint8)
    if not (white_is_object or held == [0, IGNORE] or number == IGNORE):
        mask[index == IGNORE] = IGNORE
    return mask


def _number(label: Label) -> int | None:
    text = str(label).strip()
    return int(text) if text.isdecimal() else None


def _of_palette(picture: Image.Image, label: Label | None, file: str, white_is_object: bool) -> NDArray[np.uint8]:
    """Mask of the class from a picture with a palette: its numbers, unless it is a picture of many greys."""
    index = np.asarray(picture)
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    counts = np.bincount(index.ravel(), minlength=256)
    held = [place for place in np.flatnonzero(counts).tolist() if place < len(palette)]
    greys = (palette[held] == palette[held][:, :1]).all()
    if label is None and greys and len(held) > _GREYS and index.max() < len(palette):
        return _chosen(palette[index][..., 0], None, file, white_is_object)
    if label is None and greys and len(held) == 2 and held[0] == 0 and palette[0, 0] > palette[held[1], 0]:
        remark(
            file,
            f"Its number 0 is the lighter of two, and the darker, {held[1]}, was taken for the object. If light is the"
            f" object, choose {_hex(palette[0])} as the label.",
        )
    return _chosen(index, _place_of(palette, held, label, file), file, white_is_object, grey=False)


def _place_of(palette: NDArray[np.uint8], held: Sequence[int], label: Label | None, file: str) -> Label | None:
    """Place in the palette of a label that is a colour; other labels unchanged."""
    if not isinstance(label, str) or not _COLOUR.fullmatch(label):
        return label
    colours = {int(place): _hex(palette[place]) for place in held}
    found = [place for place, colour in colours.items() if colour == label.lower()]
    if not found:
        raise ValueError(f"Expected the colour {label} in {file}, but it holds {listed(list(colours.values()))}.")
    return found[0]


def _from_colours(
    colours: NDArray[np.uint8], label: Label | None, file: str, white_is_object: bool
) -> NDArray[np.uint8]:
    """Mask of the class from RGBA [H,W,4]: the chosen colour, a cut-out, a grey index mask, or the only colour."""
    opaque = colours[..., 3] > 127
    grey = (colours[..., :3] == colours[..., :1]).all()
    if label is None and not opaque.all():
        if grey and len(np.unique(colours[opaque][:, 0])) == 2:
            remark(file, "It has two greys and transparency, and what is opaque was taken for the object.")
        return opaque.astype(np.uint8)
    if grey and not (isinstance(label, str) and _COLOUR.fullmatch(label)):
        return _chosen(colours[..., 0], label, file, white_is_object)
    codes = (colours[..., 0].astype(np.uint32) << 16) | (colours[..., 1].astype(np.uint32) << 8) | colours[..., 2]
    values, counts = np.unique(codes[opaque], return_counts=True)
    ordered = [f"#{value:06x}" for value in values[np.argsort(-counts, kind="stable")].tolist()]
    if label is None:
        others = [colour for colour in ordered if colour != "#000000"]
        if len(others) != 1 or len(ordered) != 2:
            raise ValueError(
                f"Expected an index mask, a cut-out, or one colour on black, but {file} holds {listed(ordered)}."
                " Choose a colour as the label: label='#rrggbb' in Python, --label 'CLASS=#rrggbb' on the command line."
            )
        label = others[0]
    if str(label).lower() not in ordered:
        raise ValueError(f"Expected the label {label!r} in {file}, but it is coloured and holds {listed(ordered)}.")
    return ((codes == int(str(label)[1:], 16)) & opaque).astype(np.uint8)


def _hex(colour: Sequence[int] | NDArray[Any]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(level) for level in colour))
