"""Odd photos and label files, as people's programs write them, each with what has to become of it, stated by hand.

All are of one scene, 64 x 48: a red block on grey. `tests/test_odd_files.py` gives them to the program in every way.
"""

from __future__ import annotations

import io
import json
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

HEIGHT, WIDTH = 48, 64
TOP, BOTTOM, LEFT, RIGHT = 10, 34, 20, 44
RED, GREY = (200, 30, 30), (120, 130, 140)


def scene() -> NDArray[np.uint8]:
    """The photo, [48,64,3]; its left upper corner is dark, so that a turn shows."""
    photo = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    photo[:] = GREY
    photo[TOP:BOTTOM, LEFT:RIGHT] = RED
    photo[:6, :6] = 20
    return photo


def block() -> NDArray[np.uint8]:
    """Its mask, [48,64]: 1 on the block."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[TOP:BOTTOM, LEFT:RIGHT] = 1
    return mask


def disc(softness: float = 0) -> NDArray[np.float64]:
    """A disc of radius 15 with an edge as wide as 2 `softness` + 1 px, [48,64] in [0,1]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = 15 - np.hypot(rows - 23.5, columns - 31.5)
    return np.clip(distance / (2 * softness + 1) + 0.5, 0, 1)


@dataclass(frozen=True)
class Odd:
    """A shot, and what has to become of it: the right photo and mask, with or without a warning, or a refusal."""

    kind: str
    name: str
    photo: bytes
    labels: bytes
    photo_name: str = "photo.png"
    labels_name: str = "mask.png"
    label: str | None = None
    class_name: str = "thing"
    right_photo: NDArray[np.uint8] | None = None
    """What the network has to see; None where the shot is refused."""
    right_mask: NDArray[np.uint8] | None = None
    warns: str = ""
    """Words of the only warning; empty where there must be none."""
    refused: str = ""
    """Words of the refusal."""
    without_folders: str = ""
    """Words of the refusal where only the photo's name arrives, without its folders."""
    pages: int = 1
    """Pictures that the photo's file holds."""
    tolerance: int = 0
    """By which the photo may differ, in levels: lossy files, and rounding of 10 to 16 bits."""

    def __str__(self) -> str:
        return self.name


def file_of(picture: Any, format: str = "PNG", **options: Any) -> bytes:
    """A picture or array as a file."""
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, format, **options)
    return buffer.getvalue()


def deep_png(array: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a colour, [H,W,3 | 4], which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, bands = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(*pages: NDArray[Any], extra: int | None = None, subfile: Sequence[int] = (), order: str = "<") -> bytes:
    """A plain TIFF of arrays [H,W] or [H,W,3 | 4], one strip a page.

    `extra`: what ExtraSamples says of a fourth band; None leaves the tag out. `subfile`: NewSubfileType of each page.
    """
    data = bytearray(struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 0))
    link = 4
    for number, page in enumerate(pages):
        bands = page.shape[2] if page.ndim == 3 else 1
        start = len(data)
        data += page.astype(page.dtype.newbyteorder(order)).tobytes()
        bits = len(data)
        data += struct.pack(f"{order}{bands}H", *[8 * page.itemsize] * bands)
        data += b"\0" * (len(data) % 2)
        tags = [
            (254, 4, 1, subfile[number] if subfile else 0),
            (256, 4, 1, page.shape[1]),
            (257, 4, 1, page.shape[0]),
            (258, 3, bands, 8 * page.itemsize if bands == 1 else bits),
            (259, 3, 1, 1),
            (262, 3, 1, 2 if bands > 1 else 1),
            (273, 4, 1, start),
            (277, 3, 1, bands),
            (278, 4, 1, page.shape[0]),
            (279, 4, 1, page.nbytes),
        ]
        if extra is not None:
            tags.append((338, 3, 1, extra))
        if page.dtype.kind == "f":
            tags.append((339, 3, 1, 3))
        struct.pack_into(f"{order}I", data, link, len(data))
        data += struct.pack(f"{order}H", len(tags))
        for tag, kind, count, value in tags:
            inline = f"{order}HHIHH" if kind == 3 and count == 1 else f"{order}HHII"
            data += struct.pack(inline, tag, kind, count, value, *([0] if kind == 3 and count == 1 else []))
        link = len(data)
        data += struct.pack(f"{order}I", 0)
    return bytes(data)


