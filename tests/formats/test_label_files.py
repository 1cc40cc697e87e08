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
from rifenet.formats.label_files import Marked, lists_shapes, load_labels
from rifenet.formats.picture_files import Frame, turned
from rifenet.formats.polygons import flattened, trace_polygons
from rifenet.formats.remarks import collected

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


PALETTE = [(0, 0, 0), (200, 10, 0), (0, 0, 255), (9, 9, 9)]


def with_palette(index: NDArray[np.uint8], colours: list[tuple[int, int, int]]) -> Image.Image:
    picture = Image.fromarray(index).convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette([level for colour in colours for level in colour])
    return picture


def test_a_palette_gives_numbers_or_the_place_of_a_colour() -> None:
    index = np.repeat(np.array([[0, 1, 2, 0]], np.uint8), 3, axis=0)
    picture = with_palette(index, PALETTE)
    np.testing.assert_array_equal(load_labels(picture, "x", label=2), index == 2)
    np.testing.assert_array_equal(load_labels(picture, "x", label="#C80A00"), index == 1)
    with pytest.raises(ValueError, match=r"the colour #090909 in .*, but it holds #000000, #c80a00, #0000ff"):
        load_labels(picture, "x", label="#090909")  # in the palette, but in no pixel
    with pytest.raises(ValueError, match=r"the label 'red' in .*, but it is an index mask and holds 0, 1, 2"):
        load_labels(picture, "x", label="red")
    with pytest.warns(UserWarning, match="It holds several numbers, 1, 2,"):
        np.testing.assert_array_equal(load_labels(picture, "x"), index > 0)


@pytest.mark.parametrize(("levels", "grey"), [(16, False), (17, True)])
def test_a_palette_of_many_greys_is_a_grey_picture(levels: int, grey: bool) -> None:
    """Of a photo's mask with a soft edge; with fewer greys, its numbers are classes."""
    colours = [(round(level), round(level), round(level)) for level in np.linspace(0, 255, levels)]
    index = np.random.default_rng(0).integers(0, levels, (30, 30)).astype(np.uint8)
    with collected() as said:
        found = load_labels(with_palette(index, colours), "x")
    expected = np.array(colours)[index][..., 0] >= 128 if grey else index > 0
    np.testing.assert_array_equal(found, expected)
    assert any("several numbers" in sentence for sentence in said) != grey
    tinted = [(level, level, level + (number == 3)) for number, (level, *_) in enumerate(colours)]
    with collected():
        np.testing.assert_array_equal(load_labels(with_palette(index, tinted), "x"), index > 0)
        chosen = load_labels(with_palette(index, colours), "x", label=5)
    np.testing.assert_array_equal(chosen, index == 5)


@pytest.mark.parametrize(
    ("colours", "numbers", "odd"),
    [
        ([255, 0], (0, 1), True),
        ([0, 255], (0, 1), False),
        ([255, 0, 9], (0, 2), True),
        ([255, 0, 9], (1, 2), False),  # 0 is not there
        ([255, 0, 9], (0, 1, 2), False),
        ([9, 9], (0, 1), False),
    ],
)
def test_a_palette_whose_background_is_the_lighter(colours: list[int], numbers: tuple[int, ...], odd: bool) -> None:
    index = np.repeat(np.array([numbers * 4], np.uint8), 12, axis=0)
    index[:, :1] = numbers[0]
    with collected() as said:
        load_labels(with_palette(index, [(level,) * 3 for level in colours]), "x")
    lighter = [sentence for sentence in said if "the lighter of two" in sentence]
    assert len(lighter) == odd
    wanted = f"and the darker, {numbers[-1]}, was taken for the object. If light is the object, choose #ffffff as the"
    assert all(wanted in sentence for sentence in lighter)


