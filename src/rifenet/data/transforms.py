"""Images and masks in, network-sized arrays out, and scores back to the original size. Only numpy and Pillow.

Geometry: every resize maps pixel centres to pixel centres ("half-pixel"), so that `restore` undoes `resize_and_pad`
without an offset (protocols.md 3: the published codes are up to 7 px off). Training views follow method.md 11; all
their randomness comes from the generator handed in, so a view depends on nothing but its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Source = str | PathLike[str] | Image.Image | NDArray[Any]

MEAN = (0.485, 0.456, 0.406)
IGNORE = 255
_FILL = tuple(round(255 * value) for value in MEAN)
_BLUR_SIGMA = 1.1  # what OpenCV derives from the 5 x 5 kernel of the published codes
_NEAREST, _BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
_LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "WEBP": "a WebP", "jpeg": "a TIFF of JPEG", "webp": "a TIFF of WebP"}
_CROP_TRIES = 30
_CROP_SHARE = 0.85


def load_image(source: Source) -> NDArray[np.uint8]:
    """RGB photo, uint8 [H, W, 3], from a path, a PIL image or an array.

    EXIF rotation is applied; grey, palette, CMYK and 16-bit pictures are converted; transparency is laid over white.
    Arrays: [H, W] or [H, W, 1 | 3 | 4], uint8 or uint16. Raises FileNotFoundError, or ValueError naming the file.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source, "the given image")
    picture, name = read_picture(source, "image")
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _array_to_rgb(np.asarray(picture), name)
    if picture.has_transparency_data:
        return _array_to_rgb(np.asarray(picture.convert("RGBA")), name)
    return np.array(picture.convert("RGB"))


def load_mask(source: Source) -> NDArray[np.uint8]:
    """Index mask, uint8 [H, W] (0 background, class id, 255 ignore), from a palette or grey picture or an array.

    Booleans give 0 and 1. Raises FileNotFoundError, or ValueError where it is coloured, lossy or unreadable.
    """
    if isinstance(source, np.ndarray):
        return _array_to_mask(source, "the given mask")
    picture, name = read_picture(source, "mask")
    if kind := lossy_kind(picture):
        raise ValueError(f"Expected a lossless mask, but {name} is {kind}, which may change labels. Save it as PNG.")
    if picture.mode in ("1", "L", "P", "F") or picture.mode.startswith("I"):
        return _array_to_mask(np.asarray(picture), name)
    colours = np.asarray(picture.convert("RGBA"))
    if (colours[..., 3] < 255).any() or (colours[..., :3] != colours[..., :1]).any():
        raise ValueError(
            f"Expected an index mask (one number a pixel: 0 background, class id, 255 ignore), but {name} is coloured"
            f" or transparent ({picture.mode}). Save it as a palette or grey PNG whose values are class ids."
        )
    return np.array(colours[..., 0])


def lossy_kind(picture: Image.Image) -> str | None:
    """What a file is that may have changed labels, or None; Pillow does not tell lossless WebP from the other."""
    inside = str(picture.info.get("compression")).removeprefix("tiff_")
    return _LOSSY.get(inside if picture.format == "TIFF" else picture.format or "")


def read_picture(source: str | PathLike[str] | Image.Image, what: str) -> tuple[Image.Image, str]:
    """The upright picture and its name for messages; `what` it is goes into the name. Raises as `load_image`."""
    name = f"the given {what}" if isinstance(source, Image.Image) else f"{what} file {fspath(source)}"
    if not isinstance(source, Image.Image) and not Path(source).is_file():
        raise FileNotFoundError(f"Expected {name}, but there is no such file.")
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as picture:
            upright = ImageOps.exif_transpose(picture)
            upright.format = picture.format
            return upright, name
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and more on bad bytes
        raise ValueError(f"Expected a readable picture, but cannot read {name}: {error}.") from error


def _array_to_rgb(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"Expected an image [H, W], [H, W, 3] or [H, W, 4], but {name} is {list(array.shape)}.")
    if array.dtype.kind not in "ui" or array.min() < 0 or array.max() > 65535:
        raise ValueError(
            f"Expected image values 0..255 (uint8) or 0..65535 (uint16), but {name} holds {array.dtype} from"
            f" {array.min()} to {array.max()}. Scale to 0..255 and convert to uint8."
        )
    if array.dtype != np.uint8:
        array = ((array.astype(np.int64) + 128) // 257).astype(np.uint8)
    if array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint32)
        array = ((array[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)))


