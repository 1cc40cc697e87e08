from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from evaluation.test_result_file import counted, result

from rifenet.config import PROTOCOLS
from rifenet.evaluation.report import report
from rifenet.evaluation.result_file import compare_results, names_hash, write_result
from rifenet.evaluation.settings import PASCAL_5I, setting_label, setting_sentence

PASCAL = {
    "name": "pascal",
    "hash": "f" * 64,
    "list": "val.txt",
    "images": 1449,
    "names_hash": names_hash((files("rifenet.data") / "lists" / "pascal_val.txt").read_text().split()),
    "median_sides": [375.0, 500.0],
    "bad_files": 0,
}
MINI = {
    **PASCAL,
    "hash": "a" * 64,
    "list": "all.txt",
    "images": 3576,
    "names_hash": "x",
    "median_sides": [320.0, 427.0],
}
MINI_LIST = "PASCAL list `all.txt` (`x`)"
PASCAL_LIST = f"PASCAL list `val.txt` (`{PASCAL['names_hash'][:12]}`)"
KEPT = ("config", "dataset", "model", "environment")  # of a file whose counts are exchanged
OWN = {**MINI, "name": "custom", "hash": "c" * 64}


def scored(
    path: Path, *, fold: int = 1, kind: str = "rifenet", name: str = "", dataset: dict[str, Any] = MINI, **changes: Any
) -> Path:
    """A result file; `seed` and `better` make its counts, the rest replaces fields of it."""
    counts = counted(changes.pop("seed", fold), better=changes.pop("better", 0))
    protocol = {**result(counts)["protocol"], "class_area": False}
    fields = {
        "protocol": protocol,
        "dataset": dataset,
        "fold": fold,
        "episodes_hash": f"episodes {fold}",
        "model": {
            "name": name or kind,
            "kind": kind,
            "backbone": "resnet50",
            "checkpoint_hash": "0123456789abcdef",
            "image_size": 473,
            "metadata": {},
        },
        "novel_classes_seen": [],
        "config": {"data": {"root": "photos"}, "model": {"kind": kind}},
    }
    write_result({**result(counts), **fields, **changes}, path)
    return path


def full(path: Path, **options: Any) -> Path:
    """A result on the true PASCAL-5i test set under the published rules (its counts are still those of 24 episodes)."""
    file = scored(path, dataset=PASCAL, **options)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "episodes": 1000}))
    return file