def rgba(*pixels: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    return np.repeat(np.array([pixels], np.uint8), 2, axis=0)


def test_cut_outs_and_colours_with_transparency() -> None:
    red, blue, black, clear = (200, 0, 0, 255), (0, 0, 200, 255), (0, 0, 0, 255), (200, 0, 0, 127)
    for opacity, inside in ((127, 0), (128, 1)):
        cut = Image.fromarray(rgba((1, 2, 3, 255), (1, 2, 3, opacity), (1, 2, 3, 0)))
        found = load_labels(cut, "x")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found[0], [1, inside, 0])
    coloured = Image.fromarray(rgba(red, blue, black, clear))
    np.testing.assert_array_equal(load_labels(coloured, "x", label="#C80000")[0], [1, 0, 0, 0])  # clear is no red
    np.testing.assert_array_equal(load_labels(coloured, "x", label="#000000")[0], [0, 0, 1, 0])
    with pytest.raises(ValueError, match=r"'#0000c9' .* coloured and holds #000000, #0000c8, #c80000"):
        load_labels(coloured, "x", label="#0000c9")
    one = Image.fromarray(rgba(red, black, red, red))
    np.testing.assert_array_equal(load_labels(one, "x")[0], [1, 0, 1, 1])
    for several in (rgba(red, blue, black), rgba(red, blue, blue)):
        with pytest.raises(ValueError, match=r"one colour on black, but the given mask holds #"):
            load_labels(Image.fromarray(several), "x")
    ordered = Image.fromarray(rgba(red, red, red, blue, blue, black))
    with pytest.raises(ValueError, match=r"holds #c80000, #0000c8, #000000\."):  # the most frequent first
        load_labels(ordered, "x")


def test_greys_with_transparency_get_a_remark_where_they_may_mean_two_things() -> None:
    two, one = rgba((9, 9, 9, 255), (90, 90, 90, 255), (0, 0, 0, 0)), rgba((9, 9, 9, 255), (9, 9, 9, 255), (0, 0, 0, 0))
    for pixels, remarks in ((two, 1), (one, 0)):
        with collected() as said:
            np.testing.assert_array_equal(load_labels(Image.fromarray(pixels), "x")[0], [1, 1, 0])
        assert ["two greys and transparency" in sentence for sentence in said] == [True] * remarks
    np.testing.assert_array_equal(load_labels(Image.fromarray(two), "x", label=90)[0], [0, 1, 0])
    np.testing.assert_array_equal(load_labels(Image.fromarray(two), "x", label="#5a5a5a")[0], [0, 1, 0])


def test_shares_become_grey_levels() -> None:
    """Of a soft mask as a network gives it; whole numbers of floats stay numbers."""
    shares = np.tile(np.array([0, 0.4, 0.6, 1.0]), (20, 1))
    shares[::2] = shares[::2, ::-1]
    with collected() as said:
        found = load_labels(shares, "x")
    np.testing.assert_array_equal(found, np.rint(shares * 255) >= 128)
    assert "as a soft edge does" in said[0]
    np.testing.assert_array_equal(load_labels(np.array([[0.0, 1.0, 0.0]]), "x"), [[0, 1, 0]])
    for wrong in (np.array([[0.0, 0.5, 1.5]]), np.array([[-0.5, 0.5, 1.0]]), np.array([[0, 2, 256]])):
        with pytest.raises(ValueError, match=r"whole numbers 0\.\.255"):
            load_labels(wrong, "x")