def _array_to_mask(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"Expected a mask [H, W] with one number a pixel, but {name} is {list(array.shape)}.")
    if array.dtype not in (np.bool_, np.uint8) and not np.isin(array, np.arange(256)).all():
        raise ValueError(f"Expected whole numbers 0..255, but {name} holds {array.min()} to {array.max()}.")
    return array.astype(np.uint8)


@dataclass(frozen=True)
class Placement:
    """A height x width picture scaled into the top left scaled_height x scaled_width pixels of a size x size square."""

    height: int
    width: int
    size: int
    scaled_height: int
    scaled_width: int


def place(height: int, width: int, size: int) -> Placement:
    """Longer side to `size`, ratio kept, at least 1 px."""
    if min(height, width, size) < 1:
        raise ValueError(f"Expected a picture and a size of at least 1 px, but got {width} x {height} and {size}.")
    scale = size / max(height, width)
    return Placement(height, width, size, max(1, round(height * scale)), max(1, round(width * scale)))


def resize_and_pad(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], Placement]:
    """Network input of a uint8 [H, W, 3] photo, its valid mask, and the placement for `resize_mask` and `restore`.

    The input is float32 [3, size, size] in [0,1], padded right and below with MEAN; valid is [size, size], True on the
    real pixels.
    """
    placement = place(image.shape[0], image.shape[1], size)
    height, width = placement.scaled_height, placement.scaled_width
    pixels = np.empty((3, size, size), np.float32)
    pixels[:] = np.array(MEAN, np.float32)[:, None, None]
    pixels[:, :height, :width] = to_float(np.asarray(_resized(image, height, width)))
    valid = np.zeros((size, size), bool)
    valid[:height, :width] = True
    return pixels, valid, placement


def squash(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], Placement]:
    """`resize_and_pad` for the `hsnet` protocol: the photo fills the square, its ratio is lost, every pixel is real."""
    place(image.shape[0], image.shape[1], size)  # refuses empty pictures and sizes
    pixels = to_float(np.asarray(_resized(image, size, size)))
    return pixels, np.ones((size, size), bool), Placement(image.shape[0], image.shape[1], size, size, size)


