"""Odd files through Python, the command line and HTTP: the network sees what is right, or a sentence says why not.

What could have meant something else has one warning, and what could not has none.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from odd_files import HEIGHT, WIDTH, Odd, corpus, file_of, scene
from starlette.testclient import TestClient

from rifenet.cli.main import main
from rifenet.engines import Context
from rifenet.segmenting.segmenter import Segmenter
from rifenet.server.app import create_app
from rifenet.server.limits import Limits

CORPUS = corpus()


class Watching(ColourEngine):
    """Keeps what it was last given: photos and masks of shots, and queries. The scene fits it without a resize."""

    def __init__(self) -> None:
        super().__init__(size=WIDTH)
        self.photo, self.mask, self.query = (np.empty(0) for _ in range(3))

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        self.photo, self.mask = seen(images), masks[0, :HEIGHT]
        return super().encode_support(images, masks, valid)

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        self.query = seen(images)
        return super().encode_query(images, valid)


def seen(images: NDArray[np.float32]) -> NDArray[np.int64]:
    """The photo in the first network input, [48,64,3] in 0..255."""
    return np.rint(255 * images[0, :, :HEIGHT].transpose(1, 2, 0)).astype(np.int64)


def test_the_corpus_is_broad() -> None:
    assert len(CORPUS) >= 60
    assert len({odd.kind for odd in CORPUS}) >= 12
    assert len({odd.name for odd in CORPUS}) == len(CORPUS)


def check_right(odd: Odd, engine: Watching) -> None:
    np.testing.assert_array_equal(engine.mask, odd.right_mask)
    assert np.abs(engine.photo - odd.right_photo).max() <= odd.tolerance
    assert np.abs(engine.query - odd.right_photo).max() <= odd.tolerance


def check_said(odd: Odd, said: list[str]) -> None:
    """The warnings of one run: the one that is due, once, or none. A photo's own comes for the query, too."""
    different = set(said)
    assert len(said) == len(different)
    assert len(different) == bool(odd.warns), said
    if odd.warns:
        assert re.search(odd.warns, next(iter(different))), said


def lay_out(odd: Odd, folder: Path) -> tuple[Path, Path]:
    photo, labels = folder / "photos" / odd.photo_name, folder / odd.labels_name
    photo.parent.mkdir(parents=True)
    photo.write_bytes(odd.photo)
    labels.write_bytes(odd.labels)
    return photo, labels


@pytest.mark.parametrize("odd", CORPUS, ids=str)
def test_python(odd: Odd, tmp_path: Path) -> None:
    photo, labels = lay_out(odd, tmp_path)
    engine = Watching()
    segmenter = Segmenter(engine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if odd.refused:
            with pytest.raises(ValueError, match=odd.refused) as raised:
                segmenter.learn(odd.class_name, [photo], [labels], label=odd.label)
            assert "Expected" in str(raised.value)
            assert segmenter.classes == []
            return
        segmenter.learn(odd.class_name, [photo], [labels], label=odd.label)
        learned = len(caught)
        segmenter.segment(photo if odd.pages == 1 else f"{photo}#0")
    check_right(odd, engine)
    assert all(warning.category is UserWarning for warning in caught)
    assert all(Path(warning.filename) == Path(__file__) for warning in caught)
    check_said(odd, [str(warning.message) for warning in caught[:learned]])
    assert all(odd.photo_name in str(warning.message) for warning in caught[learned:])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Watching:
    made = Watching()
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *arguments: cls(made)))
    return made


