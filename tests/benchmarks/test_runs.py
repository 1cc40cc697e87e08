"""Each benchmark end to end, on small rendered datasets: its file has all that the committed one has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendered import make_coco, make_custom, make_voc
from tiny_model import write_smallest_model

from benchmarks import adaptation, advice, classes, export, performance
from rifenet.formats.pictures import load_mask
from rifenet.segmenting.segmenter import Segmenter

RESULTS = Path(__file__).parents[2] / "docs" / "results"
DRAWN = ("--classes", "disc", "gem", "--draws", "3", "--min-area", "500")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "smallest.safetensors"
    return str(write_smallest_model(path, support_views=4, mask_threshold=0.4))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_custom(tmp_path_factory.mktemp("data") / "custom", per_class=8, mixed=8)


def shape(value: Any) -> Any:
    """Names at every level; of a list, what its first item has."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def missing(committed: Any, found: Any, place: str = "") -> list[str]:
    """Names of `committed` that `found` lacks."""
    if isinstance(committed, list) and isinstance(found, list):
        return missing(committed[0], found[0], f"{place}[0]")
    if not isinstance(committed, dict):
        return []
    if not isinstance(found, dict):
        return [place]
    own = [f"{place}/{name}" for name in committed if name not in found]
    return own + [
        each for name in committed.keys() & found for each in missing(committed[name], found[name], f"{place}/{name}")
    ]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_like(committed: str, found: Any, *free: str) -> None:
    """Nothing of the committed file is missing; names that contain one of `free` depend on the data."""
    lacking = missing(shape(read(RESULTS / committed)), shape(found))
    assert [name for name in lacking if not any(each in name for each in free)] == []


def test_adaptation(model: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["--root", str(photos), *DRAWN, "--model", model, "--out", str(out)]
    adaptation.main(words)
    record = read(out)
    assert_like("adaptation.json", record)
    first = record["draws"][0]
    assert len(first["present"]) == first["photos"] == 2 * sum(first["present"])
    assert sum(record["draws"][0]["ways"]["adapted to 3"]["adopted"]) <= 3
    shown = [draw["ways"]["one photo"]["shown"] for draw in record["draws"]]
    assert record["summary"]["one photo"]["shown"] == pytest.approx(np.mean(shown), abs=0.06)


def test_adaptation_scores_the_masks_that_the_segmenter_gives(model: str, photos: Path) -> None:
    segmenter = Segmenter.from_pretrained(model, "cpu", 1)
    truths = [(load_mask(photos / "masks" / f"photo {i:03d}.png") == 1).astype(np.uint8) for i in (0, 6, 1)]
    names = [photos / "images" / f"photo {i:03d}.png" for i in (0, 6, 1)]
    segmenter.learn("it", [names[0]], [truths[0]])
    scored = adaptation.scored(segmenter, names, truths, [True, True, False])
    found = [segmenter.segment(name, keep_absent=True).mask for name in names[:2]]
    both = sum(int((mask & truth).sum()) for mask, truth in zip(found, truths, strict=False))
    either = sum(int((mask | truth).sum()) for mask, truth in zip(found, truths, strict=False))
    assert scored["shown"] == pytest.approx(100 * both / either, abs=0.01)


@pytest.mark.parametrize("what", ["shots", "next"])
def test_advice(what: str, model: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    advice.main([what, "--root", str(photos), *DRAWN, "--model", model, "--out", str(out)])
    record = read(out)
    assert_like(f"advice/{what}.json", record, "/gains/", "other object")
    assert len(record["draws"]) == 3
    if what == "next":
        for draw in record["draws"]:
            assert len({scores[0] for scores in draw["miou"].values()}) == 1, "all orders begin with one shot"
            assert all(len(set(order)) == 2 for order in draw["orders"].values())


def test_a_mask_shifted_out_of_the_photo_is_lost() -> None:
    mask = np.full((10, 12), 255, np.uint8)
    mask[:10, :10] = 0
    mask[2:4, 1:3] = 1
    valid = mask != 255
    down = advice.shifted(mask, valid, (1, 1))
    assert (np.argwhere(down == 1).min(0) == (5, 4)).all()
    assert not (advice.shifted(mask, valid, (-1, -1)) == 1).any()
    assert ((down == 255) == ~valid).all()


def test_classes(model: str, tmp_path: Path) -> None:
    coco, out = make_coco(tmp_path / "coco", class_ids=(1, 2, 3, 5, 6), per_class=4, mixed=5), tmp_path / "out.json"
    for adapt in (0, 2):
        words = ["--coco", str(coco), "--model", model, "--groups", "2", "--queries", "3", "--adapt", str(adapt)]
        classes.main([*words, "--out", str(out)])
        record = read(out)
        assert_like("classes.json", record, "/iou/once", "/iou/alone")
        names, pixels = record["confusion"]["names"], np.array(record["confusion"]["pixels"])
        assert pixels.shape == (len(names), len(names))
        once = 100 * pixels.diagonal() / (pixels.sum(0) + pixels.sum(1) - pixels.diagonal())
        assert record["iou"]["once_all"] == pytest.approx(dict(zip(names[1:], once[1:], strict=True)), abs=0.006)
        assert record["adapt"] == adapt
    assert out.with_suffix(".svg").is_file()


@pytest.mark.slow
def test_export(model: str, tmp_path: Path) -> None:
    voc = make_voc(tmp_path / "voc", per_class=4)
    words = ["--voc", str(voc), "--models", model, "--episodes", "3", "--runs", "2", "--threads", "1"]
    export.main([*words, "--out", str(tmp_path / "out")])
    record = read(tmp_path / "out" / "smallest.json")
    assert_like("export/default.json", record, "machine/processor")
    assert record["scores"]["episodes"] == 3
    times = record["seconds"]["engines"]
    assert times["torch"]["query"]["median"] >= times["torch"]["decode"]["median"] > 0
    assert record["agreement_with_torch"]["onnx_float32"]["mask_iou"] > 0.99


def test_parts_that_were_measured_before_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "performance.json"
    monkeypatch.setattr(performance, "PARTS", {"one": lambda _: {"is": 1}, "two": lambda _: {"is": 2}})
    performance.main(["--threads", "1", "--out", str(out)])
    monkeypatch.setattr(performance, "PARTS", {"one": lambda _: {"is": 3}, "two": lambda _: pytest.fail("measured")})
    performance.main(["--threads", "1", "--only", "one", "--out", str(out)])
    parts = read(out)["parts"]
    assert (parts["one"]["is"], parts["two"]["is"]) == (3, 2)
    assert {"machine", "seconds"} <= parts["one"].keys()


@pytest.mark.slow
def test_performance_of_a_query_and_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "SIZE", 65)
    out = tmp_path / "performance.json"
    performance.main(["--only", "query", "training", "--runs", "1", "--threads", "1", "--out", str(out)])
    parts, committed = read(out)["parts"], read(RESULTS / "performance.json")["parts"]
    for part in ("query", "training"):
        assert committed[part]["figures"].keys() <= parts[part]["figures"].keys()
        assert parts[part]["figures"]["unit"]["units"] == 1
    figures = parts["training"]["figures"]
    assert figures["training_step"]["median"] > figures["unit"]["median"]
