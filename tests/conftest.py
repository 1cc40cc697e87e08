"""What all tests share: one thread each, and marked tests skipped with a sentence where they cannot run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Before torch and numpy load, and for the processes that tests start: `make test` runs several workers at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Sums over several threads may differ in the last bit. Tests that never load torch should not pay for it here.
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(int(os.environ.get("RIFENET_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small untrained model's file, and the folder of its export; made once a run, whatever the workers."""
    from filelock import FileLock
    from tiny_model import write_smallest_model

    from rifenet.engines.torch import TorchEngine
    from rifenet.export.folder import write_unchecked

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    model = root / "smallest.safetensors"
    with FileLock(f"{root}.lock"):
        if not model.exists():
            made = write_smallest_model(root / "made.safetensors", support_views=4, mask_threshold=0.4)
            write_unchecked(TorchEngine.load(made, device="cpu"), root / "folder")
            made.rename(model)  # last: it says that the folder is complete
    return model, root / "folder"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if marker := item.get_closest_marker("data"):
        name = marker.args[0] if marker.args else "RIFENET_VOC_MINI"
        if not os.environ.get(name):
            pytest.skip(f"Set {name} to the dataset's folder to run the tests on real data.")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("No CUDA device here.")

    if marker := item.get_closest_marker("partner"):
        name = marker.args[0]
        if os.environ.get("RIFENET_PARTNER") != name:
            pytest.skip(f"`make partner-{name}` runs the tests with {name} in an environment of their own.")


BROWSER = "Expected Chromium"  # how the reason of a skipped test of the page begins


def pytest_unconfigure(config: pytest.Config) -> None:
    """The very last line says, where nobody can overlook it, that the page was not tested."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = [report for report in reporter.stats.get("skipped", []) if BROWSER in str(report.longrepr)]
    if skipped:
        told = f"THE PAGE WAS NOT TESTED: {len(skipped)} tests need Chromium (Debian: apt-get install chromium)"
        reporter.write_line("")
        reporter.write_line(told, red=True, bold=True)