def resize_mask(mask: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Mask at the image's placement, uint8 [size, size]: nearest neighbour, padding 255.

    No label is made up and no class is lost: one that falls between the sampled pixels keeps one pixel. Raises
    ValueError where mask and image differ in size.
    """
    if mask.shape != (placement.height, placement.width):
        raise ValueError(
            f"Expected a mask of the image's size, {placement.width} x {placement.height}, but got"
            f" {mask.shape[1]} x {mask.shape[0]} (width x height)."
        )
    height, width = placement.scaled_height, placement.scaled_width
    labels = np.array(Image.fromarray(mask).resize((width, height), _NEAREST))
    before, after = (np.bincount(array.ravel(), minlength=256) > 0 for array in (mask, labels))
    before[[0, IGNORE]] = False
    for label in np.flatnonzero(before & ~after):
        rows, columns = np.nonzero(mask == label)
        middle = len(rows) // 2
        labels[rows[middle] * height // placement.height, columns[middle] * width // placement.width] = label
    padded = np.full((placement.size, placement.size), IGNORE, np.uint8)
    padded[:height, :width] = labels
    return padded


def restore(maps: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Scores [..., size, size] at the picture's own size, [..., height, width]: padding cut, bilinear, no offset."""
    if maps.shape[-2:] != (placement.size, placement.size):
        raise ValueError(f"Expected maps of {placement.size} x {placement.size}, but got {list(maps.shape)}.")
    cut = maps[..., : placement.scaled_height, : placement.scaled_width].astype(np.float32)
    out = np.empty((*maps.shape[:-2], placement.height, placement.width), np.float32)
    for position in np.ndindex(*maps.shape[:-2]):
        scores = Image.fromarray(np.ascontiguousarray(cut[position]))
        out[position] = scores.resize((placement.width, placement.height), _BILINEAR)
    return out


def to_float(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [H, W, 3] -> float32 [3, H, W] in [0,1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def _resized(image: NDArray[np.uint8], height: int, width: int) -> Image.Image:
    return Image.fromarray(image).resize((width, height), _BILINEAR)


def view_rng(*key: int) -> np.random.Generator:
    """Generator of one view, from whole numbers >= 0 such as (seed, step, sample, image): equal keys, equal views."""
    return np.random.default_rng([len(key), *key])  # the length, because numpy pads short keys with zeros


def weak_view(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    rng: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float] = (0.9, 1.1),
    rotate: float = 10.0,
    blur: float = 0.5,
    flip: float = 0.5,
    keep: Iterable[int] = (),
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Weak view (method.md 11): uint8 image [size, size, 3], uint8 mask and valid (True = real pixel) [size, size].

    Longer side to size * scale; rotation up to +-`rotate` degrees (p .5); Gaussian blur (p `blur`); mirror (p `flip`);
    random crop, padded with the mean and label 255. Angle and crop are drawn again, 30 times at most, until 85% of the
    area of each class in `keep` stays, else the best try counts. A class in `keep` that the mask shows is in the view
    for certain. A mask of None (an unlabeled image) counts as background.
    """
    mask = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
    target = place(image.shape[0], image.shape[1], max(1, round(size * rng.uniform(*scale))))
    height, width = target.scaled_height, target.scaled_width
    photo = _resized(image, height, width)
    labels = Image.fromarray(np.ascontiguousarray(resize_mask(mask, target)[:height, :width]))
    bound = math.radians(rotate) if rng.random() < 0.5 else 0.0
    if rng.random() < flip:
        photo, labels = ImageOps.mirror(photo), ImageOps.mirror(labels)
    if rng.random() < blur:  # before the padding is there, so that it does not bleed in
        photo = photo.filter(ImageFilter.GaussianBlur(_BLUR_SIGMA))
    areas = {label: count for label in keep if (count := np.count_nonzero(np.asarray(labels) == label))}
    best = -1.0
    for _ in range(_CROP_TRIES):
        top, left = (int(rng.integers(min(0, free), max(0, free) + 1)) for free in (height - size, width - size))
        matrix = _crop_matrix(top, left, rng.uniform(-bound, bound), height, width)
        crop = _warped(labels, matrix, size, IGNORE, _NEAREST)
        share = min((np.count_nonzero(crop == label) / area for label, area in areas.items()), default=1.0)
        if share > best:
            best, chosen, cropped = share, matrix, crop
        if share >= _CROP_SHARE:
            break
    if best == 0:  # a few pixels that no try kept: the whole picture, upright, has them
        return weak_view(image, mask, rng, size=size, scale=(1.0, 1.0), rotate=0.0, blur=blur, flip=flip)
    pixels = _warped(photo, chosen, size, _FILL, _BILINEAR)
    # At the very edge Pillow's two samplers may disagree on what lies inside: a pixel is real where both say so.
    full = Image.new("L", photo.size, 255)
    inside = [_warped(full, chosen, size, 0, resample) > 0 for resample in (_NEAREST, _BILINEAR)]
    valid = inside[0] & inside[1]
    pixels[~valid] = _FILL
    cropped[~valid] = IGNORE
    return pixels, cropped, valid


def _crop_matrix(top: int, left: int, angle: float, height: int, width: int) -> tuple[float, ...]:
    """Affine map from crop coordinates to those of the unrotated height x width picture, turned about its centre."""
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = left - width / 2, top - height / 2
    return (cos, sin, cos * x + sin * y + width / 2, -sin, cos, -sin * x + cos * y + height / 2)


def _warped(
    picture: Image.Image, matrix: tuple[float, ...], size: int, fill: Any, resample: Image.Resampling
) -> NDArray[np.uint8]:
    return np.array(picture.transform((size, size), Image.Transform.AFFINE, matrix, resample, fillcolor=fill))


def strong_view(
    image: NDArray[np.uint8], rng: np.random.Generator, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Strong view of a weak one, uint8 [H, W, 3]: colour jitter before normalising (method.md 11 and 12, row 4).

    Brightness, contrast and saturation times 0.5..1.5 and hue turned by up to a quarter, in random order. Values stay
    0..255, so the view is always finite. Padding (`valid` False) keeps its colour.
    """
    picture = Image.fromarray(image)
    factors = rng.uniform(0.5, 1.5, 3)
    turn = round(256 * rng.uniform(-0.25, 0.25))
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for step in rng.permutation(4):
        if step < 3:
            picture = enhancers[step](picture).enhance(factors[step])
        else:
            hue, saturation, value = picture.convert("HSV").split()
            turned = hue.point([(level + turn) % 256 for level in range(256)])
            picture = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    jittered = np.array(picture)
    if valid is not None:
        jittered[~valid] = image[~valid]
    return jittered
