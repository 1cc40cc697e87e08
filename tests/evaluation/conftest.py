from __future__ import annotations

from pathlib import Path

import pytest
from evaluation.scenes import mixed_scenes, open_scenes, write_dataset

from rifenet.data.index import ImageIndex


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    return open_scenes(write_dataset(tmp_path / "scenes", mixed_scenes()))
