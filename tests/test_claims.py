"""Numbers and defaults that the users' pages name are those of the program."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from docs_blocks import ROOT
from PIL import Image

from rifenet.advice import shot_agreement as advice
from rifenet.config import DataConfig, TrainConfig
from rifenet.engines.load import load_engine
from rifenet.export.folder import LEAST_IOU
from rifenet.export.graphs import OPSET
from rifenet.export.quantize import MAX_PHOTOS
from rifenet.formats.bands import DEPTHS
from rifenet.formats.mask_values import HALF
from rifenet.formats.outputs import TOLERANCE
from rifenet.formats.picture_files import MOST_PIXELS
from rifenet.formats.pictures import PHOTO_SUFFIXES, load_image
from rifenet.formats.polygons import MOST_CORNERS
from rifenet.metrics import bootstrap_miou
from rifenet.models import RiFeNet
from rifenet.models.files.hub import load_model
from rifenet.segmenting.adaptation import SAMPLE
from rifenet.segmenting.closer import LEAST_AREA
from rifenet.segmenting.photo_views import MOST_BYTES
from rifenet.segmenting.pseudo_labels import COUNT
from rifenet.segmenting.result import PRESENT
from rifenet.segmenting.segmenter import MAX_CLASSES, MAX_SHOTS
from rifenet.segmenting.tiles import LARGE
from rifenet.server.limits import Limits
from rifenet.server.run import MIN_TOKEN

DOCS = ROOT / "docs"
USERS_PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
WORDS = ("no", "one", "two", "three", "four", "five", "six")


def page(name: str) -> str:
    return " ".join((DOCS / name).read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def bundled() -> RiFeNet:
    model = load_model("default")
    assert isinstance(model, RiFeNet)
    return model


def test_the_size_at_which_the_bundled_model_sees_photos(bundled: RiFeNet) -> None:
    size = load_engine("default", "cpu").size
    grid = (size - 1) // 4 + 1  # the evidence head refines on the features of stride 4
    assert f"sees a whole photo at {size} px" in page("formats.md")
    assert f"sees a photo at {size} pixels and draws edges on a {grid} x {grid} grid" in page("faq.md")
    assert f"input {size} px" in page("model_card.md")
    tiles_from = f"{LARGE * size:,}"
    assert f"at least {WORDS[LARGE]} times what the network sees ({tiles_from} px" in page("formats.md")
    assert f"photos of {tiles_from} pixels and more get tiles" in page("faq.md")


def test_pictures_that_are_read(tmp_path: Path) -> None:
    names = {".jpg": "JPEG", ".png": "PNG", ".webp": "WebP", ".bmp": "BMP", ".tiff": "TIFF", ".gif": "GIF"}
    said = re.search(r"The photos to segment: ([\w, ]+), 8 or 16 bits", page("photos.md"))
    assert said is not None
    assert set(re.split(r", | or ", said[1])) == set(names.values())
    assert {*names, ".jpeg", ".tif"} == set(PHOTO_SUFFIXES)
    assert set(re.findall(r"\.\w+", re.search(r"root/images/NAME(.+?)root/masks", page("data.md"))[1])) == set(  # type: ignore[index]
        PHOTO_SUFFIXES
    )
    for suffix in (".png", ".tif"):  # 16 bits, the whole range
        Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / f"deep{suffix}")
        assert load_image(tmp_path / f"deep{suffix}")[0, :, 0].tolist() == [0, 1, 255]
    assert "16-bit PNG and TIFF scale from 0..65535 to 0..255" in page("faq.md")
    assert f"take up to {MOST_PIXELS // 10**6:,} megapixels at 9 bytes" in page("photos.md")
    assert f"photos of up to {MOST_PIXELS // 10**6:,} megapixels" in page("faq.md")


def test_what_files_are_taken_for() -> None:
    depths = f"{', '.join(map(str, DEPTHS[:-2]))} or {DEPTHS[-2]} bits"
    assert f"16-bit numbers that fit into {depths}" in page("formats.md")
    assert f"fits into {depths}, as a camera's 12 bits" in page("faq.md")
    assert f"the object is what is {HALF} or lighter" in page("formats.md")
    assert f"A soft mask counts from {HALF} on" in page("faq.md")
    side = round(LEAST_AREA**0.5)
    assert f"covers less than {side} x {side} pixels of what the network sees" in page("photos.md")


def test_limits_of_learning_and_adapting() -> None:
    assert f"at most {MAX_SHOTS} a class" in page("photos.md")
    assert f"Up to {MAX_CLASSES} classes" in page("faq.md")
    assert f"Below {PRESENT} the model judges the class absent" in page("faq.md")
    assert f"adds its {WORDS[COUNT]} most confident results" in page("faq.md")
    assert f"up to {SAMPLE} of them a third time" in page("photos.md")
    assert f"what the model saw of the last photos, at most {MOST_BYTES // 10**6} MB" in page("photos.md")
    asked = (ROOT / "src/rifenet/server/static/jobs.js").read_text(encoding="utf-8")
    assert "ASKED = 12;" in asked
    assert "WORK = 60;" in asked
    assert "looks at up to twelve of them first (fewer with more than five classes)" in page("photos.md")
    assert f"at most {'half' if TOLERANCE == 0.5 else TOLERANCE} a pixel off" in page("formats.md")
    assert f"A polygon may have at most {MOST_CORNERS:,} corners" in page("formats.md")


def test_limits_of_the_server() -> None:
    rows = dict(re.findall(r"\| `--([a-z-]+)` \| (\d+) \|", page("server.md")))
    assert rows == {name.replace("_", "-"): str(value) for name, value in dataclasses.asdict(Limits()).items()}
    assert f"at-least-{MIN_TOKEN}-characters" in page("server.md")
    assert f"| (fixed) | {MAX_SHOTS} | shots of a class |" in page("server.md")
    assert f"no more than {MAX_CLASSES} fit into a mask" in page("server.md")
    assert f"take {Limits().classes} a project" in page("faq.md")
    for name in ("photos.md", "faq.md"):
        assert f"[{Limits().file_mb} MB and {Limits().megapixels} megapixels](server.md#limits)" in page(name)


def test_verdicts_of_the_advice() -> None:
    text = page("advice.md")
    assert f"has an IoU above {advice.INVERSE} and" in text
    assert f"the median fit of the others is {advice.AGREE} or more" in text
    assert advice.FIT == 0.25
    assert "the shot's fit is less than a quarter of it" in text
    assert f"With more than {WORDS[advice.TEACHERS + 1]} shots, {WORDS[advice.TEACHERS]} others" in text
    assert f"For the {WORDS[advice.SUSPECTS]} shots that fit worst, the program tries" in text


def test_what_an_export_is() -> None:
    text = page("export.md")
    assert f"(opset {OPSET})" in text
    assert f"the number of shots (1 to {MAX_SHOTS})" in text
    assert f"writes nothing if the IoU is below {LEAST_IOU['float32']}" in text
    assert f"asks for an IoU of at least {LEAST_IOU['int8']}" in text
    assert f"(up to {MAX_PHOTOS} of them;" in text


def test_defaults_in_the_table_of_options() -> None:
    rows = re.findall(r"^\| `(data|train)\.(\w+)` \| ([^|]+) \|", (DOCS / "data.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 6
    for section, field, said in rows:
        default = getattr({"data": DataConfig, "train": TrainConfig}[section](), field)
        assert said == (f"{default:,}" if type(default) is int else str(default).lower()), field
    assert f"`data.own_views` (default {DataConfig().own_views:g})" in page("data.md")
    assert f"({DataConfig().min_area:,} pixels of the mask as stored)" in page("own_classes.md")
    assert f"bootstrap of {bootstrap_miou.__kwdefaults__['samples']:,} samples" in page("ablations.md")


def test_what_the_recipes_say() -> None:
    lite = yaml.safe_load((ROOT / "configs/voc_mini_lite2.yaml").read_text(encoding="utf-8"))
    further = yaml.safe_load((ROOT / "configs/bundled_lite2_449.yaml").read_text(encoding="utf-8"))
    assert f"for the {lite['train']['steps']:,} steps of this config" in page("own_classes.md")
    assert f"`model.mask_threshold: {lite['model']['mask_threshold']}`" in page("training.md")
    assert f"`train.average: {lite['train']['average']}`" in page("training.md")
    assert f"{further['train']['steps']} steps, {WORDS[further['data']['cache_views']]} views of each photo" in page(
        "model_card.md"
    )


def test_no_view_of_the_ablations_was_cropped() -> None:
    assert "all their runs have `data.cache_views: 2`" in page("lab/paper_ablations.md")
    views = set()
    for name in ("components", "guidance", "pseudo_labels"):
        content = json.loads((ROOT / f"docs/results/ablation/{name}.json").read_text(encoding="utf-8"))
        views |= {options["data.cache_views"] for row in content["rows"] for options in row["configs"].values()}
    assert views == {2}


def test_the_model_card_says_what_the_models_header_says(bundled: RiFeNet) -> None:
    text, known = page("model_card.md"), bundled.metadata["presence_on_classes_never_seen"]
    assert f"Masks take pixels from a probability of {bundled.config.mask_threshold} on" in text
    assert f"from {WORDS[bundled.config.support_views]} views of each photo" in text
    assert f"with {bundled.config.embed_dim} channels" in text
    figures = [(known["auroc"], known["expected_calibration_error"])]
    figures.append((known["hard"]["auroc"], known["hard"]["expected_calibration_error"]))
    (area, error), (hard_area, hard_error) = figures
    assert f"{known['pairs']} pairs: area under the ROC curve {area:.3f}, calibration error {error:.3f}" in text
    assert f"they are {hard_area:.3f} and {hard_error:.3f}" in text


def test_the_readme_takes_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_users_pages_send_nobody_to_an_index_that_has_no_release() -> None:
    for path in USERS_PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install '?rifenet", text), path.name


def test_what_advice_was_measured_to_do() -> None:
    text = " ".join(page("advice.md").split())
    shots = json.loads((ROOT / "docs/results/advice/shots.json").read_text(encoding="utf-8"))["summary"]
    wrong = [shots[kind] for kind in ("inverted", "other object", "shifted")]
    named, drawn = sum(round(kind["named"] * kind["draws"]) for kind in wrong), sum(kind["draws"] for kind in wrong)
    assert f"warned about {named} of {drawn} wrong masks" in text
    right = 5 * shots["none"]["draws"]
    assert f"by mistake, about {round(right * shots['none']['shots_warned'])} of {right} right ones" in text
    following = json.loads((ROOT / "docs/results/advice/next.json").read_text(encoding="utf-8"))["summary"]
    for count in ("2 shots", "3 shots"):
        row = following[count]
        low, high = row["interval"]
        assert f"{row['advice']} where a random one gives {row['random']}" in text.replace(" mIoU", "")
        assert f"{row['difference']:+}, " in text or f"difference {row['difference']:+}" in text
        assert f"{low} to {high}" in text


def test_what_instances_and_the_order_of_advice_were_measured_to_do() -> None:
    text = (DOCS / "lab" / "instances.md").read_text(encoding="utf-8")
    for path in sorted((DOCS / "results" / "instances").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in ("truth", "1 shots", "5 shots"):
            if key in record:
                row = record[key]
                low, high = (100 * each for each in row["interval"])
                counts = f"| {row['queries']} | {row['objects']} | {row['found']} |"
                error = f"{100 * row['count_error']:.1f} ({low:.1f} to {high:.1f})"
                rest = " | ".join(f"{100 * row[each]:.1f}" for each in ("median_error", "total_error", "ap50"))
                assert f"{counts} {error} | {rest} |" in text, path.name
    summary = json.loads((DOCS / "results/advice/worst.json").read_text(encoding="utf-8"))["summary"]
    orders = ("advice", "expected", "confidence", "doubt", "quality", "quality, less where hardly there")
    for name in orders:
        row = summary[name]
        low, high = row["interval"]
        assert f"| {row['place']:.2f} | {low:.2f} to {high:.2f} | {row['correlation']:.2f} |" in text
    told = page("advice.md")
    assert f"is at {summary['advice']['place']:.2f} between the worst (0) and the best (1)" in told
    assert f"over {summary['draws']} draws" in told
    firsts = round(summary["advice"]["worst"] * summary["draws"])
    assert f"it was the worst in {firsts} of them" in told
    assert f"was the worst in {firsts} of {summary['draws']} draws" in text
    assert f"rank correlation of {summary['advice']['correlation']:.2f}" in told


def test_what_a_stranger_took_on_the_page() -> None:
    record = json.loads((DOCS / "results" / "stranger.json").read_text(encoding="utf-8"))
    text = (DOCS / "lab" / "strokes.md").read_text(encoding="utf-8")
    seconds, ious = record["seconds"], record["iou"].values()
    assert f"It took {seconds['all']:.0f} seconds" in text
    assert f"{seconds['of marking, waited for masks']:.0f} of them waiting" in text
    assert f"{sum(record['strokes'].values())} strokes, masks of IoU {min(ious):.2f} to {max(ious):.2f}" in text
    assert f"`{record['git_commit']}`" in text
