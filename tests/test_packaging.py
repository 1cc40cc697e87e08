"""The files around the package agree with each other, and the wheel carries what it should."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import rifenet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = ROOT / "src" / "rifenet"


def requirements(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines if not line.startswith("rifenet[")]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in pairs}


def test_one_version_everywhere() -> None:
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert rifenet.__version__ == version
    assert citation["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_what_the_tests_run_on() -> None:
    pinned = pins()
    tested = PROJECT["optional-dependencies"].keys() - {"hub"}  # its tests stand in for the library
    for requirement in requirements(*tested):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pinned, f"constraints.txt has no line for {name}"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{requirement} against {pinned[name]}"


def test_notices_name_every_run_time_dependency() -> None:
    notices = (ROOT / "THIRD_PARTY_NOTICES").read_text(encoding="utf-8")
    user_extras = PROJECT["optional-dependencies"].keys() - {"dev", "docs"}
    missing = [
        each.name for each in requirements(*user_extras) if not re.search(rf"\s{re.escape(each.name)}\s", notices)
    ]
    assert missing == []


@pytest.mark.slow
def test_wheel_carries_the_package_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    carried = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    in_tree = {
        path.relative_to(PACKAGE.parent)
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = Path(f"rifenet-{PROJECT['version']}.dist-info")
    assert {path for path in carried if path.parts[0] == "rifenet"} == in_tree
    assert {path for path in carried if path.parts[0] != "rifenet"} == {
        *(info / name for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")),
        *(info / "licenses" / name for name in ("LICENSE", "THIRD_PARTY_NOTICES")),
    }
    kinds = {path.suffix for path in in_tree} | {path.name for path in in_tree}
    assert {".py", ".txt", ".jpg", ".png", ".safetensors", "py.typed"} <= kinds
