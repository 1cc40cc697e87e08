"""Which classes of a result its model was trained on, by any name, and whether the filter of its training holds here.

Everything is told from the result's content, so it holds for older result files, too.
"""

from __future__ import annotations

from typing import Any

from rifenet.data.class_names import seen_classes, unchecked

PHOTOS_WORDS = (
    "training had photos of this very list that show novel classes, as background: exclude_novel was off, so queries "
    "may be among them"
)
"""What `photos_trained_on` finds, in words that begin with "the model's"."""


def classes_seen(result: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Novel classes that the model was trained on, each with the names under which it was (`class_names`)."""
    novel = [row["name"] for row in result["per_class"]]
    listed = {name: (name,) for name in result.get("novel_classes_seen", ())}
    trained = result["model"]["metadata"].get("classes_trained_on", ())
    return listed | seen_classes(novel, trained, one_list=_one_list(result))


def _one_list(result: dict[str, Any]) -> bool:
    """Whether novel and trained classes come from one list of classes, whose annotators told all of them apart."""
    trained, dataset = result["model"]["metadata"], result.get("dataset", {})
    if "classes_hash" in trained and "classes_hash" in dataset:
        return bool(trained["classes_hash"] == dataset["classes_hash"])
    return trained.get("dataset") == dataset.get("name") != "custom"  # older files


def photos_trained_on(result: dict[str, Any]) -> bool:
    """Whether training took its photos from the list that is scored, those with novel classes among them."""
    trained, dataset = result["model"]["metadata"], result["dataset"]
    same = (trained.get("dataset"), trained.get("list")) == (dataset["name"], dataset["list"])
    return same and _one_list(result) and trained.get("exclude_novel") is False


def names_unchecked(result: dict[str, Any]) -> list[str]:
    """Names of novel and trained classes that are in no table, so that they were compared by spelling alone."""
    trained = result["model"]["metadata"].get("classes_trained_on", ())
    novel = [row["name"] for row in result["per_class"]] if trained else []
    return list(unchecked(dict.fromkeys((*novel, *trained))))


def training_unknown(result: dict[str, Any]) -> bool:
    """Whether a trained model's file does not say which classes it was trained on: then nothing is known of leakage."""
    model = result["model"]
    return model["kind"] != "prototype" and model["metadata"].get("classes_trained_on") is None


def seen_words(seen: dict[str, tuple[str, ...]]) -> str:
    """The classes, and their names in training where these are others: `sofa (as couch), bus`."""
    return ", ".join(name if names == (name,) else f"{name} (as {', '.join(names)})" for name, names in seen.items())


def exclude_novel_here(result: dict[str, Any]) -> bool | None:
    """The filter `exclude_novel` of the model's training; None where the result is not on the fold of its training.

    That takes the same kind of dataset, fold and novel classes, and none of these among the trained ones, which the
    model's file has to name. Files of older models do not name their novel classes; for those, on a published dataset,
    its kind and fold tell them.
    """
    trained, dataset = result["model"]["metadata"], result["dataset"]
    if (trained.get("dataset"), trained.get("fold")) != (dataset["name"], result["fold"]):
        return None
    if training_unknown(result) or classes_seen(result):
        return None
    if trained.get("classes_hash", dataset.get("classes_hash")) != dataset.get("classes_hash"):
        return None
    novel = trained.get("novel_classes", trained.get("classes_never_seen"))
    same = dataset["name"] != "custom" if novel is None else set(novel) == {row["name"] for row in result["per_class"]}
    kept: bool | None = trained.get("exclude_novel")
    return kept if same else None