def turned_back(array: NDArray[Any]) -> NDArray[Any]:
    """As a camera stores it that EXIF orientation 6 turns upright: a quarter of a turn to the left."""
    return np.ascontiguousarray(np.rot90(array))


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def xmp_png(array: NDArray[np.uint8], orientation: int) -> bytes:
    """A PNG whose XMP packet alone has an orientation."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    info.add_itxt("XML:com.adobe.xmp", packet)
    return file_of(array, pnginfo=info)


POLYGON = [LEFT, TOP, RIGHT, TOP, RIGHT, BOTTOM, LEFT, BOTTOM]
CORNERS = [[LEFT, TOP], [RIGHT, TOP], [RIGHT, BOTTOM], [LEFT, BOTTOM]]


def coco(*more: dict[str, Any], images: Any = None, **change: Any) -> bytes:
    """A COCO file of the scene with further annotations; `change`: keys of the block's own annotation."""
    image = {"id": 7, "file_name": "photo.png", "height": HEIGHT, "width": WIDTH}
    own = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [POLYGON], "iscrowd": 0, **change}
    content = {
        "images": [image] if images is None else images,
        "categories": [{"id": 3, "name": "thing"}, {"id": 4, "name": "other"}],
        "annotations": [own, *({"id": 2 + n, "image_id": 7, "category_id": 3, **each} for n, each in enumerate(more))],
    }
    return json.dumps(content).encode()


def labelme(encoding: str = "utf-8", label: str = "thing", points: Any = None, **change: Any) -> bytes:
    content = {
        "shapes": [{"label": label, "points": CORNERS if points is None else points, "shape_type": "polygon"}],
        "imagePath": "photo.png",
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **change,
    }
    return json.dumps(content, ensure_ascii=False).encode(encoding)


def of_mask(kind: str, name: str, labels: bytes, right: NDArray[Any] | None, warns: str = "", **more: Any) -> Odd:
    """An odd mask beside the plain photo."""
    seen = {} if right is None else {"right_photo": scene(), "right_mask": np.asarray(right, np.uint8)}
    return Odd(kind, name, file_of(scene()), labels, warns=warns, **seen, **more)


def of_photo(kind: str, name: str, photo: bytes, suffix: str, right: NDArray[Any] | None, **more: Any) -> Odd:
    """An odd photo beside the plain mask."""
    seen = {} if right is None else {"right_photo": np.asarray(right, np.uint8), "right_mask": block()}
    return Odd(kind, name, photo, file_of(block()), photo_name=f"photo.{suffix}", **seen, **more)


def of_json(kind: str, name: str, labels: bytes, right: NDArray[Any] | None, warns: str = "", **more: Any) -> Odd:
    return of_mask(kind, name, labels, right, warns, labels_name="labels.json", **more)


def soft_masks() -> list[Odd]:
    kind, warns = "soft mask", "as a soft edge does.*128 or lighter"
    edge = np.rint(255 * disc(1)).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(255 * block()).filter(ImageFilter.GaussianBlur(3)))
    lone = 255 * block()
    lone[20, 30] = 254
    lossy = Image.open(io.BytesIO(file_of(np.rint(255 * disc()).astype(np.uint8), "JPEG", quality=60)))
    quarters = np.rint(3 * disc(1)).astype(np.uint8) * 85
    trimap = np.rint(2 * disc(2)).astype(np.uint8)
    numbers = np.array([0, 128, 255], np.uint8)[trimap]
    return [
        of_mask(kind, "soft grey", file_of(edge), edge >= 128, warns),
        of_mask(kind, "soft grey in RGB", file_of(np.dstack([edge] * 3)), edge >= 128, warns),
        of_mask(kind, "soft grey in a GIF", file_of(edge, "GIF"), edge >= 128, warns, labels_name="mask.gif"),
        of_mask(kind, "blurred", file_of(blurred), blurred >= 128, warns),
        of_mask(kind, "one pixel of 254", file_of(np.dstack([lone] * 3)), block(), "It holds a grey level, 254"),
        of_mask(kind, "was a JPEG", file_of(lossy), np.asarray(lossy) >= 128, warns),
        of_mask(kind, "edge of two greys", file_of(quarters), quarters >= 128, warns),
        of_mask(kind, "soft float", tiff(disc(1).astype(np.float32)), edge >= 128, warns, labels_name="mask.tif"),
        of_mask("trimap", "trimap", file_of(numbers), np.array([0, 255, 1])[trimap], "as a trimap does"),
    ]


