"""Reads the mask of a class from a label file: index, binary, palette or colour picture, cut-out, or JSON.

`label` chooses one label of the file: a name, a number, or a colour as #rrggbb. Without `label`, all labels of a
picture count as the class; a colour picture may then have only one colour on black. In a JSON, the label with the name
of the class counts.

    H W the file's own size, which should equal its photo's
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet import IGNORE
from rifenet.formats.label_json import Annotated, Shape, read_annotations
from rifenet.formats.pictures import Source, load_mask, lossy_kind, read_picture
from rifenet.formats.run_lengths import Check, unchecked

Label = str | int
MOST_PIXELS = 2**28
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_SHOWN = 12


def load_labels(
    source: Source | bytes,
    name: str,
    *,
    label: Label | None = None,
    photo: str = "",
    white_is_object: bool = False,
    most_pixels: int = MOST_PIXELS,
    check: Check = unchecked,
) -> NDArray[np.uint8]:
    """Mask of the class: uint8 [H,W], 1 the class, 0 not, 255 ignored.

    Args:
        source: a picture (path, PIL image or array), or a JSON (path, or its bytes).
        name: the class. Without `label`, it is the label to read in a JSON; capitals do not matter.
        label: name, number or #rrggbb of the label to read.
        photo: file name of the photo, to find it in a JSON of several photos.
        white_is_object: in an index picture, 255 marks the class, too. In a picture of only 0 and 255 it always does.
        most_pixels: largest photo, in pixels, that a JSON may describe.
        check: called between the steps of drawing a JSON; it may raise to end the work.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read or lacks the label; the message lists the labels that it has.
    """
    if isinstance(source, bytes) or (isinstance(source, str | PathLike) and is_json(source)):
        file = "the JSON" if isinstance(source, bytes) else fspath(source)
        text = source if isinstance(source, bytes) else _bytes_of(Path(source))
        try:
            return _drawn(read_annotations(text, photo, most_pixels), name, label, check)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Label file {file}: {error}") from error
    if isinstance(source, np.ndarray) and source.ndim == 3 and source.dtype == np.uint8 and source.shape[2] in (3, 4):
        source = Image.fromarray(source)
    if isinstance(source, np.ndarray):
        return _chosen(load_mask(source), label, "the given mask", white_is_object)
    picture, file = read_picture(source, "mask")
    if picture.mode in ("1", "L", "P", "F") or picture.mode.startswith("I") or lossy_kind(picture):
        index = load_mask(picture if isinstance(source, Image.Image) else source)
        return _chosen(index, _place_of(picture, label, file), file, white_is_object)
    return _from_colours(np.asarray(picture.convert("RGBA")), label, file, white_is_object)


def is_json(path: str | PathLike[str]) -> bool:
    """Whether a path ends in .json."""
    return fspath(path).lower().endswith(".json")


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"Expected label file {path}, but there is no such file.")
    return path.read_bytes()


def _drawn(annotated: Annotated, name: str, label: Label | None, check: Check) -> NDArray[np.uint8]:
    shapes = _matching(annotated, name if label is None else label)
    if not shapes:
        numbers = {
            each: f"{each} ({number})" if number is not None else each for each, number in annotated.labels.items()
        }
        here = [numbers[each] for each in dict.fromkeys(shape.label for shape in annotated.shapes)]
        asked = f"the label {name!r} (the class's name)" if label is None else f"the label {label!r}"
        raise ValueError(
            f"Expected {asked} in the photo, but it has {_listed(here)}. Choose a label: label=... in Python,"
            f" --label '{name}=...' on the command line."
        )
    mask = np.zeros((annotated.height, annotated.width), np.uint8)
    for shape in sorted(shapes, key=lambda each: not each.ignored):  # ignored shapes first: objects cover them
        check()
        mask[np.asarray(shape.draw(check), bool)] = IGNORE if shape.ignored else 1
    return mask


def _matching(annotated: Annotated, wanted: Label) -> list[Shape]:
    """Shapes with exactly this label, else with other capitals, else with this number."""
    text = str(wanted).strip()
    number = int(text) if text.isdecimal() else None
    for fits in (
        lambda shape: shape.label == text,
        lambda shape: shape.label.strip().casefold() == text.casefold(),
        lambda shape: number is not None and shape.number == number,
    ):
        if found := [shape for shape in annotated.shapes if fits(shape)]:
            return found
    return []


def _chosen(index: NDArray[np.uint8], label: Label | None, file: str, white_is_object: bool) -> NDArray[np.uint8]:
    """Mask of the class from an index mask."""
    held = np.flatnonzero(np.bincount(index.ravel(), minlength=256)).tolist()
    white = white_is_object or held == [0, IGNORE]
    if label is None:
        mask = (index > 0).astype(np.uint8)
    else:
        number = _number(label)
        if number is None or number not in held:
            raise ValueError(
                f"Expected the label {label!r} in {file}, but it is an index mask and holds {_listed(held)}. Choose one"
                " of them."
            )
        mask = (index == number).astype(np.uint8)
        white = white or number == IGNORE
    if not white:
        mask[index == IGNORE] = IGNORE
    return mask


def _number(label: Label) -> int | None:
    text = str(label).strip()
    return int(text) if text.isdecimal() else None


def _place_of(picture: Image.Image, label: Label | None, file: str) -> Label | None:
    """Palette index of a colour label, if the picture has a palette; other labels unchanged."""
    if picture.mode != "P" or not isinstance(label, str) or not _COLOUR.fullmatch(label):
        return label
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    held = np.flatnonzero(np.bincount(np.asarray(picture).ravel(), minlength=256)).tolist()
    colours = {place: _hex(palette[place]) for place in held if place < len(palette)}
    found = [place for place, colour in colours.items() if colour == label.lower()]
    if not found:
        raise ValueError(f"Expected the colour {label} in {file}, but it holds {_listed(list(colours.values()))}.")
    return found[0]


def _from_colours(
    colours: NDArray[np.uint8], label: Label | None, file: str, white_is_object: bool
) -> NDArray[np.uint8]:
    """Mask of the class from RGBA [H,W,4]: the chosen colour, a cut-out, a grey index mask, or the only colour."""
    opaque = colours[..., 3] > 127
    grey = (colours[..., :3] == colours[..., :1]).all()
    if label is None and (colours[..., 3] < 255).any():
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
                f"Expected an index mask, a cut-out, or one colour on black, but {file} holds {_listed(ordered)}."
                " Choose a colour as the label: label='#rrggbb' in Python, --label 'CLASS=#rrggbb' on the command line."
            )
        label = others[0]
    if str(label).lower() not in ordered:
        raise ValueError(f"Expected the label {label!r} in {file}, but it is coloured and holds {_listed(ordered)}.")
    return ((codes == int(str(label)[1:], 16)) & opaque).astype(np.uint8)


def _hex(colour: Sequence[int] | NDArray[Any]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(level) for level in colour))


def _listed(held: Sequence[Any]) -> str:
    more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
    return (", ".join(map(str, held[:_SHOWN])) or "none") + more
