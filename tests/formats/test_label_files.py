"""Labels of every usual form, made of one real example mask or by hand; what is wrong gets a sentence."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as masks

from rifenet.drawing.visualize import mask_image
from rifenet.formats.brush_rle import encode_brush
from rifenet.formats.label_files import load_labels
from rifenet.formats.polygons import flattened, trace_polygons

EXAMPLE = "masks/000000377575.png"


@pytest.fixture(scope="module")
def dog() -> NDArray[np.uint8]:
    """A real mask of a dog, 0 and 1, of an example photo."""
    with Image.open(str(files("rifenet") / "examples" / EXAMPLE)) as picture:
        mask = (np.asarray(picture) == 1).astype(np.uint8)
    assert 0.02 < mask.mean() < 0.9
    return mask


def a_file(folder: Path, content: Any, name: str = "labels.json") -> Path:
    path = folder / name
    if isinstance(content, Image.Image):
        content.save(path)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(dog: NDArray[np.uint8], segmentation: Any, **more: Any) -> dict[str, Any]:
    height, width = dog.shape
    return {
        "images": [
            {"id": 4, "file_name": "train/a.jpg", "height": height, "width": width},
            {"id": 5, "file_name": "b.jpg", "height": 3, "width": 2},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "18"}],
        "annotations": [
            {"image_id": 4, "category_id": 18, "segmentation": segmentation, **more},
            {"image_id": 4, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
        ],
    }


def test_pictures_of_every_form(dog: NDArray[np.uint8], tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*dog.shape, 3), np.uint8)
    index = dog * 7
    index[0] = 3
    palette = mask_image(index)
    colours = np.zeros((*dog.shape, 3), np.uint8)
    colours[dog == 1] = (200, 10, 0)
    forms: list[tuple[Any, Any]] = [
        (Image.fromarray(dog), None),
        (Image.fromarray(dog * 255), None),  # black and white
        (Image.fromarray(dog.astype(bool)), None),
        (Image.fromarray(index), 7),
        (palette, "7"),
        (palette, "#{:02X}{:02X}{:02X}".format(*np.array(palette.getpalette()).reshape(-1, 3)[7])),
        (Image.fromarray(np.dstack([photo, dog * 255])), None),
        (Image.fromarray(np.dstack([photo[..., 0], dog * 255])), None),
        (Image.fromarray(colours), None),
        (Image.fromarray(np.dstack([dog * 255] * 3)), None),  # grey as RGB
    ]
    for number, (picture, label) in enumerate(forms):
        path = a_file(tmp_path, picture, f"{number}.png")
        for source in (path, picture, str(path)):
            np.testing.assert_array_equal(load_labels(source, "dog", label=label), dog, err_msg=f"form {number}")
    np.testing.assert_array_equal(load_labels(colours, "dog"), dog)
    colours[:2] = (0, 0, 255)
    np.testing.assert_array_equal(load_labels(colours, "dog", label="#c80a00")[2:], dog[2:])
    assert load_labels(colours, "dog", label="#0000ff")[:2].all()


def test_255_is_ignored_beside_other_labels(dog: NDArray[np.uint8]) -> None:
    index = np.where(dog == 1, np.uint8(2), np.uint8(0))
    index[:3] = 255
    assert (load_labels(index, "dog")[:3] == 255).all()
    assert (load_labels(index, "dog", label=2)[:3] == 255).all()
    assert (load_labels(index, "dog", white_is_object=True)[:3] == 1).all()
    assert (load_labels(index, "dog", label=255)[:3] == 1).all()


@pytest.mark.parametrize("form", ["polygons", "runs", "text"])
def test_coco(dog: NDArray[np.uint8], tmp_path: Path, form: str) -> None:
    text = masks.encode(np.asfortranarray(dog))["counts"].decode()
    flat = dog.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    size = list(dog.shape)
    segmentation: Any = {
        "polygons": [np.array(flattened(corners)).ravel().tolist() for corners in trace_polygons(dog)],
        "runs": {"size": size, "counts": [0, *runs] if flat[0] else runs},
        "text": {"size": size, "counts": text},
    }[form]
    path = a_file(tmp_path, coco(dog, segmentation))
    np.testing.assert_array_equal(load_labels(path, "dog", photo="/x/a.jpg"), dog)
    np.testing.assert_array_equal(load_labels(path.read_bytes(), "Dog", photo="C:\\x\\a.JPG"), dog)
    square = load_labels(path, "hund", label="18", photo="a.jpg")  # a name wins over a number
    assert square.sum() == 16
    assert square[:4, :4].all()
    np.testing.assert_array_equal(load_labels(path, "hund", label=3, photo="a.jpg"), square)


def test_a_crowd_is_ignored_below_objects(dog: NDArray[np.uint8], tmp_path: Path) -> None:
    content = coco(dog, [[0, 0, 8, 0, 8, 8, 0, 8]], iscrowd=1)
    content["annotations"][1]["category_id"] = 18
    found = load_labels(a_file(tmp_path, content), "dog", photo="a.jpg")
    assert (found[:4, :4] == 1).all()
    assert (found[4:8, :8] == 255).all()
    assert not found[8:].any()


def test_labelme(dog: NDArray[np.uint8], tmp_path: Path) -> None:
    height, width = dog.shape
    top, left = (int(np.flatnonzero(dog.any(axis)).min()) for axis in (1, 0))
    buffer = io.BytesIO()
    Image.fromarray(dog[top:, left:] * 255).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    shapes = [{"label": "dog", "points": flattened(corners)} for corners in trace_polygons(dog)]
    shapes += [
        {"label": "box", "shape_type": "rectangle", "points": [[9, 8], [2, 4]]},
        {"label": "ball", "shape_type": "circle", "points": [[50, 50], [50, 70]]},
        {"label": "same", "shape_type": "mask", "points": [[left, top], [width - 1, height - 1]], "mask": data},
        {"label": "way", "shape_type": "linestrip", "points": [[0, 0], [5, 5]]},
    ]
    path = a_file(tmp_path, {"imagePath": "a.jpg", "imageHeight": height, "imageWidth": width, "shapes": shapes})
    np.testing.assert_array_equal(load_labels(path, "dog"), dog)
    np.testing.assert_array_equal(load_labels(path, "dog", label="same"), dog)
    box = np.zeros_like(dog)
    box[4:8, 2:9] = 1
    np.testing.assert_array_equal(load_labels(path, "box"), box)
    rows, columns = np.mgrid[:height, :width] + 0.5
    disc = np.hypot(rows - 50, columns - 50) < 20
    assert (load_labels(path, "ball") != disc).sum() < 12
    with pytest.raises(ValueError, match="but got a linestrip"):
        load_labels(path, "way")


def test_label_studio(dog: NDArray[np.uint8], tmp_path: Path) -> None:
    height, width = dog.shape
    size = {"original_width": width, "original_height": height}
    brush = {
        "value": {"format": "rle", "rle": encode_brush(dog), "brushlabels": ["Dog"]},
        "type": "brushlabels",
        **size,
    }
    percent = [[x / width * 100, y / height * 100] for x, y in np.concatenate(trace_polygons(dog)[:1])]
    polygon = {"value": {"points": percent, "closed": True, "polygonlabels": ["outline"]}, **size}
    box = {"value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["box"]}, **size}
    old = {"was_cancelled": True, "result": [{**box, "value": {**box["value"], "rectanglelabels": ["Dog"]}}]}
    other = {"value": {"choices": ["good"]}, "type": "choices"}
    tasks = [
        {
            "data": {"image": "/data/upload/1/0123abcd-my_photo%20.jpg"},
            "annotations": [{"result": [other, brush, polygon, box]}, old],
        },
        {"data": {"image": "/data/local-files/?d=folder/b.jpg"}, "annotations": []},
    ]
    path = a_file(tmp_path, tasks)
    np.testing.assert_array_equal(load_labels(path, "dog", photo="my photo .jpg"), dog)
    np.testing.assert_array_equal(load_labels(a_file(tmp_path, tasks[0], "one.json"), "Dog"), dog)
    outline = load_labels(path, "dog", label="outline", photo="x/my photo .jpg")
    assert (outline != dog).mean() < 0.02  # the largest part
    with pytest.raises(ValueError, match="region of another kind"):
        load_labels(path, "box", photo="my photo .jpg")
    with pytest.raises(ValueError, match="but there is none"):
        load_labels(path, "dog", photo="b.jpg")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"photo": "c.jpg"}, r"annotations of the photo c\.jpg, but the file annotates a\.jpg, b\.jpg"),
        ({"photo": ""}, "which has no file name"),
        (
            {"name": "cat"},
            r"the label 'cat' \(the class's name\) in the photo, but it has dog \(18\), 18 \(3\).*--label 'cat=...'",
        ),
        ({"label": "99"}, r"the label '99' in the photo, but it has dog \(18\)"),
        ({"most_pixels": 100}, "at most 100 pixels"),
        ({"segmentation": [[0, 0, 1e9, 0, 5, 5]]}, "far outside"),
        ({"segmentation": [[0, 0, 1, 1]]}, "at least 3 corners"),
        ({"segmentation": []}, "a segmentation"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"of the size \[.*but got \[9, 9\]"),
        ({"segmentation": {"counts": [81]}}, "of the size"),
        ({"counts": "ooo"}, "end too early"),
        ({"counts": [1, 2]}, "add up to"),
        ({"category_id": 77}, "category_id 77"),
        ({"images": 3}, "a list of images, but got 3"),
    ],
)
def test_wrong_coco(dog: NDArray[np.uint8], tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    content = coco(dog, change.get("segmentation", [[0, 0, 4, 0, 4, 4]]))
    if "counts" in change:
        content["annotations"][0]["segmentation"] = {"size": list(dog.shape), "counts": change["counts"]}
    content["annotations"][0]["category_id"] = change.get("category_id", 18)
    content["images"] = change.get("images", content["images"])
    asked = {key: change[key] for key in ("label", "most_pixels") if key in change}
    path = a_file(tmp_path, content)
    with pytest.raises(ValueError, match=sentence) as raised:
        load_labels(path, change.get("name", "dog"), photo=change.get("photo", "a.jpg"), **asked)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe[", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "none of them"),
        (b"3", "none of them"),
        (b'[{"image": "a.jpg", "tag": []}]', "not JSON-MIN"),
        (b'{"shapes": []}', "height and width in pixels"),
        (b'{"shapes": 1, "imageHeight": 4, "imageWidth": 4}', "a list of shapes"),
        (b'{"shapes": [], "imageHeight": 100000, "imageWidth": 100000}', "at most 268,435,456 pixels"),
        (b'{"shapes": [], "imageHeight": 4, "imageWidth": 4}', "but it has none"),
        (
            b'{"shapes": [{"label": "dog", "shape_type": "mask", "points": [[0,0],[1,1]], "mask": "###"}],'
            b' "imageHeight": 4, "imageWidth": 4}',
            "PNG in base64",
        ),
        (
            b'{"shapes": [{"label": "dog", "shape_type": "rectangle", "points": [[0,0]]}],'
            b' "imageHeight": 4, "imageWidth": 4}',
            "two points of a rectangle",
        ),
        (
            b'[{"data": {"image": "a.jpg"}, "annotations": [{"result": [{"value": {"format": "rle", "rle": [0, 1],'
            b' "brushlabels": ["dog"]}, "original_width": 4, "original_height": 4}]}]}]',
            "head of 7 bytes",
        ),
    ],
)
def test_what_is_no_annotation(text: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_labels(text, "dog")


NASTY = [None, [], {}, [1], "x", "", True, -1, 10**400, 1.5, float("inf"), float("nan"), {"a": []}, [[[]]]]


def places_of(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value within a JSON; of long lists to the first few only."""
    items = content.items() if isinstance(content, dict) else enumerate(content[:3])
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_of(value, (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def whole_files() -> dict[str, Any]:
    mask = np.zeros((4, 5), np.uint8)
    mask[:2, :2] = 1
    png = base64.b64encode(encoded_png(mask)).decode()
    drawn = [("polygon", [[0, 0], [3, 0], [3, 3]]), ("rectangle", [[0, 0], [2, 2]]), ("circle", [[2, 2], [3, 3]])]
    shapes = [{"label": "dog", "shape_type": kind, "points": points} for kind, points in drawn]
    shapes.append({"label": "dog", "shape_type": "mask", "points": [[0, 0], [4, 3]], "mask": png})
    sizes = {"original_width": 5, "original_height": 4}
    brush = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["dog"]}
    polygon = {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["dog"]}
    annotations = [{"result": [{"value": value, **sizes} for value in (brush, polygon)]}]
    return {
        "polygon": coco(mask, [[0, 0, 4, 0, 4, 4]]),
        "runs": coco(mask, {"size": [4, 5], "counts": [0, 2, 2, 2, 14]}),
        "labelme": {"shapes": shapes, "imageHeight": 4, "imageWidth": 5},
        "studio": [{"data": {"image": "a.jpg"}, "annotations": annotations}],
    }


@pytest.mark.filterwarnings("ignore:.*left out:UserWarning")
@pytest.mark.parametrize("kind", ["polygon", "runs", "labelme", "studio"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_value_in_any_place_is_a_mask_or_a_sentence(kind: str) -> None:
    content = whole_files()[kind]
    assert load_labels(json.dumps(content).encode(), "dog", photo="a.jpg").any()
    refused = 0
    for path in places_of(content):
        for value in NASTY:
            text = json.dumps(with_value(content, path, value)).encode()
            try:
                mask = load_labels(text, "dog", photo="a.jpg", most_pixels=1000)
            except ValueError:
                refused += 1
            else:
                assert mask.dtype == np.uint8
    assert refused > 50


def test_a_long_label_file_can_be_ended(dog: NDArray[np.uint8]) -> None:
    """Between polygons, characters and blocks, of which a small file can hold very many."""
    for segmentation in ([[0, 0, 4, 0, 4, 4]] * 50, {"size": list(dog.shape), "counts": "0" * 2**18}):
        calls = 0

        def check() -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            load_labels(json.dumps(coco(dog, segmentation)).encode(), "dog", photo="a.jpg", check=check)


def encoded_png(mask: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_labelme_mask_that_reaches_beyond_is_not_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (5000, 5000)).save(buffer, "PNG")
    shape = {
        "label": "dog",
        "shape_type": "mask",
        "points": [[0, 0], [3, 3]],
        "mask": base64.b64encode(buffer.getvalue()).decode(),
    }
    content = {"shapes": [shape], "imageHeight": 4, "imageWidth": 4}
    with pytest.raises(ValueError, match="it goes beyond the edge"):
        load_labels(json.dumps(content).encode(), "dog")


def test_what_a_picture_holds_is_listed(tmp_path: Path, dog: NDArray[np.uint8]) -> None:
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[0], colours[1, :2] = (255, 0, 0), (0, 0, 255)
    with pytest.raises(ValueError, match=r"holds #000000, #ff0000, #0000ff\. Choose a colour"):
        load_labels(colours, "dog")
    with pytest.raises(ValueError, match=r"'#00ff00' .* is coloured and holds #000000"):
        load_labels(colours, "dog", label="#00ff00")
    with pytest.raises(ValueError, match=r"'5' .* an index mask and holds 0, 1"):
        load_labels(dog, "dog", label="5")
    with pytest.raises(ValueError, match=r"'dog' .* an index mask"):
        load_labels(dog, "dog", label="dog")
    with pytest.raises(ValueError, match=r"the colour #123456 in .*p\.png, but it holds #000000, #e69f00"):
        load_labels(a_file(tmp_path, mask_image(dog), "p.png"), "dog", label="#123456")
    with pytest.raises(ValueError, match=r"and \d+ more"):
        load_labels(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8), "dog")
    Image.fromarray(dog).save(tmp_path / "lossy.jpg")
    with pytest.raises(ValueError, match="is a JPEG"):
        load_labels(tmp_path / "lossy.jpg", "dog")
    for name in ("nowhere.json", "nowhere.png"):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            load_labels(tmp_path / name, "dog")