def masks_without_background() -> list[Odd]:
    kind, ones = "no background", np.ones((HEIGHT, WIDTH), np.uint8)
    beside = np.where(block() == 1, np.uint8(1), np.uint8(255))
    ring = 255 * block()
    ring[20, 30] = 1
    photo = np.dstack([scene(), 255 * ones])
    return [
        of_mask(kind, "all object", file_of(ones), ones, "Nothing in it is background: all of it is the object"),
        of_mask(kind, "object and 255", file_of(beside), beside, r"the rest is ignored \(255\)"),
        of_mask(kind, "all 255", file_of(255 * ones), None, refused="marks none. Its 255 means ignore"),
        of_mask(kind, "nothing", file_of(0 * ones), None, refused="marks none"),
        of_mask(kind, "an opaque photo", file_of(photo), None, refused="a cut-out, or one colour on black"),
        of_mask(kind, "nearly all 255", file_of(ring), ring, "Nearly all that it marks is 255.*white_is_object"),
    ]


def several_numbers() -> list[Odd]:
    kind, two = "several numbers", block()
    two[TOP:20, LEFT:RIGHT] = 2
    voc = np.where(block() == 1, np.uint8(15), np.uint8(0))
    voc[TOP:20, LEFT:30], voc[:, LEFT - 2 : LEFT] = 5, 255
    palette = Image.frombytes("P", (WIDTH, HEIGHT), voc.tobytes())
    palette.putpalette([level for n in range(256) for level in ((67 * n) % 256, (131 * n) % 256, (29 * n) % 256)])
    cells = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number in range(30):
        row, column = divmod(number, 6)
        cells[row * 9 + 1 : row * 9 + 8, column * 10 + 1 : column * 10 + 8] = 8 * number + 1
    red_and_blue = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red_and_blue[TOP:20, LEFT:RIGHT], red_and_blue[20:BOTTOM, LEFT:RIGHT] = (255, 0, 0), (0, 0, 255)
    merged = np.where(voc == 255, 255, voc > 0)
    return [
        of_mask(kind, "two numbers", file_of(two), two > 0, r"several numbers, 1, 2, .*label=1"),
        of_mask(kind, "two numbers, one chosen", file_of(two), two == 2, label="2"),
        of_mask(kind, "numbers of a palette", file_of(palette), merged, "several numbers, 5, 15,"),
        of_mask(kind, "thirty cells of 16 bits", file_of(cells), cells > 0, "several numbers, 1, 9, 17"),
        of_mask(
            kind, "cells up to 290", file_of(cells + np.uint16(50) * (cells > 0)), None, refused="whole numbers 0..255"
        ),
        of_mask(kind, "two colours", file_of(red_and_blue), None, refused="#0000ff.*Choose a colour"),
        of_mask(kind, "two colours, one chosen", file_of(red_and_blue), red_and_blue[..., 2] > 0, label="#0000ff"),
    ]


