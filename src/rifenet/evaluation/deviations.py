"""Where scoring knowingly differs from the codes that published figures come from (protocols.md 7).

Every result file lists those that apply to it. What each changes was measured by `benchmarks/rules.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Deviation(NamedTuple):
    """One rule of ours and the published one."""

    name: str
    protocol: str
    here: str
    published: str
    only_with: str = ""
    """Where it applies: "class_area", "several shots", "one pass" of several shots, a kind of dataset, "absent class"
    that the mean leaves out; empty: always."""

    def __str__(self) -> str:
        return f"{self.name}: {self.here}; published: {self.published}"


DEVIATIONS = (
    Deviation(
        "query order",
        "pfenet",
        "every class of the fold in every admitted image, in list order",
        "every admitted image in list order, and one class of the fold in it, drawn at random",
    ),
    Deviation(
        "resize",
        "pfenet",
        "the longer side to the image size, ratio kept, pixel centres on pixel centres",
        "both sides cut to multiples of 8 and read back as if they were not, up to 7 px off",
    ),
    Deviation(
        "padding",
        "pfenet",
        "of the mean colour, and no position of it is compared with any other",
        "black",
    ),
    Deviation(
        "area of the class",
        "pfenet",
        "a query's own class covers the smallest area",
        "some class of the fold in the query's image covers it",
        only_with="class_area",
    ),
    Deviation(
        "shots",
        "hsnet",
        "one pass over all shots",
        "each shot alone, and a vote (--vote)",
        only_with="one pass",
    ),
    Deviation(
        "supports",
        "hsnet",
        "all different",
        "an image may be drawn again",
        only_with="several shots",
    ),
    Deviation(
        "masks",
        "hsnet",
        "shrunk by the pixel nearest to each position, and an object between positions keeps a pixel",
        "shrunk by the pixel at or before each position (floor)",
    ),
    Deviation(
        "test pairs",
        "hsnet",
        "every pair of an image and a class in it",
        "lists of 346, 451, 725 and 346 pairs of the four folds",
        only_with="pascal",
    ),
    *(
        Deviation(name, protocol, here, published, only_with)
        for name, here, published, only_with in (
            (
                "overlaps",
                "where outlines overlap, the smaller object lies on top, and crowds are ignored",
                "mask files with one class a pixel, by an order that is not published",
                "coco",
            ),
            (
                "folds",
                "classes of at least two test photos, in the order of their ids, whatever the shots",
                "classes of more test photos than shots, in an order that is not published",
                "lvis",
            ),
            (
                "folds",
                "parts that the training json shows, of any size, in the order of their ids",
                "448 parts in an order that is not published, without those of minimal area",
                "paco_part",
            ),
            ("absent class", "named, and left out of the mean", "counts as 0 (--absent-as-zero)", "absent class"),
        )
        for protocol in ("pfenet", "hsnet")
    ),
)


def deviations(protocol: str, circumstances: set[str]) -> list[str]:
    """The deviations of a protocol that apply under these `circumstances` (`Deviation.only_with`), in words."""
    return [
        str(one)
        for one in DEVIATIONS
        if one.protocol == protocol and (not one.only_with or one.only_with in circumstances)
    ]
