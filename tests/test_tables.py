"""Tables and figures of the pages are those of the committed files: written again, or read from them, and compared."""

from __future__ import annotations

import glob
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docs_blocks import ROOT, blocks

from benchmarks import any_backbone_tables, busy_machine, instances, strokes, worlds_tables
from campaigns import table as campaigns
from rifenet.cli.main import main
from rifenet.models.files.hub import load_model

NOTEBOOK = ROOT / "docs" / "lab" / "index.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = (
    "docs/results.md",
    "docs/lab/fold_tables.md",
    "docs/lab/paper_ablation_tables.md",
    "docs/lab/rivals_tables.md",
)


def commands() -> dict[str, list[str]]:
    """Words of each `rifenet report` of the notebook's page, by the page that it writes."""
    (block,) = (block for block in blocks(NOTEBOOK.read_text(encoding="utf-8")) if block.language == "sh")
    lines = [shlex.split(line) for line in block.text.replace("\\\n", " ").splitlines()]
    return {words[words.index("--out") + 1]: words[1:] for words in lines if words[0] == "rifenet"}


def without(words: list[str], *options: str) -> list[str]:
    """The words without these options and their values."""
    for option in options:
        if option in words:
            place = words.index(option)
            words = words[:place] + words[place + 2 :]
    return words


def without_episodes(text: str) -> str:
    """The report without its galleries, for which a model runs: another processor's may differ by a pixel."""
    return re.sub(r"^## Episodes: .*?(?=^## (?!Episodes))", "", text, flags=re.MULTILINE | re.DOTALL)


def test_every_written_page_has_a_command() -> None:
    assert tuple(commands()) == WRITTEN
    for page in (ROOT / "docs").rglob("*.md"):
        if "\nWritten by `rifenet report`" in page.read_text(encoding="utf-8"):
            assert page.relative_to(ROOT).as_posix() in WRITTEN