def inverted_masks() -> list[Odd]:
    kind, warns, dark = "inverted mask", "the mask is inverted: choose its 0", 1 - block()
    swapped = Image.frombytes("P", (WIDTH, HEIGHT), block().tobytes())
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    hole = np.dstack([scene(), 255 * dark])
    return [
        of_mask(kind, "black on white", file_of(255 * dark), dark, warns),
        of_mask(kind, "black on white, 1 bit", file_of(dark.astype(bool)), dark, warns),
        of_mask(kind, "black on white, black chosen", file_of(255 * dark), block(), label="0"),
        of_mask(kind, "the object cut out of the photo", file_of(hole), dark, "what it leaves out"),
        of_mask(kind, "palette from white to black", file_of(swapped), block(), "the lighter of two"),
    ]


def plain_masks() -> list[Odd]:
    kind, mask = "plain mask", block()
    nearly = np.dstack([255 * mask] * 3 + [np.full_like(mask, 255)])
    nearly[0, 0, 3] = 254
    deep = mask.astype(np.uint16) * 65535
    return [
        of_mask(kind, "white on black", file_of(255 * mask), mask),
        of_mask(kind, "white on black, 16 bits", file_of(deep), mask),
        of_mask(kind, "white on black in RGBA, one pixel not quite opaque", file_of(nearly), mask),
        of_mask(kind, "cut-out", file_of(np.dstack([scene(), 255 * mask])), mask),
        of_mask(kind, "numbers of a TIFF", tiff(mask), mask, labels_name="mask.tif"),
        of_mask("no mask", "a grey photo", file_of(noise()), None, refused="between black and white, like a photo"),
        of_mask("no mask", "a JPEG", file_of(255 * mask, "JPEG"), None, refused="is a JPEG"),
        of_mask("no mask", "half a file", file_of(noise())[:900], None, refused="cannot read|Expected a picture"),
        of_mask("no mask", "another size", file_of(mask[:, :-1]), None, refused="as large as its photo, 64 x 48"),
    ]


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(30, 220, (HEIGHT, WIDTH), np.uint8)


def depths() -> list[Odd]:
    kind, photo = "depth", scene()
    grey = np.dstack([photo[..., 0]] * 3)

    def deep(bits: int, of: NDArray[np.uint8] = photo) -> NDArray[np.uint16]:
        return np.rint(of / 255 * (2**bits - 1)).astype(np.uint16)

    def warned(bits: int) -> dict[str, Any]:
        return {"warns": f"taken for {bits} bits", "tolerance": 1}

    bright = deep(12, np.where(photo == 120, np.uint8(255), photo))
    seen = np.where(photo == 120, 255, photo)
    short = photo[..., 0].astype(np.float32) / 255
    stretched = np.select([grey == 20, grey == 120, grey == 200], [0, 142, 255]).astype(np.uint8)  # (120 - 20) / 180
    by_percentiles: dict[str, Any] = {"warns": "20 to 200 was taken for black", "without_folders": r"0\.\.1 \(float\)"}
    return [
        of_photo(kind, "grey of 10 bits", tiff(deep(10, photo[..., 0])), "tif", grey, **warned(10)),
        of_photo(kind, "grey of 12 bits in a PNG", file_of(deep(12, photo[..., 0])), "png", grey, **warned(12)),
        of_photo(kind, "grey of 14 bits", tiff(deep(14, photo[..., 0])), "tif", grey, **warned(14)),
        of_photo(kind, "grey of 16 bits", tiff(deep(16, photo[..., 0])), "tif", grey, tolerance=1),
        of_photo(kind, "grey of 8 bits in 16", tiff(photo[..., 0].astype(np.uint16)), "tif", grey, **warned(8)),
        of_photo(kind, "colours of 12 bits in a PNG", deep_png(bright), "png", seen, **warned(12)),
        of_photo(kind, "colours of 12 bits in a TIFF", tiff(bright), "tif", seen, **warned(12)),
        of_photo(kind, "colours of 12 bits, other order of bytes", tiff(bright, order=">"), "tif", seen, **warned(12)),
        of_photo(kind, "colours of 16 bits in a PNG", deep_png(deep(16)), "png", photo, tolerance=1),
        of_photo(kind, "floats from 0 to 1", tiff(short), "tif", grey, tolerance=1),
        of_photo(kind, "floats from 0 to 255", tiff(255 * short), "tif", stretched, **by_percentiles),
    ]


