"""Defaults of the evaluation protocols (protocols.md 3)."""

from __future__ import annotations

from typing import NamedTuple


class ProtocolDefaults(NamedTuple):
    """Values of a protocol for options that the user leaves out."""

    seeds: tuple[int, ...]
    """Each seed is one run of N episodes."""
    image_size: int | None
    """Side of the network's input in pixels; None: the model's own."""
    filters_by_area: bool
    """True: an image shows a class from `data.min_area` pixels on. False: one pixel is enough."""
    episodes: dict[str, int | None]
    """N of the datasets for which it is not 1,000; None: each query once."""


_TARGETS = ("deepglobe", "isic", "chest_xray")
_OF_HSNET: dict[str, int | None] = {
    "lvis": 2300,
    "paco_part": 2500,
    "pascal_part": None,
    **dict.fromkeys(_TARGETS, 600),
}
PROTOCOLS = {
    "pfenet": ProtocolDefaults(
        seeds=(0, 1, 2, 3, 4),
        image_size=None,
        filters_by_area=True,
        episodes={"coco": 5000, "fss1000": None, **dict.fromkeys(_OF_HSNET)},
    ),
    "hsnet": ProtocolDefaults(
        seeds=(0,), image_size=400, filters_by_area=False, episodes={"fss1000": None, **_OF_HSNET}
    ),
}
"""Defaults by name of the protocol."""
CLASS_DRAWS = {"coco": "uniform", "paco_part": "uniform", **dict.fromkeys(("lvis", "pascal_part", *_TARGETS), "turn")}
"""Datasets on which `hsnet` draws one of the class's images as the query: of a class drawn uniformly, or of each class
in turn. On others it goes through the pairs of an image and a class."""
AT_MOST = {"pascal_part": 2500}
"""Datasets on which `hsnet` runs one episode for each pair of a photo and a class, but no more than so many."""
EPISODES = 1000
NAMED_EPISODES = {
    "rifenet": {"pascal": 1000, "coco": 5000},
    "pfenet_script": {"pascal": 5000, "coco": 20000},
}
"""N by name: as the RiFeNet paper states, and as PFENet's own test script runs."""


def default_episodes(protocol: str, dataset: str) -> int | None:
    """N, the number of episodes of a protocol on a kind of dataset; None: each query once."""
    return PROTOCOLS[protocol].episodes.get(dataset, EPISODES)


def named_episodes(name: str, dataset: str) -> int:
    """N of `NAMED_EPISODES`. Raises ValueError for an unknown name, or a dataset for which the name has no N."""
    found = NAMED_EPISODES.get(name, {}).get(dataset)
    if found is None:
        raise ValueError(
            f"Expected a number of episodes, or for pascal and coco one of {', '.join(NAMED_EPISODES)}, but got {name} "
            f"for {dataset}. Give the number."
        )
    return found