@pytest.mark.parametrize("page", WRITTEN)
def test_a_written_page_is_written_again(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    (tmp_path / "docs" / "lab").mkdir()
    monkeypatch.chdir(tmp_path)
    words = without(commands()[page], "--strips", "--root")
    expanded = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    assert main(expanded) == 0
    committed = without_episodes((ROOT / page).read_text(encoding="utf-8"))
    assert (tmp_path / page).read_text(encoding="utf-8") == committed


def kept_aside() -> dict[str, Any]:
    return dict(json.loads((ROOT / "docs" / "results" / "kept_aside.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def shipped() -> str:
    return load_model("default").weights_hash


def test_the_card_says_what_was_measured_on_photos_kept_aside(shipped: str) -> None:
    measured = kept_aside()
    assert measured["model"]["weights_hash"] == shipped, "figures of another model than the one that ships"
    card = (ROOT / "docs" / "model_card.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", card, re.MULTILINE)
    said = {name: tuple(map(int, figures)) for name, *figures in rows}
    assert said == {
        row["readme"]: tuple(int(row[kind][shots] + 0.5) for kind in ("model", "training_free") for shots in ("1", "5"))
        for row in measured["sets"]
    }


def test_the_readme_shows_what_a_fit_gains_and_how_counts_err() -> None:
    records = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "docs/results/worlds").glob("*.json")
    }
    assert "\n".join(worlds_tables.means(dict(sorted(records.items())))) in README
    counts = json.loads((ROOT / "docs/results/instances/nuclei.json").read_text(encoding="utf-8"))
    (error,) = re.findall(r"counts of cells are off by \[([\d.]+)% in the mean\]", README)
    assert error == f"{100 * counts['1 shots']['count_error']:.1f}"


def test_the_table_of_strokes_is_that_of_its_file() -> None:
    record = json.loads((ROOT / "docs" / "results" / "strokes.json").read_text(encoding="utf-8"))
    assert record["summary"] == strokes.summarised(record["objects"], record["most"])
    page = (ROOT / "docs" / "lab" / "strokes.md").read_text(encoding="utf-8")
    assert "\n\n" + "\n".join(strokes.table(record)) + "\n\n" in page


def test_the_table_of_instances_is_that_of_its_files() -> None:
    files = sorted((ROOT / "docs" / "results" / "instances").glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    page = (ROOT / "docs" / "lab" / "instances.md").read_text(encoding="utf-8")
    assert "\n\n" + "\n".join(instances.table(records)) + "\n\n" in page


def test_the_pictures_caption_says_what_the_script_measured(shipped: str) -> None:
    figures = json.loads((ROOT / "docs" / "results" / "picture.json").read_text(encoding="utf-8"))
    ious = [iou for row in figures["classes"].values() for iou in row["iou"].values()]
    assert figures["model"]["weights_hash"] == shipped, "draw it again: see docs/lab/index.md"
    assert f"IoU {min(ious):.2f} to {max(ious):.2f}" in README


def test_what_more_sets_in_training_gained() -> None:
    """Rows of the notebook's table, and the means that its text names, are those of the files."""
    page, folder = (ROOT / "docs/lab/worlds.md").read_text(encoding="utf-8"), ROOT / "docs/results/more_sets"
    rows = {
        "bundled": ("bundled", "plain"),
        "trained further, step 250": ("step250", "plain"),
        "trained further, step 500": ("step500", "plain"),
        "half of the way from bundled to step 500 (mean of both weights)": ("mixed", "plain"),
        "with stage 3, untrained": ("stage3_untrained", "plain"),
        "with stage 3, step 200": ("stage3_step200", "plain"),
        "bundled, its head without the network's assistance": ("without_assist", "plain"),
        "`prototype`": ("bundled", "prototype"),
    }
    for row, (name, way) in rows.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {row} | "))
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["summary"]
        sets = ("nuclei", "magnetic-tile", "parts", "cracks", "polyps", "mean of domains")
        cells = [
            " / ".join(f"{found[world][f'{shots}-shot {way}']['shown']:.1f}" for shots in (1, 5)) for world in sets
        ]
        never = folder / f"{name}-1shot.json"
        if way == "plain" and never.is_file():
            cells.append(f"{100 * json.loads(never.read_text(encoding='utf-8'))['per_seed'][0]['miou']:.1f}")
        assert [cell.strip() for cell in line.split("|")[2:-1] if cell.strip()] == cells


def test_the_table_of_campaigns_is_that_of_their_records() -> None:
    page = (ROOT / "docs/lab/campaigns.md").read_text(encoding="utf-8")
    for folder in ("docs/results/campaigns", "docs/results/campaigns/earlier"):
        assert "\n\n" + "\n".join(campaigns.table(ROOT / folder)) + "\n\n" in page


def test_the_table_of_a_busy_machine_is_that_of_its_record() -> None:
    page = (ROOT / "docs/lab/speed.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "docs/results/busy_machine.json").read_text(encoding="utf-8"))
    assert "\n\n" + "\n".join(busy_machine.table(record)) + "\n\n" in page


def test_the_table_of_mutants_is_that_of_their_records() -> None:
    page = (ROOT / "docs/lab/mutants.md").read_text(encoding="utf-8")
    records = sorted((ROOT / "docs/results").glob("mutants*.json"))
    assert "\n\n" + "\n".join(campaigns.mutants(records)) + "\n\n" in page
    survivors = [name for record in records for name in json.loads(record.read_text(encoding="utf-8"))["survivors"]]
    missing = [name for name in survivors if f"`{name.split('.x')[-1].lstrip('_ǁ').replace('ǁ', '.')}`" not in page]
    assert not missing, "each survivor is explained"


def test_what_corrected_features_would_gain() -> None:
    page, folder = (ROOT / "docs/lab/worlds.md").read_text(encoding="utf-8"), ROOT / "docs/results/more_sets"
    rows = {
        "`prototype` as it is": ("bundled", "prototype"),
        "`prototype`, corrected": ("corrected", "prototype"),
        "bundled as it is": ("bundled", "plain"),
        "bundled, corrected": ("corrected", "plain"),
    }
    for row, (name, way) in rows.items():
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["summary"]
        cells = [
            " / ".join(f"{found[world][f'{shots}-shot {way}']['shown']:.1f}" for shots in (1, 5))
            for world in ("nuclei", "parts", "cracks")
        ]
        assert f"| {row} | {' | '.join(cells)} |" in page


def test_fold_0_on_the_co_segmentation_set() -> None:
    page, folder = (ROOT / "docs/lab/worlds.md").read_text(encoding="utf-8"), ROOT / "docs/results/coseg_fold0"
    table = page[page.index("| fold 0 on the co-segmentation set |") :].splitlines()
    for file in sorted(folder.glob("result*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        shown = [found["per_seed"][0]["miou"], *(row["iou"] for row in found["per_class"])]
        kind = "trained" if found["model"]["kind"] == "rifenet" else "`prototype`"
        name = f"{kind}, {'one shot' if found['shots'] == 1 else 'five shots'}"
        (line,) = (line for line in table if line.startswith(f"| {name} | "))
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells == [f"{100 * value:.1f}" for value in (*shown[1:], shown[0])]


def test_the_tables_of_the_head_for_any_backbone_are_those_of_its_records() -> None:
    page = (ROOT / "docs" / "lab" / "any_backbone.md").read_text(encoding="utf-8")
    assert any_backbone_tables.filled(page, ROOT / "docs" / "results" / "any_backbone") == page
    assert "| Lite2 | reference | Lite2 |" in page


def test_the_heads_of_other_papers_stand_as_measured() -> None:
    page = (ROOT / "docs/lab/rivals.md").read_text(encoding="utf-8")
    names = {"pfenet": "PFENet", "hsnet": "HSNet", "cyctr": "CyCTR", "rifenet": "RiFeNet"}
    lines = {name: [f"| {names.get(name, '`prototype`, nothing trained')} "] for name in (*names, "prototype")}
    for file in ("rivals", "rivals_coseg"):
        record = json.loads((ROOT / f"docs/results/rivals/{file}.json").read_text(encoding="utf-8"))
        assert [row["name"] for row in record["rows"]] == list(lines)
        for row in record["rows"]:
            mean = np.mean([fold["mean"] for fold in row["folds"].values()])
            found = row.get("difference")
            cells = [f"{100 * mean:.1f}", "", ""]
            if found:
                low, high = (100 * each for each in found["interval"])
                points = f"{100 * found['miou']:+.1f}"
                signed = points if low < 0 < high else f"**{points}**"
                cells[1:] = [f"{signed} ({low:.1f} to {high:.1f})", f"{found['wins']} of {found['pairs']}"]
            lines[row["name"]].append("| " + " | ".join(cells))
    for name, parts in lines.items():
        line = " ".join("".join(parts).replace("|", " | ").split())
        assert line in " ".join(page.replace("|", " | ").split()), name


def test_the_notebooks_scores_of_two_views_are_those_of_the_files() -> None:
    page = (ROOT / "docs/lab/bundled_449.md").read_text(encoding="utf-8")
    section = page[page.index("## Two views for four") :]

    def read(name: str) -> dict[str, Any]:
        return dict(json.loads((ROOT / f"docs/results/{name}.json").read_text(encoding="utf-8")))

    kinds = ("bundled/result-1shot", "bundled/result-5shot", "examples/result")
    for kind in kinds:
        own, base = (100 * read(f"{kind}{end}")["scores"]["miou"]["mean"] for end in ("", "-prototype"))
        assert f"| {own:.1f} | {base:.1f} |" in section, kind
    mean = read("bundled/demo")["mean"]
    for way in ("alone", "together"):
        own, base = 100 * mean[f"model_{way}"], 100 * mean[f"prototype_{way}"]
        assert f"| {own:.1f} | {base:.1f} |" in section, way
    header = load_model("default").metadata["presence_on_classes_never_seen"]
    for found in (header, read("bundled/result-1shot")["presence"]):
        for part in (found, found["hard"]):
            assert f"| {part['auroc']:.3f}, {part['expected_calibration_error']:.3f} | |" in section


def test_the_seconds_that_users_wait_are_those_of_the_record() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    figures = json.loads((ROOT / "docs/results/waiting.json").read_text(encoding="utf-8"))["figures"]
    unit, photo, one, five = (
        figures[name]["median"] for name in ("unit", "photo", "learn_1_without_fit", "learn_5_without_fit")
    )
    said = f"the unit took {unit:.2f} s, a photo {1000 * photo:.0f} ms, one photo learned without a fit"
    assert f"{said} {1000 * one:.0f} ms, five {five:.2f} s" in page
