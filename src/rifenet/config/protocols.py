"""What each evaluation protocol fixes, as far as the configuration has to know it (protocols.md 3)."""

from __future__ import annotations

from typing import NamedTuple


class ProtocolDefaults(NamedTuple):
    """The values that a protocol takes where the user names none."""

    seeds: tuple[int, ...]
    """One run of N episodes for each."""
    image_size: int | None
    """Side of the network's input in pixels; None: the model's own."""
    filters_by_area: bool
    """Whether `data.min_area` holds; else one pixel of a class is enough."""
    episodes: dict[str, int]
    """N for the datasets that have another than 1,000."""


PROTOCOLS = {
    "pfenet": ProtocolDefaults(seeds=(0, 1, 2, 3, 4), image_size=None, filters_by_area=True, episodes={"coco": 5000}),
    "hsnet": ProtocolDefaults(seeds=(0,), image_size=400, filters_by_area=False, episodes={}),
}
"""Name -> what it fixes."""
EPISODES = 1000


def default_episodes(protocol: str, dataset: str) -> int:
    """N of a protocol on a kind of dataset."""
    return PROTOCOLS[protocol].episodes.get(dataset, EPISODES)