@pytest.mark.parametrize("odd", CORPUS, ids=str)
def test_command_line(odd: Odd, tmp_path: Path, engine: Watching, capsys: pytest.CaptureFixture[str]) -> None:
    photo, labels = lay_out(odd, tmp_path)
    words = [
        "segment",
        "--support",
        odd.class_name,
        str(photo),
        str(labels),
        "--query",
        str(photo) if odd.pages == 1 else f"{photo}#0",
    ]
    words += ["--label", f"{odd.class_name}={odd.label}"] if odd.label else []
    code = main([*words, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.splitlines()
    if odd.refused:
        assert (code, len(lines)) == (1, 1), lines
        assert re.search(f"rifenet segment: .*({odd.refused})", lines[0]), lines
        return
    assert code == 0, lines
    check_right(odd, engine)
    assert all(line.startswith("warning: ") for line in lines), lines
    check_said(odd, lines)
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 1


WATCHING = Watching()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(WATCHING, limits=Limits()), base_url="http://127.0.0.1:8000") as made:
        yield made


@pytest.mark.parametrize("odd", CORPUS, ids=str)
def test_http(odd: Odd, client: TestClient) -> None:
    photo = ("images", (Path(odd.photo_name).name, odd.photo))
    form = {"name": odd.class_name, "replace": "true"} | ({"label": odd.label} if odd.label else {})
    answer = client.post("/api/classes", data=form, files=[photo, ("masks", (odd.labels_name, odd.labels))])
    if refused := odd.refused or odd.without_folders:
        assert answer.status_code in (415, 422), answer.text
        assert re.search(refused, answer.json()["detail"]), answer.text
        return
    assert answer.status_code == 200, answer.text
    check_said(odd, answer.json()["warnings"])
    segmented = client.post("/api/segment", files=[photo])
    assert segmented.status_code == 200, segmented.text
    check_right(odd, WATCHING)
    assert all(f"photo {Path(odd.photo_name).name}" in each for each in segmented.json()["warnings"])


def tensor_like(array: NDArray[Any]) -> Any:
    """As a tensor of torch gives itself to NumPy."""

    class Tensor:
        ndim, size = array.ndim, array.size

        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            return array

    return Tensor()


GOOD_ARRAYS = {
    "int64": scene().astype(np.int64),
    "uint16 of 16 bits": scene().astype(np.uint16) * 257,
    "float32 from 0 to 1": (scene() / 255).astype(np.float32),
    "3 x H x W": np.moveaxis(scene(), 2, 0),
    "1 x 3 x H x W, float": np.moveaxis(scene() / 255, 2, 0)[None],
    "a tensor of torch": tensor_like(np.moveaxis(scene() / 255, 2, 0).astype(np.float32)),
    "nested lists": scene().tolist(),
    "opaque fourth band": np.dstack([scene(), np.full((HEIGHT, WIDTH), 255, np.uint8)]),
}


@pytest.mark.parametrize("name", GOOD_ARRAYS)
def test_arrays_mean_the_obvious(name: str, recwarn: pytest.WarningsRecorder) -> None:
    engine = Watching()
    segmenter = Segmenter(engine)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:34, 20:44] = 1
    for marked in (mask, mask.astype(bool), mask[None], tensor_like(mask[None].astype(np.float32)), mask.tolist()):
        segmenter.learn("thing", [GOOD_ARRAYS[name]], [marked], replace=True)
        np.testing.assert_array_equal(engine.mask, mask)
    segmenter.segment(GOOD_ARRAYS[name])
    np.testing.assert_array_equal(engine.photo, scene())
    np.testing.assert_array_equal(engine.query, scene())
    assert list(recwarn) == []


def test_arrays_that_could_mean_two_things_are_said() -> None:
    engine = Watching()
    segmenter = Segmenter(engine)
    segmenter.learn("thing", [scene()], [scene()[..., 0] == 200])
    infrared = np.dstack([scene(), np.full((HEIGHT, WIDTH), 90, np.uint8)])
    for array, said in (
        (infrared, "not taken for transparency"),
        (scene().astype(np.uint16) * 20, "taken for 12 bits"),
        (np.dstack([scene(), np.zeros((HEIGHT, WIDTH), np.uint8)]), "transparent everywhere"),
    ):
        with pytest.warns(UserWarning, match=said):
            segmenter.segment(array)
        brightest = engine.query.max()
        assert 195 <= brightest <= 255


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (["a.jpg", "b.jpg"], "a path, a PIL picture or an array, but got a list of 2"),
        ([[1, 2], [3]], "cannot make an array of a list"),
        (None, "but got None"),
        (b"\xff\xd8", "but got a bytes"),
        (io.BytesIO(), "but got a BytesIO"),
        (np.array("a.jpg"), r"(of numbers|Expected an image).*"),
        (255 * scene().astype(float), r"0\.\.1 \(float\), but the given image holds float64 from"),
        (np.zeros((HEIGHT, WIDTH, 7)), r"Expected an image \[H, W\]"),
        (np.zeros((HEIGHT, WIDTH, 3), complex), "complex"),
    ],
)
def test_what_is_no_photo_gets_a_sentence(query: Any, sentence: str) -> None:
    segmenter = Segmenter(Watching())
    segmenter.learn("thing", [scene()], [scene()[..., 0] == 200])
    with pytest.raises(ValueError, match=sentence):
        segmenter.segment(query)


def test_one_photo_or_a_folder_is_no_list(tmp_path: Path) -> None:
    segmenter = Segmenter(Watching())
    segmenter.learn("thing", [scene()], [scene()[..., 0] == 200])
    for one in ("a.jpg", tmp_path / "a.jpg", scene(), tensor_like(scene()), 3):
        with pytest.raises(ValueError, match=r"Expected a list of photos, but got one. Write segment_many\(\[...\]\)"):
            segmenter.segment_many(one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"segment_many\(sorted\(pathlib.Path\('{tmp_path}'\).iterdir\(\)\)\)"):
        segmenter.segment_many(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="but it is a folder"):
        segmenter.segment(tmp_path)
    for images, masks in (("a.jpg", ["a.png"]), (scene(), scene()[..., 0]), (["a.jpg"], tmp_path), (3, 4)):
        with pytest.raises(ValueError, match=r"Expected lists of images and masks, but got one"):
            segmenter.learn("thing", images, masks)  # type: ignore[arg-type]


def test_an_equal_remark_on_many_masks_is_one_warning(tmp_path: Path) -> None:
    ones = tmp_path / "ones.png"
    ones.write_bytes(file_of(np.ones((HEIGHT, WIDTH), np.uint8)))
    names = [tmp_path / f"{number}.png" for number in range(5)]
    for name in names:
        name.write_bytes(ones.read_bytes())
    sentence = r"mask file \S+0.png, mask file \S+1.png, mask file \S+2.png and 2 more: Nothing in it"
    with pytest.warns(UserWarning, match=sentence) as said:
        Segmenter(Watching()).learn("thing", [scene()] * 5, names)
    assert len(said) == 1
