"""Pictures are read alike with deuteranopia and protanopia, simulated after Machado, Oliveira and Fernandes (2009)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rifenet.drawing import plots, visualize

# Severity 1, on linear RGB; from the tables of the paper.
VISION = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)]
    ),
    "protanopia": np.array(
        [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)]
    ),
}
XYZ = np.array([(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)])
APART = 12.0  # CIE Lab; about five times what is just seen side by side


def lab(colours: NDArray[np.float64], vision: str) -> NDArray[np.float64]:
    """CIE Lab [N,3] of sRGB colours [N,3] in 0..255 as seen so."""
    share = np.asarray(colours, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = (linear @ VISION[vision].T).clip(0, 1) @ XYZ.T / (XYZ @ np.ones(3))
    f = np.where(seen > (6 / 29) ** 3, np.cbrt(seen), seen / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def closest(colours: NDArray[np.float64], vision: str) -> float:
    seen = lab(colours, vision)
    return float(np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(len(seen), 1)].min())


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize("vision", VISION)
def test_classes_and_lines_stay_apart(vision: str) -> None:
    assert closest(np.array(visualize.OKABE_ITO, float), vision) > APART
    assert closest(np.array([rgb(colour) for colour in plots.COLOURS], float), vision) > APART


def test_the_measure_sees_what_colour_blind_eyes_do_not() -> None:
    red_and_green = np.array([(214, 90, 60), (130, 140, 60)], float)
    assert closest(red_and_green, "usual") > 50
    assert closest(red_and_green, "deuteranopia") < APART


@pytest.mark.parametrize("vision", VISION)
def test_maps_rise_in_lightness(vision: str) -> None:
    levels = np.asarray(visualize.heat(np.linspace(0, 1, 101)[None]))[0]
    lightness = lab(levels, vision)[:, 0]
    assert (np.diff(lightness) > 0).all()
    assert lightness[-1] - lightness[0] > 70


def test_plots_and_masks_share_one_palette() -> None:
    assert {rgb(colour) for colour in plots.COLOURS} <= set(visualize.OKABE_ITO)
    dots = plots.reliability("Run", [plots.Bin(0, 0.1, 1, 0.05, 0.1)])
    used = {colour for colour in (plots.COLOURS) if colour in dots}
    assert used