def table(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table after `heading`."""
    lines = text[text.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def percent(path: Path, figure: str = "miou") -> str:
    score = json.loads(path.read_text())["scores"][figure]
    return f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}"


def test_a_model_is_compared_with_the_prototype_on_its_own_frozen_features(tmp_path: Path) -> None:
    def config(kind: str, stride: int) -> dict[str, Any]:
        return {"data": {"root": "photos"}, "model": {"kind": kind, "stride": stride}}

    files = [
        scored(tmp_path / "a8.json", kind="prototype", config=config("prototype", 8)),
        scored(tmp_path / "b16.json", kind="prototype", name="other", better=400, config=config("prototype", 16)),
        scored(tmp_path / "c8.json", name="eight", better=900, config=config("rifenet", 8)),
        scored(tmp_path / "d16.json", name="sixteen", better=900, config=config("rifenet", 16)),
    ]
    rows = {row[0]: row[-1] for row in table(report(files, tmp_path), "### Intervals")[1:]}
    assert rows["eight, 473 px"].endswith("[1]")
    assert rows["sixteen, 473 px"].endswith("[2]")


def test_a_model_is_compared_with_the_prototype_of_its_own_size(tmp_path: Path) -> None:
    files = [
        scored(tmp_path / f"{kind}-{size}.json", kind=kind, better=better)
        for kind, better in (("prototype", 400), ("rifenet", 900))
        for size in (321, 449)
    ]
    for path in files:
        result = json.loads(path.read_text())
        result["model"]["image_size"] = int(path.stem.split("-")[1])
        path.write_text(json.dumps(result))
    rows = {row[0]: row[-1] for row in table(report(files, tmp_path), "### Intervals")[1:]}
    assert rows["rifenet, 321 px"].endswith("[1]")
    assert rows["rifenet, 449 px"].endswith("[2]")


def test_table_has_each_figure_with_its_source_and_the_prototype_last(tmp_path: Path) -> None:
    base = scored(tmp_path / "base.json", kind="prototype")
    model = scored(tmp_path / "model.json", better=900)
    text = report([base, model], tmp_path)
    heading, ours, prototype = table(text, f"## {MINI_LIST}, pfenet, 1-shot")
    assert heading == ["model", "fold 1", "FB-IoU"]
    assert ours == ["rifenet, 473 px", f"{percent(model)} [2]", percent(model, "fb_iou")]
    assert prototype == ["prototype, 473 px", f"{percent(base)} [1]", percent(base, "fb_iou")]
    sources = table(text, "## Sources")
    assert sources[1][:8] == ["[1]", "[base.json](base.json)", "prototype", "`0123456789ab`", "1", "1", "0 1 2", "24"]
    assert "`c0ffee`" in sources[2]
    intervals = table(text, "### Intervals")
    assert re.fullmatch(r"\+\d\.\d \d\.\d to \d\.\d \[1\]", intervals[1][-1])
    assert intervals[2][-1] == "–"
    classes = table(text, "### Classes")
    assert [row[0] for row in classes[1:]] == ["bus", "car", "cat"]
    stored = json.loads(model.read_text())["per_class"]
    assert [row[2] for row in classes[1:]] == [
        f"{100 * item['iou']:.1f} ± {100 * item['std']:.1f} [2]" for item in stored
    ]


def test_missing_prototype_is_said(tmp_path: Path) -> None:
    rows = table(report([scored(tmp_path / "model.json")]), "## ")
    assert rows[-1][0] == "prototype: not scored, run `rifenet evaluate --baseline`"
    assert set(rows[-1][1:]) == {"–"}


def test_mean_over_folds_only_where_all_are_there_and_its_folds_are_named(tmp_path: Path) -> None:
    whole = [scored(tmp_path / f"a{fold}.json", fold=fold, name="whole") for fold in (1, 2)]
    half = scored(tmp_path / "b.json", fold=1, name="half")
    heading, *rows = table(report([*whole, half]), "## ")
    assert heading == ["model", "fold 1", "fold 2", "mean of folds 1, 2", "FB-IoU"]
    runs = [[run["miou"] for run in json.loads(path.read_text())["per_seed"]] for path in whole]
    means = [sum(pair) / 2 for pair in zip(*runs, strict=True)]
    assert rows[0][3].startswith(f"{100 * sum(means) / 3:.1f} ±")
    assert rows[1][2:] == ["–", "–", "–"]


def test_published_figures_only_beside_the_real_protocol(tmp_path: Path) -> None:
    mini = report([scored(tmp_path / "mini.json")])
    assert "published:" not in mini
    assert PASCAL_5I not in re.sub("This is not PASCAL-5i", "", mini)
    paths = [full(tmp_path / f"{fold}.json", fold=fold) for fold in range(4)]
    prototypes = [full(tmp_path / f"p{fold}.json", fold=fold, kind="prototype") for fold in range(4)]
    results = [json.loads(path.read_text()) for path in (*paths, *prototypes)]
    assert {setting_label(item) for item in results} == {PASCAL_5I}


def test_published_rows_keep_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counts of 24 episodes stand for 1,000, which only the label looks at.
    monkeypatch.setattr("rifenet.evaluation.settings._PUBLISHED_EPISODES", 24)
    paths = [scored(tmp_path / f"{fold}.json", fold=fold, dataset=PASCAL) for fold in (0, 1)]
    text = report([*paths, scored(tmp_path / "mini.json")])
    assert text.count("## PASCAL-5i, pfenet, 1-shot") == 1
    heading, *rows = table(text, "## PASCAL-5i, pfenet, 1-shot")
    assert heading == ["model", "fold 0", "fold 1", "fold 2", "fold 3", "mean", "FB-IoU"]
    assert rows[0][3:] == ["–"] * 4
    paper = next(row for row in rows if row[0].startswith("published: RiFeNet (AAAI 2024), ResNet-50"))
    assert paper[1:6] == ["68.4*", "73.5*", "67.1*", "59.4*", "67.1*"]
    assert "not a reproduction" in text
    assert "Deviation from the published codes, query order: in list order." in text
    methods = {row[0].removeprefix("published: ") for row in rows if row[0].startswith("published: ")}
    assert {"PFENet, ResNet-50", "HDMNet, ResNet-50", "CyCTR (its paper), ResNet-50"} < methods
    # Another protocol's, or of which nobody is sure by what it was scored.
    assert not [
        name for name in methods if name.startswith(("HSNet", "VAT", "FPTrans", "Matcher", "GF-SAM", "FSSAM", "SAM"))
    ]
    assert all("published:" not in row[0] for row in table(text, f"## {MINI_LIST}"))


def test_all_deviations_of_a_result_stand_beside_published_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rifenet.evaluation.settings._PUBLISHED_EPISODES", 24)
    own = ["query order: pairs; published: images", "resize: exact; published: off", "padding: grey; published: black"]
    for dataset, told in ((PASCAL, own[1:]), (MINI, [])):
        path = scored(tmp_path / "a.json", dataset=dataset, deviations=own)
        found = re.findall(r"^- Deviation from the published codes, (.*)\.$", report([path]), re.MULTILINE)
        assert found == told


@pytest.mark.parametrize(
    ("dataset", "episodes", "min_area", "label"),
    [
        (PASCAL, 1000, 2048, PASCAL_5I),
        (PASCAL, 999, 2048, "PASCAL-5i test images under other rules"),
        (PASCAL, 1000, 1, "PASCAL-5i test images under other rules"),
        ({**PASCAL, "images": 1448}, 1000, 2048, PASCAL_LIST),
        ({**PASCAL, "names_hash": "other"}, 1000, 2048, "PASCAL list `val.txt` (`other`)"),
        ({**PASCAL, "bad_files": 1}, 1000, 2048, PASCAL_LIST),
        ({**PASCAL, "median_sides": [320.0, 427.0]}, 1000, 2048, PASCAL_LIST),
        (MINI, 1000, 2048, MINI_LIST),
        (OWN, 1000, 2048, "custom dataset `photos`"),
    ],
)
def test_label_says_what_was_scored(dataset: dict[str, Any], episodes: int, min_area: int, label: str) -> None:
    protocol = {"name": "pfenet", "min_area": min_area, "class_area": False}
    content = {"dataset": dataset, "episodes": episodes, "protocol": protocol, "config": {"data": {"root": "photos"}}}
    assert setting_label(content) == label
    before = {"name": "pfenet", "min_area": min_area}  # an older file, whose queries were filtered by class
    other = "PASCAL-5i test images under other rules"
    assert setting_label({**content, "protocol": before}) == (other if label == PASCAL_5I else label)


def test_two_area_rules_never_share_a_table_and_older_files_say_theirs(tmp_path: Path) -> None:
    before = result(counted())["protocol"]
    paths = [
        scored(tmp_path / "image.json"),
        scored(tmp_path / "before.json", protocol=before),
        scored(tmp_path / "class.json", protocol=before, name="other"),  # as --class-area records it
    ]
    text = report(paths)
    assert re.findall(r"^## (?!Sources)(.*)", text, re.MULTILINE) == [
        f"{MINI_LIST}, pfenet, 1-shot",
        f"{MINI_LIST}, pfenet by class area, 1-shot",
    ]
    assert "queries: every class of the fold in an image where one of them has at least 2,048 px in the mask" in text
    assert "; classes of at least 2,048 px in the mask as stored; scored at" not in text.split("by class area")[0]
    assert len(table(text, f"## {MINI_LIST}, pfenet by class area")) == 4  # two models and the missing prototype
    with pytest.raises(ValueError, match="protocol differs"):
        compare_results(*(json.loads(path.read_text()) for path in paths[:2]))


def test_classes_without_episodes_stand_in_the_title(tmp_path: Path) -> None:
    paths = [scored(tmp_path / f"{fold}.json", fold=fold, absent_classes=["cat"] * (fold == 1)) for fold in (1, 2)]
    assert f"## {MINI_LIST}, pfenet, 1-shot, without 1 of 6 classes" in report(paths)


@pytest.mark.parametrize(
    ("episodes", "words"),
    [
        (1000, "the RiFeNet paper states; the authors' script makes one pass over the list"),
        (5000, "PFENet's own test script"),
    ],
)
def test_the_published_numbers_of_episodes_are_named(episodes: int, words: str) -> None:
    content = {"dataset": PASCAL, "episodes": episodes, "seeds": [0], "shots": 1, "fold": 0}
    content |= {"protocol": {"name": "pfenet", "min_area": 2048, "class_area": False}}
    assert f"{episodes:,} episodes (as {words}) for each" in setting_sentence(content)
    assert "(as " not in setting_sentence({**content, "episodes": episodes + 1})
    assert "(as " not in setting_sentence({**content, "dataset": OWN})
    assert "(as " not in setting_sentence({**content, "dataset": MINI}), "another list of PASCAL photos"


def test_settings_never_share_a_table(tmp_path: Path) -> None:
    other = {**MINI, "hash": "b" * 64}
    paths = [
        scored(tmp_path / "a.json"),
        scored(tmp_path / "b.json", dataset=other),
        scored(tmp_path / "c.json", shots=5),
        scored(tmp_path / "d.json", dataset=OWN),
    ]
    text = report(paths)
    assert len(re.findall(r"^## (?!Sources)", text, re.MULTILINE)) == 4
    assert "## custom dataset `photos`, pfenet, 1-shot" in text
    assert f"## {MINI_LIST}, pfenet, 5-shot" in text


HSNET = {
    **dict.fromkeys(("query_order", "min_area_of", "resize", "k_shot"), "as hsnet has it"),
    **{"name": "hsnet", "min_area": 1, "absent_as_zero": False, "image_size": 400, "network_size": 400},
    **{"scored_at": "network size, 400 x 400 px", "original_size": False, "vote": False},
}


def test_two_protocols_and_their_options_never_share_a_table(tmp_path: Path) -> None:
    protocols = [
        None,
        HSNET,
        {**HSNET, "original_size": True},
        {**HSNET, "vote": True},
        {**HSNET, "episode_list": "theirs.json"},
        {**HSNET, "image_size": 473},
    ]
    paths = [
        scored(tmp_path / f"{number}.json", **({"protocol": protocol} if protocol else {}))
        for number, protocol in enumerate(protocols)
    ]
    text = report(paths)
    assert re.findall(r"^## (?!Sources)(.*)", text, re.MULTILINE) == [
        f"{MINI_LIST}, pfenet, 1-shot",
        f"{MINI_LIST}, hsnet, 1-shot",
        f"{MINI_LIST}, hsnet at original size, 1-shot",
        f"{MINI_LIST}, hsnet with vote, 1-shot",
        f"{MINI_LIST}, hsnet on listed episodes, 1-shot",
        f"{MINI_LIST}, hsnet, 1-shot",  # at 473 px
    ]
    assert text.count("This is not PASCAL-5i") == len(protocols)
    assert text.count("scored at network size, 400 x 400 px") == 5
    assert "those of `theirs.json`" in text
    with pytest.raises(ValueError, match="protocol differs"):
        compare_results(*(json.loads(path.read_text()) for path in paths[:2]))


@pytest.mark.parametrize(
    ("change", "label", "methods"),
    [
        ({}, PASCAL_5I, ["HSNet", "VAT"]),
        ({"original_size": True}, PASCAL_5I, []),
        ({"vote": True}, PASCAL_5I, []),
        ({"image_size": 473}, "PASCAL-5i test images under other rules", []),
        ({"network_size": None}, "PASCAL-5i test images under other rules", []),  # older: 417 px, edges repeated
        ({"episode_list": "theirs.json"}, "PASCAL-5i test images under other rules", []),
    ],
)
def test_figures_published_for_the_other_protocol_stay_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], label: str, methods: list[str]
) -> None:
    monkeypatch.setattr("rifenet.evaluation.settings._PUBLISHED_EPISODES", 24)
    text = report([scored(tmp_path / "a.json", dataset=PASCAL, protocol={**HSNET, **change})])
    assert f"## {label}, hsnet" in text
    assert re.findall(r"published: ([^,]+), ResNet-50", text) == methods
    assert text.count("published:") == len(methods)
    assert "Deviation from the published codes" not in text
    assert ("This is not PASCAL-5i" in text) == (label != PASCAL_5I)


def test_published_figures_of_hsnet_for_five_shots_stand_beside_a_vote_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rifenet.evaluation.settings._PUBLISHED_EPISODES", 24)
    for vote, methods in ((False, []), (True, ["HSNet", "VAT"])):
        path = scored(tmp_path / f"{vote}.json", dataset=PASCAL, shots=5, protocol={**HSNET, "vote": vote})
        assert re.findall(r"published: ([^,]+), ResNet-50", report([path])) == methods


def test_training_with_and_without_novel_images_are_two_rows(tmp_path: Path) -> None:
    paths = []
    for kept in (True, False, None):
        path = scored(tmp_path / f"{kept}.json")
        content = json.loads(path.read_text())
        own = {"dataset": "pascal", "fold": 1, "classes_trained_on": ["dog"], "exclude_novel": kept}
        content["model"]["metadata"] = {} if kept is None else own
        path.write_text(json.dumps(content))
        paths.append(path)
    rows = table(report(paths), "## ")[1:4]
    assert [row[0] for row in rows] == [
        "rifenet, 473 px, exclude_novel on",
        "rifenet, 473 px, exclude_novel off",
        "rifenet, 473 px",
    ]


def trained(path: Path, **metadata: Any) -> Path:
    """The result file `path`, with this `metadata` of its model."""
    content = json.loads(path.read_text())
    content["model"]["metadata"] = metadata
    path.write_text(json.dumps(content))
    return path


def test_a_mean_over_folds_bears_every_mark_of_its_folds(tmp_path: Path) -> None:
    clean = trained(scored(tmp_path / "a.json", fold=0), classes_trained_on=["dog"])
    leaks = trained(scored(tmp_path / "b.json", fold=1), classes_trained_on=["cat"])
    skips = scored(tmp_path / "c.json", fold=2, skipped=[{"seed": 0, "episode": 1}])
    lacks = scored(tmp_path / "d.json", fold=2, absent_classes=["train"])
    for paths, mark in (((clean, leaks), "†"), ((leaks, skips), "†§"), ((leaks, lacks), "†‡"), ((clean,), "")):
        heading, row, *_ = table(report(paths), "## ")
        for title, cell in zip(heading, row, strict=True):
            if title == "FB-IoU" or title.startswith("mean"):
                assert re.sub(r"[\d. ±]", "", cell) == mark, title


def test_every_table_of_a_report_bears_the_marks(tmp_path: Path) -> None:
    leaks = trained(scored(tmp_path / "a.json", skipped=[{"seed": 0, "episode": 1, "class": "car"}]),
                    classes_trained_on=["kitten"])  # fmt: skip
    text = report([leaks, scored(tmp_path / "b.json", name="clean")])
    marks = {row[0]: re.sub(r"[^†‡§]", "", "".join(row[2:4])) for row in table(text, "### Intervals")[1:]}
    assert marks == {"rifenet, 473 px": "†§", "clean, 473 px": ""}
    heading, *rows = table(text, "### Classes")
    assert [re.sub(r"[^†‡§]", "", "".join(heading))] == [""]
    found = {row[0]: [re.sub(r"[^†‡§]", "", cell) for cell in row[2:]] for row in rows}
    assert found == {"bus": ["", ""], "car": ["§", ""], "cat": ["†", ""]}


def test_figures_of_photos_that_training_kept_are_marked(tmp_path: Path) -> None:
    own = {"dataset": "pascal", "fold": 1, "list": "all.txt", "classes_trained_on": ["dog"], "exclude_novel": False}
    path = trained(scored(tmp_path / "a.json"), **own)
    text = report([path])
    assert table(text, "## ")[1][1] == f"{percent(path)}† [1]"
    assert all("†" in row[2] for row in table(text, "### Classes")[1:])
    assert "- † [1]: the model's training had photos of this very list that show novel classes, as background" in text
    other = report([trained(scored(tmp_path / "b.json", dataset=PASCAL), **own)])
    assert "†" not in other, "the test list is another"


def test_sources_name_the_backbone(tmp_path: Path) -> None:
    heading, row = table(report([scored(tmp_path / "a.json")]), "## Sources")
    assert row[heading.index("backbone")] == "resnet50"


def test_a_model_that_does_not_say_what_taught_it_is_no_model_that_saw_nothing(tmp_path: Path) -> None:
    words = "- [1]: what it was trained on is not recorded"
    own = {"dataset": "pascal", "fold": 1, "exclude_novel": True}
    silent = report([trained(scored(tmp_path / "a.json"), **own)])
    assert words in silent
    assert "exclude_novel" not in silent
    named = report([trained(scored(tmp_path / "b.json"), **own, classes_trained_on=["dog"])])
    assert words not in named
    assert "exclude_novel on" in named
    assert words not in report([scored(tmp_path / "c.json", kind="prototype")])


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "–"),
        ({"images_trained_on": 1696}, "1,696 images"),
        ({"images_trained_on": 10582, "list": "train_aug.txt"}, "10,582 images of `train_aug.txt`"),
        ({"images_trained_on": 9, "started_from": {}, "images_trained_on_before": 1200}, "9 images, after 1,200"),
        ({"images_trained_on": 9, "started_from": {}}, "9 images, after an unknown number"),
        ({"images_trained_on": 4800, "list": "train.txt", "shots": 1}, "4,800 images of `train.txt`, 1 shot"),
        ({"images_trained_on": 9, "shots": 5, "mixed_shots": False}, "9 images, 5 shots"),
        ({"images_trained_on": 9, "shots": 5, "mixed_shots": True}, "9 images, 1 to 5 shots"),
        ({"images_trained_on": 9, "shots": 1, "mixed_shots": True}, "9 images, 1 shot"),
    ],
)
def test_sources_say_how_many_images_trained_a_model(tmp_path: Path, metadata: dict[str, Any], said: str) -> None:
    heading, row = table(report([trained(scored(tmp_path / "a.json"), **metadata)]), "## Sources")
    assert row[heading.index("trained on")] == said


def test_the_filter_of_another_fold_or_of_a_leaking_model_is_not_printed(tmp_path: Path) -> None:
    own = {"dataset": "pascal", "fold": 1, "classes_trained_on": ["dog"], "exclude_novel": True}
    for change in ({"fold": 2}, {"dataset": "coco"}, {"classes_trained_on": ["cats"]}):
        path = scored(tmp_path / "a.json")
        content = json.loads(path.read_text())
        content["model"]["metadata"] = {**own, **change}
        path.write_text(json.dumps(content))
        assert "exclude_novel" not in report([path])


def test_leaking_classes_are_named_by_both_names_even_in_older_files(tmp_path: Path) -> None:
    path = scored(tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["model"]["metadata"] = {"classes_trained_on": ["kitten", "sports car", "flibbertigibbet"]}
    path.write_text(json.dumps(content))
    text = report([path])
    assert table(text, "## ")[1][1] == f"{percent(path)}† [1]"
    assert "- † [1]: the model was trained on car (as sports car), cat (as kitten)." in text
    assert "- [1]: unchecked, since no table of class names has them: flibbertigibbet." in text


def test_five_seeds_have_mean_deviation_and_both_intervals(tmp_path: Path) -> None:
    path = scored(tmp_path / "a.json")
    content = json.loads(path.read_text())
    counts = counted(runs=5)
    path.write_text(json.dumps({**content, **result(counts), **{part: content[part] for part in KEPT}}))
    score = json.loads(path.read_text())["scores"]["miou"]
    values = [run["miou"] for run in json.loads(path.read_text())["per_seed"]]
    deviation = (sum((value - sum(values) / 5) ** 2 for value in values) / 4) ** 0.5
    row = table(report([path]), "### Intervals")[1]
    main_row = table(report([path]), "## ")[1]
    assert main_row[1] == f"{100 * sum(values) / 5:.1f} ± {100 * deviation:.1f} [1]"
    half = 2.7764 * deviation / 5**0.5  # Student's t for four degrees of freedom
    assert row[3] == f"{100 * (sum(values) / 5 - half):.1f} to {100 * (sum(values) / 5 + half):.1f}"
    assert row[4] == "{:.1f} to {:.1f}".format(*(100 * bound for bound in score["interval_bootstrap"]))


def test_marks_for_absent_and_already_seen_classes(tmp_path: Path) -> None:
    path = scored(tmp_path / "a.json", absent_classes=["train"], novel_classes_seen=["cat"])
    text = report([path])
    assert table(text, "## ")[1][1] == f"{percent(path)}†‡ [1]"
    assert "- † [1]: the model was trained on cat." in text
    assert "- ‡ [1]: no episode of train, left out of the mean." in text


def test_one_model_twice_on_a_fold_is_refused(tmp_path: Path) -> None:
    paths = [scored(tmp_path / "a.json"), scored(tmp_path / "b.json")]
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json"):
        report(paths)
    report([paths[0], scored(tmp_path / "c.json", name="other")])


def test_links_are_relative_to_the_report(tmp_path: Path) -> None:
    text = report([scored(tmp_path / "runs" / "one" / "result.json")], tmp_path / "docs")
    assert "[result.json](../runs/one/result.json)" in text
    assert str(tmp_path) not in text


def test_published_file_is_whole() -> None:
    rows = json.loads((files("rifenet.evaluation") / "published.json").read_text())["rows"]
    keys = [(row["method"], row["backbone"], row["dataset"], row["shots"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["protocol"] for row in rows} == {*PROTOCOLS, None}
    for row in rows:
        figures = [*row.get("folds", []), row["mean"]]
        assert all(re.fullmatch(r"\d\d\.\d\*?", figure) for figure in figures)
        # Whoever lists folds lists four, and their mean is the mean.
        if "folds" in row:
            values = [float(figure.rstrip("*")) for figure in row["folds"]]
            assert len(values) == 4
            assert sum(values) / 4 == pytest.approx(float(row["mean"].rstrip("*")), abs=0.06)
