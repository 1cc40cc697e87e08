"""Names a result's data and protocol in print. Scores of different settings never share a table (protocols.md 3)."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from rifenet.config import NAMED_EPISODES
from rifenet.evaluation.result_file import names_hash

PASCAL_5I = "PASCAL-5i"
_PASCAL_TEST_IMAGES = 1449
_PUBLISHED_RULES: dict[str, dict[str, Any]] = {
    "pfenet": {"min_area": 2048, "class_area": False},
    "hsnet": {"min_area": 1, "image_size": 400, "network_size": 400},
}
_PUBLISHED_EPISODES = 1000
_RUN_BY = {
    "rifenet": "the RiFeNet paper states; the authors' script makes one pass over the list",
    "pfenet_script": "PFENet's own test script",
}


def setting_key(result: dict[str, Any]) -> str:
    """A key that is equal for results whose scores may stand in one table."""
    parts = ("protocol", "shots", "seeds", "episodes")
    return json.dumps([setting_label(result), result["dataset"]["hash"], *(result[part] for part in parts)])


def setting_title(result: dict[str, Any], *others: dict[str, Any]) -> str:
    """Data, protocol with its options, shots, and how many classes have no episode: the heading of a table.

    `others` are further results of the same setting, of any fold.
    """
    rules = {**result["protocol"], "class_area": by_class_area(result["protocol"])}
    options = {
        "class_area": " by class area",
        "original_size": " at original size",
        "vote": " with vote",
        "episode_list": " on listed episodes",
    }
    protocol = rules["name"] + "".join(words for option, words in options.items() if rules.get(option))
    besides = f" and {rules['unlabeled']} unlabeled" if rules.get("unlabeled") else ""
    title = f"{setting_label(result)}, {protocol}, {result['shots']}-shot{besides}"
    classes = {
        (one["fold"], row["name"]): row["name"] in one["absent_classes"]
        for one in (result, *others)
        for row in one["per_class"]
    }
    absent = sum(classes.values())
    return f"{title}, without {absent} of {len(classes)} classes" if absent else title


def by_class_area(rules: dict[str, Any]) -> bool:
    """Whether queries are filtered by the area of their own class: older records of `pfenet` do not say, and were."""
    return bool(rules.get("class_area", rules["name"] == "pfenet"))


def area_words(rules: dict[str, Any]) -> str:
    """What `pfenet` admits, in words."""
    area = f"at least {rules['min_area']:,} px in the mask as stored"
    if by_class_area(rules):
        return f"classes of {area}"
    return f"queries: every class of the fold in an image where one of them has {area}; supports: classes of that size"


def setting_label(result: dict[str, Any]) -> str:
    """Names a result's data in print: PASCAL-5i only for its full test set under a protocol's own rules.

    Any other set of PASCAL images is named by its list: the file's name and the hash of its image names.
    """
    dataset = result["dataset"]
    if dataset["name"] != "pascal":
        return f"{dataset['name']} dataset `{result['config']['data']['root']}`"
    if _is_pascal_test_set(dataset):
        return PASCAL_5I if _by_published_rules(result) else "PASCAL-5i test images under other rules"
    return f"PASCAL list `{dataset['list']}` (`{dataset['names_hash'][:12]}`)"


def setting_sentence(result: dict[str, Any]) -> str:
    """Protocol, episodes, filters and data in one sentence."""
    rules, dataset = result["protocol"], result["dataset"]
    seeds = ", ".join(map(str, result["seeds"]))
    if "episode_list" in rules:
        which = f"those of `{rules['episode_list']}`, whatever the protocol would have drawn"
    elif rules["name"] == "pfenet":
        which = area_words(rules)
    else:
        which = f"{rules['min_area_of']}; queries: {rules['query_order']}"
    how = f"{which}; scored at the original size"
    if rules.get("unlabeled"):
        how += f"; {rules['unlabeled']} {rules['unlabeled_used']}"
    if rules["name"] != "pfenet":
        how = f"{which}; {rules['resize']}; scored at {rules['scored_at']}"
        how += f"; shots: {rules['k_shot']}" if result["shots"] > 1 else ""
    return (
        f"Protocol `{rules['name']}`: {result['episodes']:,} episodes{_run_by(result)} for each of the seeds {seeds}; "
        f"{how}; "
        f"{dataset['images']:,} images (`{dataset['list']}`, dataset hash `{dataset['hash'][:12]}`)."
    )


def _run_by(result: dict[str, Any]) -> str:
    """Whose N it is, on a published dataset under `pfenet`; empty where it is nobody's."""
    dataset = result["dataset"]["name"]
    if dataset == "pascal" and not _is_pascal_test_set(result["dataset"]):
        return ""
    names = [name for name, counts in NAMED_EPISODES.items() if counts.get(dataset) == result["episodes"]]
    return f" (as {_RUN_BY[names[0]]})" if names and result["protocol"]["name"] == "pfenet" else ""


def _is_pascal_test_set(dataset: dict[str, Any]) -> bool:
    """Whether the images are all 1,449 of VOC val, at their own size (median of the longer side 500 px)."""
    ids = (files("rifenet.data") / "lists" / "pascal_val.txt").read_text(encoding="utf-8").split()
    whole = dataset["images"] == _PASCAL_TEST_IMAGES and dataset["names_hash"] == names_hash(ids)
    return whole and dataset["bad_files"] == 0 and dataset["median_sides"][1] == 500


def _by_published_rules(result: dict[str, Any]) -> bool:
    rules = result["protocol"]
    published = _PUBLISHED_RULES[rules["name"]]
    known = {"class_area": by_class_area(rules), **rules}
    own = all(known.get(name) == value for name, value in published.items()) and "episode_list" not in rules
    return own and result["episodes"] >= _PUBLISHED_EPISODES
