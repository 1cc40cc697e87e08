"""Label Studio's formats: reads labeling configs, turns an annotation's regions into masks, and masks into regions.

H W the photo's own size · corners of polygons are in percent of width and height
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from rifenet.formats.brush_rle import encode_brush
from rifenet.formats.label_json import draw_region
from rifenet.formats.polygons import Corners, flattened, signed_area, trace_polygons
from rifenet.formats.run_lengths import Check, unchecked
from rifenet.segmenting.result import Result

_KINDS = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels"}
_MAX_CONFIG = 100_000
_TOLERANCE, _LEAST_PART = 0.75, 4  # px, square px


class Control(NamedTuple):
    """A tag of the labeling config that holds labels."""

    name: str
    to_name: str
    kind: str
    """brushlabels or polygonlabels."""
    labels: tuple[str, ...]


class LabelingConfig(NamedTuple):
    """The parts of a labeling config that the server uses."""

    photo_key: str
    """The key of a task's data that says where its photo is."""
    controls: tuple[Control, ...]

    @property
    def labels(self) -> list[str]:
        """Names of the classes, each once."""
        return list(dict.fromkeys(label for control in self.controls for label in control.labels))

    def control_of(self, label: str) -> Control:
        """Where predictions of a class go: brush labels before polygons, which lose holes."""
        able = [control for control in self.controls if label in control.labels]
        return min(able, key=lambda control: control.kind != "brushlabels")


class Region(BaseModel):
    """One entry of an annotation's result, as far as it is a brush stroke or a polygon."""

    type: str
    from_name: str = ""
    original_width: int = Field(ge=1)
    original_height: int = Field(ge=1)
    image_rotation: float = 0
    value: dict[str, Any]


def read_config(text: str) -> LabelingConfig:
    """Reads a labeling config. Raises ValueError for one without an Image and brush or polygon labels."""
    if len(text) > _MAX_CONFIG or "<!" in text.replace("<!--", ""):
        raise ValueError("Expected a labeling config of at most 100000 characters, without a document type.")
    try:
        root = ElementTree.fromstring(text)  # no document type, so no entities
    except ElementTree.ParseError as error:
        raise ValueError(f"Expected a labeling config in XML, but it cannot be read: {error}.") from error
    images = {tag.get("name", ""): tag.get("value", "") for tag in root.iter("Image")}
    controls = tuple(
        Control(tag.get("name", ""), tag.get("toName", ""), kind, labels)
        for name, kind in _KINDS.items()
        for tag in root.iter(name)
        if tag.get("toName") in images
        and (labels := tuple(label.get("value", "") for label in tag.iter("Label") if label.get("value")))
    )
    if not controls:
        raise ValueError(
            "Expected a labeling config with an Image and BrushLabels or PolygonLabels for it, but got another. See"
            " docs/label_studio.md for one to paste."
        )
    if len(read := {control.to_name for control in controls}) > 1:
        raise ValueError(f"Expected labels for one Image, but the labeling config has them for {len(read)}.")
    return LabelingConfig(images[controls[0].to_name].removeprefix("$"), controls)


def regions_of(result: Any, config: LabelingConfig) -> dict[str, list[Region]]:
    """The brush strokes and polygons of an annotation's result, by their labels. Other kinds of entries are skipped."""
    found: dict[str, list[Region]] = {}
    kinds = {control.name: control for control in config.controls}
    for entry in result if isinstance(result, list) else []:
        try:
            region = Region.model_validate(entry)
        except ValidationError:
            continue  # choices and the like
        control = kinds.get(region.from_name)
        if control is None or region.type != control.kind:
            continue
        labels = region.value.get(control.kind)
        for label in labels if isinstance(labels, list) else []:
            if label in control.labels:
                found.setdefault(label, []).append(region)
    return found


def mask_of(regions: Iterable[Region], height: int, width: int, check: Check = unchecked) -> NDArray[np.uint8]:
    """The mask of regions on a photo of this size: [H,W], 0 and 1; `check` is called between steps.

    Raises ValueError for regions of a photo of another size, of a turned photo, and for damaged ones.
    """
    mask = np.zeros((height, width), np.uint8)
    for region in regions:
        if (region.original_height, region.original_width) != (height, width):
            raise ValueError(
                f"Expected an annotation of a photo of {width} x {height} (width x height), but it is of one of"
                f" {region.original_width} x {region.original_height}. Annotate the task again."
            )
        if region.image_rotation % 360:
            raise ValueError("Expected an annotation of the photo as it is, but it was turned. Turn it back.")
        check()
        mask[draw_region(region.value, height, width, check) != 0] = 1
    return mask


def prediction_of(result: Result, config: LabelingConfig) -> tuple[list[dict[str, Any]], float]:
    """Regions for the classes in a result, and the prediction's score: their least confidence, 0 without regions."""
    height, width = result.mask.shape
    regions, score = [], 1.0
    for number, label in enumerate(result.classes, 1):
        mask = result.mask == number
        if not mask.any() or label not in config.labels:
            continue
        control, confidence = config.control_of(label), round(result.confidence[label], 4)
        score = min(score, confidence)
        regions += [
            {
                "id": secrets.token_urlsafe(8),
                "from_name": control.name,
                "to_name": control.to_name,
                "type": control.kind,
                "origin": "prediction",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": confidence,
                "value": {**value, control.kind: [label]},
            }
            for value in _values(mask, control.kind)
        ]
    return regions, score if regions else 0.0


def _values(mask: NDArray[np.bool_], kind: str) -> list[dict[str, Any]]:
    if kind == "brushlabels":
        return [{"format": "rle", "rle": encode_brush(mask)}]
    scale = np.array([100 / mask.shape[1], 100 / mask.shape[0]])
    return [{"points": flattened(corners * scale, 4), "closed": True} for corners in outlines_of(mask)]


def outlines_of(mask: NDArray[np.bool_]) -> list[Corners]:
    """Outer outlines of a mask's parts, in px; parts below 4 px are left out, and an outline may move by 0.75 px."""
    outlines = trace_polygons(mask, tolerance=_TOLERANCE, holes=False)
    return [corners for corners in outlines if signed_area(corners) >= _LEAST_PART]