def fourth_bands() -> list[Odd]:
    kind, photo = "fourth band", scene()
    infrared = np.linspace(20, 235, WIDTH).astype(np.uint8) * np.ones((HEIGHT, 1), np.uint8)
    four = np.dstack([photo, infrared])
    half = np.where(np.arange(WIDTH) < 10, np.uint8(0), np.uint8(255)) * np.ones((HEIGHT, 1), np.uint8)
    white = photo.copy()
    white[:, :10] = 255
    return [
        of_photo(kind, "near infrared", tiff(four), "tif", photo, warns="not taken for transparency"),
        of_photo(kind, "a band of unknown meaning", tiff(four, extra=0), "tif", photo),
        of_photo(
            kind,
            "transparent everywhere",
            file_of(np.dstack([photo, 0 * infrared])),
            "png",
            photo,
            warns="transparent everywhere",
        ),
        of_photo(kind, "transparent in part", file_of(np.dstack([photo, half])), "png", white),
        of_photo(kind, "transparency of a TIFF", tiff(np.dstack([photo, half]), extra=2), "tif", white),
    ]


def pages() -> list[Odd]:
    kind, photo = "pages", scene()
    frames = [Image.fromarray(photo[..., 0]), Image.fromarray(photo[..., 1])]
    moving = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    first = np.asarray(Image.open(io.BytesIO(moving)).convert("RGB"))
    ones = np.ones((HEIGHT, WIDTH), np.uint8)
    return [
        of_photo(
            kind, "three pages", tiff(photo, photo // 2, photo // 3), "tif", photo, warns="It has 3 pages", pages=3
        ),
        of_photo(kind, "a page and its smaller copy", tiff(photo, photo[::2, ::2], subfile=(0, 1)), "tif", photo),
        of_photo(kind, "a moving GIF", moving, "gif", first, warns="has 2 frames", pages=2),
        of_mask(kind, "a mask of two pages", tiff(block(), ones), block(), "It has 2 pages", labels_name="mask.tif"),
    ]


def turns() -> list[Odd]:
    kind, photo, mask = "orientation", scene(), block()
    stored, marked = turned_back(photo), turned_back(mask)
    turned = file_of(stored, exif=exif(6))
    corners = [[y, WIDTH - x] for x, y in CORNERS]  # a quarter of a turn to the left
    sideways = labelme(imageHeight=WIDTH, imageWidth=HEIGHT, points=corners)
    upright = {"right_photo": photo, "right_mask": mask}
    says = {"warns": "before its EXIF entry turns it to 64 x 48. It was turned, too"}
    small = file_of(marked[::2, ::2])
    return [
        Odd(kind, "EXIF, mask of the upright photo", turned, file_of(mask), **upright),
        Odd(kind, "EXIF, mask of the stored photo", turned, file_of(marked), **upright, **says),
        Odd(kind, "EXIF, LabelMe of the stored photo", turned, sideways, labels_name="l.json", **upright, **says),
        Odd(kind, "EXIF, a mask of neither", turned, small, refused="as large as its photo, 64 x 48 .* is 24 x 32"),
        Odd(
            kind,
            "XMP alone",
            xmp_png(photo, 6),
            file_of(mask),
            **upright,
            warns=r"XMP entry turns it \(orientation 6\).*taken as stored",
        ),
    ]


def names_in_json() -> list[Odd]:
    kind, mask = "names in a JSON", block()
    composed, decomposed = (unicodedata.normalize(form, "Café.png") for form in ("NFC", "NFD"))
    size = {"height": HEIGHT, "width": WIDTH}

    def two(*names: str) -> bytes:
        images = [{"id": number, "file_name": name, **size} for number, name in enumerate(names, 6)]
        return coco({"segmentation": [[0, 0, 9, 0, 9, 9]], "image_id": 6}, images=images)

    folders = two("train/photo.png", "val/photo.png")
    return [
        of_json(kind, "decomposed name in the JSON", two("b.png", decomposed), mask, photo_name=composed),
        of_json(kind, "composed name in the JSON", two("b.png", composed), mask, photo_name=decomposed),
        of_json(
            kind,
            "one name in two folders",
            folders,
            mask,
            photo_name="val/photo.png",
            without_folders="the file has it 2 times: train/photo.png, val/photo.png",
        ),
        of_json(kind, "a label with other accents", labelme(label="cafe\u0301"), mask, class_name="caf\u00e9"),
        of_json(kind, "of another photo", labelme(imagePath="..\\other.jpg"), mask, "It annotates other.jpg"),
        of_json(kind, "another label", labelme(label="cow"), None, refused="but it has cow"),
        of_json(kind, "not in the file", two("c.png", "d.png"), None, refused="annotates c.png, d.png"),
    ]


def faults_in_json() -> list[Odd]:
    kind, mask, far = "faults in a JSON", block(), [[0, 0, 9e9, 0, 5, 5]]
    floats = [{"id": 7.0, "file_name": "photo.png", "height": 48.0, "width": 64.0}]
    words = [{"id": "7", "file_name": "photo.png", "height": "48", "width": "64"}]
    shapes = [
        {"label": "thing", "points": CORNERS, "shape_type": "polygon"},
        {"label": "thing", "points": [[1, 1], [2, 2]], "shape_type": "polygon"},
        {"label": "thing", "points": [[1, 1]], "shape_type": "point"},
    ]
    left_out = "1 annotation was left out. The first: "
    return [
        of_json(kind, "an empty polygon", coco({"segmentation": []}), mask, f"{left_out}Expected a segmentation"),
        of_json(kind, "two corners", coco({"segmentation": [[1, 1, 2, 2]]}), mask, f"{left_out}.*3 corners"),
        of_json(
            kind,
            "an empty part",
            coco(segmentation=[POLYGON, []]),
            mask,
            "1 polygon of an annotation was left out.*3 corners",
        ),
        of_json(kind, "far outside", coco({"segmentation": far}), mask, f"{left_out}.*far outside"),
        of_json(kind, "unknown category", coco({"category_id": 99}), mask, f"{left_out}.*category_id 99"),
        of_json(kind, "two bad shapes of LabelMe", labelme(shapes=shapes), mask, "2 annotations were left out"),
        of_json(kind, "nothing else", coco(segmentation=[[1, 1, 2, 2]]), None, refused="at least 3 corners"),
        of_json(kind, "10.0 for 10", coco(images=floats, image_id=7.0, category_id=3.0), mask),
        of_json(kind, "numbers as text", coco(images=words, image_id="7", category_id="3"), mask),
    ]


def sizes_and_text_of_json() -> list[Odd]:
    mask = block()
    nameless = [{"id": 7, "file_name": "photo.png"}]
    chinese = labelme("gb18030", label="\u72d7")
    return [
        of_json("sizes of a JSON", "LabelMe without a size", labelme(imageHeight=None, imageWidth=None), mask),
        of_json("sizes of a JSON", "COCO without a size", coco(images=nameless), mask),
        of_json(
            "sizes of a JSON",
            "of a larger photo",
            labelme(imageHeight=96, imageWidth=128),
            None,
            refused="64 x 48 as shown upright",
        ),
        of_json("sizes of a JSON", "half a size", labelme(imageHeight=None), None, refused="height and width"),
        of_json("text of a JSON", "GB18030", chinese, mask, "read as GB18030", class_name="\u72d7"),
        of_json("text of a JSON", "UTF-8 with a mark", labelme("utf-8-sig"), mask),
        of_json("text of a JSON", "UTF-16", labelme("utf-16"), mask),
        of_json("text of a JSON", "cut off", labelme()[:-9], None, refused="not JSON"),
    ]


def corpus() -> list[Odd]:
    """All odd files."""
    return [
        *soft_masks(),
        *masks_without_background(),
        *several_numbers(),
        *inverted_masks(),
        *plain_masks(),
        *depths(),
        *fourth_bands(),
        *pages(),
        *turns(),
        *names_in_json(),
        *faults_in_json(),
        *sizes_and_text_of_json(),
    ]