def test_black_and_white_of_16_bits() -> None:
    np.testing.assert_array_equal(load_labels(np.array([[0, 65535, 0]], np.uint16), "x"), [[0, 1, 0]])
    with pytest.raises(ValueError, match=r"holds 0 to 65535"):
        load_labels(np.array([[0, 65535, 3]], np.uint16), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_a_photo_that_exif_turns(orientation: int) -> None:
    """One of the size before the turn is turned by a quarter, too, with a remark; one that fits stays."""
    stored = np.zeros((4, 6), np.uint8)
    stored[0, :2] = 1
    upright = np.asarray(turned(Image.fromarray(stored), orientation))
    high, wide = upright.shape
    frame = Frame(high, wide, orientation)
    with collected() as said:
        found = load_labels(stored, "x", frame=frame)
    np.testing.assert_array_equal(found, upright if orientation >= 5 else stored)
    sentence = (
        "the given mask: It is 6 x 4, as its photo is before its EXIF entry turns it to 4 x 6. It was turned, too."
    )
    assert said == ([sentence] if orientation >= 5 else [])
    with collected() as said:
        np.testing.assert_array_equal(load_labels(upright, "x", frame=frame), upright)
        other = load_labels(np.eye(3, dtype=np.uint8), "x", frame=frame)
    assert said == []
    assert other.shape == (3, 3)  # the caller tells that it does not fit


def test_a_label_with_other_capitals_or_blanks_yields_to_the_exact_one() -> None:
    def square(label: str, left: int) -> dict[str, Any]:
        corners = [[left, 0], [left + 2, 0], [left + 2, 2], [left, 2]]
        return {"label": label, "points": corners}

    content = {
        "imageHeight": 9,
        "imageWidth": 30,
        "shapes": [square("Dog", 0), square("dog", 4), square(" DOG ", 8), square("dogs", 12)],
    }

    def where(label: str | None, name: str = "dog") -> list[int]:
        mask = load_labels(json.dumps(content).encode(), name, label=label)
        return sorted(set((np.flatnonzero(mask[0]) // 4).tolist()))

    assert where(None) == [1]
    assert where("Dog") == [0]
    assert where(" dog ") == [1]
    assert where("DOG") == [0, 1, 2]
    assert where("dogs", "Dog") == [3]
    with pytest.raises(ValueError, match=r"the label '7' in the photo, but it has Dog, dog,  DOG , dogs\. Choose"):
        where("7")


def test_a_number_of_a_category_is_taken_where_no_label_is_called_so() -> None:
    content = coco(np.zeros((9, 9), np.uint8), [[0, 0, 4, 0, 4, 4, 0, 4]])
    text = json.dumps(content).encode()
    for label in (3, "3", " 3 "):
        assert load_labels(text, "x", label=label, photo="a.jpg").sum() == 16
    content["annotations"][1]["category_id"] = 99
    with pytest.raises(ValueError, match=r"it has dog \(18\)\. .* 1 annotations cannot be read; the first: .*99"):
        load_labels(json.dumps(content).encode(), "x", label=3, photo="a.jpg")
    with collected() as said:
        assert load_labels(json.dumps(content).encode(), "dog", photo="a.jpg").sum() == 16
    assert said == [
        "the JSON: 1 annotation was left out. The first: Expected one of the file's categories, but an annotation has"
        " category_id 99."
    ]
    content["annotations"] += [{"image_id": 4, "category_id": 98}, {"image_id": 4, "category_id": 18}]
    with collected() as said:
        load_labels(json.dumps(content).encode(), "dog", photo="a.jpg")
    assert "3 annotations were left out. The first: Expected one of the file's categories" in said[0]


def test_where_white_counts() -> None:
    """255 is ignored beside a class, unless somebody says that it is the object, or chooses it, or it is alone."""
    index = np.array([[0, 3, 255]], np.uint8)
    only = np.array([[0, 255, 255]], np.uint8)
    assert load_labels(index, "x", label=3).tolist() == [[0, 1, 255]]
    assert load_labels(index, "x", label=3, white_is_object=True).tolist() == [[0, 1, 0]]
    assert load_labels(index, "x", label=255).tolist() == [[0, 0, 1]]
    assert load_labels(index, "x", label=0).tolist() == [[1, 0, 255]]
    assert load_labels(only, "x", label=0).tolist() == [[1, 0, 0]]
    assert load_labels(only, "x").tolist() == [[0, 1, 1]]
    with collected():
        assert load_labels(np.array([[3, 3, 255]], np.uint8), "x").tolist() == [[1, 1, 255]]


def test_files_in_memory_and_their_names_in_messages(tmp_path: Path) -> None:
    for source, name in ((b"{", "The JSON: Expected"), (tmp_path / "x.JSON", "Label file .*x.JSON: Expected")):
        if isinstance(source, Path):
            source.write_bytes(b"{")
        with pytest.raises(ValueError, match=f"^{name} annotations, but the file is not JSON"):
            load_labels(source, "x")
    assert load_labels(Marked(np.ones((2, 2), np.uint8)), "x").sum() == 4
    assert [lists_shapes(path) for path in ("a.json", Path("b.XML"), "c.png", "json")] == [True, True, False, False]
