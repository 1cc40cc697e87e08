"""Rendered datasets, and an index cache of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rendered import make_custom, make_voc


@pytest.fixture(scope="session", autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIFENET_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered VOC layout, for reading only."""
    return make_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def custom_root(tmp_path: Path) -> Path:
    """A small rendered custom dataset that a test may spoil."""
    return make_custom(tmp_path / "custom", class_names=("disc", "block", "roof"), per_class=3, mixed=1)
