"""Episode lists as files, so that two programs can be scored on the same episodes (protocols.md 2).

The format is that of `episodes_to_json`: `episodes` holds all runs one after the other, and `seeds`, `protocol`, `fold`
and `shots` stand beside it. Only `format` and `episodes` are required. A list without `seeds` is one run of seed 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rifenet.config import Config
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, episodes_from_json, episodes_to_json
from rifenet.files import parse_json, write_text


class EpisodeList(NamedTuple):
    """Episodes of R runs, N each, with the list's name and seeds."""

    name: str
    """The file's name, for records."""
    seeds: tuple[int, ...]
    runs: tuple[tuple[Episode, ...], ...]

    @property
    def shots(self) -> int:
        """K of every episode."""
        return len(self.runs[0][0].supports)

    @property
    def unlabeled(self) -> int:
        """U: the most unlabeled images that an episode has."""
        return max(len(episode.unlabeled) for run in self.runs for episode in run)


def write_episodes(path: Path, index: ImageIndex, config: Config, runs: Sequence[Sequence[Episode]]) -> None:
    """Writes the runs, one for each of `config.eval.seeds`; a failed write leaves the previous file."""
    content = json.loads(episodes_to_json(index, [episode for run in runs for episode in run]))
    facts = {"protocol": config.eval.protocol, "fold": config.data.fold, "shots": config.data.shots}
    facts |= {"seeds": list(config.eval.seeds)}
    write_text(path, json.dumps({"format": content.pop("format"), **facts, **content}, indent=1) + "\n")


def read_episodes(path: Path, index: ImageIndex) -> EpisodeList:
    """Reads a list over images of `index`.

    Raises FileNotFoundError, or ValueError for a file of another format, for images or classes that the dataset lacks,
    and for episodes that break a rule: all images differ, and the query and every support show the class.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected an episode list at {path}, but there is none. Write one: --save-episodes.")
    text = path.read_text(encoding="utf-8", errors="replace")  # a binary file then fails as JSON
    try:
        episodes = episodes_from_json(index, text)
    except ValueError as error:
        raise ValueError(f"{error} The file is {path}.") from error
    seeds = parse_json(text, path).get("seeds", [0])
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds) or not seeds:
        raise ValueError(f"Expected seeds in {path} to be a list of whole numbers, but got {seeds!r}.")
    if not episodes or len(episodes) % len(seeds):
        raise ValueError(
            f"Expected the same number of episodes for each of the {len(seeds)} seeds in {path}, but got "
            f"{len(episodes)} in all. Correct seeds or episodes."
        )
    for number, episode in enumerate(episodes):
        _check(index, episode, len(episodes[0].supports), f"episode {number} of {path}")
    length = len(episodes) // len(seeds)
    runs = (tuple(episodes[start : start + length]) for start in range(0, len(episodes), length))
    return EpisodeList(path.name, tuple(seeds), tuple(runs))


def _check(index: ImageIndex, episode: Episode, shots: int, where: str) -> None:
    if len(episode.supports) != shots or not shots:
        raise ValueError(
            f"Expected all episodes to have the same number of supports, at least one, but {where} has "
            f"{len(episode.supports)}."
        )
    images = (episode.query, *episode.supports)
    if len({*images, *episode.unlabeled}) < len(images) + len(episode.unlabeled):
        raise ValueError(f"Expected different images as query, supports and unlabeled, but {where} repeats one.")
    for image in images:
        if index.records[image].areas.get(episode.class_id, 0) < 1:  # COCO's smallest outlines cover no pixel
            raise ValueError(
                f"Expected {index.class_name(episode.class_id)} in each image of {where}, but "
                f"{index.records[image].name} does not show it. Is the list from another dataset?"
            )
