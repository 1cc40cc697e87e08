"""A plain install segments; every other command says in one sentence what to install. Packages are hidden here."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rendered import make_coco, make_custom, make_voc

from rifenet.cli.main import COMMANDS, main
from rifenet.config import Config, MissingExtra, needs
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.examples.samples import load_examples
from rifenet.formats.pictures import load_mask
from rifenet.training.logging import _tensorboard, _wandb

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "docs" / "results" / "bundled" / "result-1shot.json"
SERVE = {"fastapi", "ijson", "uvicorn", "starlette", "pydantic", "multipart"}
OTHERS = {
    *("lightning_fabric", "jsonargparse", "yaml", "filelock", "scipy", "matplotlib", "markdown_it", "pycocotools"),
    *("tensorboard", "wandb", "huggingface_hub", "onnx", "onnxscript", "onnxruntime", "skimage", "transformers"),
    *("tifffile", "imagecodecs", "zarr", "rasterio", "fiona", "av", "cvat_sdk", "cvat_cli", "napari", "fiftyone"),
    *("ray", "fsspec", "pyarrow", "s3fs"),
}
MODULE_OF = {"pyyaml": "yaml", "lightning-fabric": "lightning_fabric", "markdown-it-py": "markdown_it"}
MODULE_OF |= {
    "python-multipart": "multipart",
    "scikit-image": "skimage",
    "cvat-sdk": "cvat_sdk",
    "cvat-cli": "cvat_cli",
}

HIDING = """
import sys
hidden = set(sys.argv.pop(1).split(","))

class Hider:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hider())
from rifenet.cli.main import COMMANDS, main
"""
RUN = HIDING + "sys.exit(main(sys.argv[1:]))"


def run(code: str, hidden: set[str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, ",".join(sorted(hidden)), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def hide(monkeypatch: pytest.MonkeyPatch, package: str, *again: str) -> None:
    """Makes `package` missing for imports to come; modules of ours whose names begin with `again` are loaded anew."""
    for name in [*sys.modules, package]:
        if name == package or name.startswith(f"{package}."):
            monkeypatch.setitem(sys.modules, name, None)
    anew = [name for name in sys.modules if name.startswith(again)] if again else []
    for name in anew:  # what they are called in their packages, which the import to come changes, too
        parent, _, own = name.rpartition(".")
        monkeypatch.setattr(sys.modules[parent], own, sys.modules[name])
    for name in anew:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shot(tmp_path: Path) -> list[str]:
    """A photo of an example class and its mask."""
    names, examples = load_examples()
    example = next(each for each in examples if each.support)
    mask = load_mask(example.mask) == names.index(example.classes[0]) + 1
    Image.fromarray(255 * mask.astype(np.uint8)).save(tmp_path / "mask.png")
    return [str(example.image), str(tmp_path / "mask.png")]


def test_what_is_hidden_here_is_all_that_the_extras_bring() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [line for extra in extras.keys() - {"dev", "docs"} for line in extras[extra]]
    names = {re.split(r"[\[<>=]", line)[0] for line in lines}
    assert {MODULE_OF.get(name, name) for name in names - {"rifenet"}} <= OTHERS | SERVE
    core = {re.split(r"[\[<>=]", line)[0] for line in project["dependencies"]}
    assert core == {"torch", "numpy", "pillow", "safetensors", "rich"}


def test_a_plain_install_segments_and_advises(shot: list[str], tmp_path: Path) -> None:
    support, photo = ["--support", "it", *shot], shot[0]
    code = HIDING + (
        "out, photo, *support = sys.argv[1:]\n"
        "assert main(['info']) == 0\n"
        "assert main(['segment', *support, '--query', photo, '--out', out]) == 0\n"
        "assert main(['advise', *support, '--query', photo]) == 0\n"
    )
    done = run(code, OTHERS | SERVE, str(tmp_path / "out"), photo, *support)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*.png"))


@pytest.mark.slow
def test_a_plain_install_runs_the_demo(tmp_path: Path) -> None:
    done = run(RUN, OTHERS | SERVE, "demo", "--out", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "report.html").is_file()


def test_the_server_needs_its_own_extra_only() -> None:
    others = OTHERS - {"skimage", "scipy"}  # the extra `serve` brings the extra `instances`
    command = [sys.executable, "-c", RUN, ",".join(sorted(others)), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        try:
            found = re.search(r"(http://\S+/)", server.stdout.readline())
            assert found
            with contextlib.closing(urllib.request.urlopen(f"{found[1]}api/health", timeout=30)) as answer:
                assert answer.status == 200
        finally:
            server.kill()


def test_every_commands_help_works_without_extras() -> None:
    code = HIDING + "for name in COMMANDS:\n    assert main([name, '--help']) == 0, name\n"
    done = run(code, OTHERS | SERVE)
    assert done.returncode == 0, done.stderr
    assert all(f"usage: rifenet {name}" in done.stdout for name in COMMANDS)
    assert "The options are not listed here" in done.stdout


@pytest.mark.parametrize(
    ("words", "package", "again", "requirement"),
    [
        (["train", "--config", "x.yaml"], "jsonargparse", (), "'rifenet[train]'"),
        (["train", "--data.root", "x"], "lightning_fabric", ("rifenet.training",), "'rifenet[train]'"),
        (["ablate", "--grid", "x.yaml"], "jsonargparse", (), "'rifenet[train]'"),
        (["bench", "--training"], "lightning_fabric", ("rifenet.training",), "'rifenet[train]'"),
        (["report", str(RESULT), "--out", "out.md"], "matplotlib", (), "'rifenet[report]'"),
        (["report", str(RESULT), "--html", "o.html"], "markdown_it", ("rifenet.evaluation.page",), "'rifenet[report]'"),
        (["serve"], "fastapi", ("rifenet.server",), "'rifenet[serve]'"),
        (["export", "--out", "out"], "onnx", ("rifenet.export",), "'rifenet[export]'"),
        (["info", "--model", "hf:owner/name"], "huggingface_hub", (), "'rifenet[hub]'"),
        (["info", "--model", "prototype", "--backbone", "./dinov2"], "transformers", (), "'rifenet[hf]'"),
    ],
)
def test_a_missing_package_is_one_sentence_and_1(
    words: list[str],
    package: str,
    again: tuple[str, ...],
    requirement: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    hide(monkeypatch, package, *again)
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f"rifenet {words[0]}: Expected the package {package}, but it is not installed. Run: pip install {requirement}\n"
    )


@pytest.mark.parametrize(
    ("package", "again", "words", "extra"),
    [
        ("tifffile", (), ["--support", "it", "scan.tif#0", "mask.png"], "tiff"),
        ("imagecodecs", (), ["--support", "it", "scan.tif#0", "mask.png"], "tiff"),
        ("zarr", (), ["--support", "it", "scan.tif#0", "mask.png"], "tiff"),
        ("av", (), ["--support", "it", "clip.mp4#0", "mask.png"], "video"),
        ("rasterio", (), ["--support", "it", "scan.tif", "labels.gpkg"], "geo"),
        (
            "skimage",
            ("rifenet.segmenting.instances",),
            ["--support", "it", "photo.png", "mask.png", "--clean"],
            "instances",
        ),
        ("pyarrow", ("rifenet.integrations.ray",), ["--support", "it", "photo.png", "mask.png", "--ray"], "ray"),
    ],
)
def test_a_file_or_option_that_needs_an_extra_is_one_sentence_and_1(
    package: str,
    again: tuple[str, ...],
    words: list[str],
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = np.full((40, 60, 3), 90, np.uint8)
    Image.fromarray(photo).save("photo.png")
    Image.fromarray(photo).save("scan.tif", save_all=True, append_images=[Image.fromarray(photo)])
    Image.fromarray((np.arange(2400) < 900).reshape(40, 60).astype(np.uint8)).save("mask.png")
    for name in ("clip.mp4", "labels.gpkg"):
        Path(name).write_bytes(b"never read")
    hide(monkeypatch, package, *again)
    assert main(["segment", *words, "--query", "photo.png", "--out", "out"]) == 1
    said = capsys.readouterr().err
    assert said == (
        f"rifenet segment: Expected the package {package}, but it is not installed."
        f" Run: pip install 'rifenet[{extra}]'\n"
    )


def test_importing_the_program_imports_no_extra() -> None:
    """Where all extras that `dev` has are installed, none of them is loaded."""
    code = (
        "import sys, rifenet, rifenet.segmenting.segmenter, rifenet.cli.main, rifenet.cli.segment\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"rifenet", "numpy", "PIL"} <= loaded
    assert not loaded & ((OTHERS | SERVE | {"torch"}) - {"filelock"})


def test_help_loads_no_reader_of_files() -> None:
    """Nor the options of training: `--help` is as quick as it was before there were stacks, scenes and videos."""
    code = (
        "import contextlib, io, sys\n"
        "from rifenet.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['segment', '--help'])\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    readers = {f"rifenet.formats.{name}" for name in ("geotiff", "stacks", "video", "paged_files", "cvat_files")}
    loaded = set(done.stdout.split())
    assert "rifenet.cli.segment" in loaded
    assert not loaded & {*readers, "rifenet.config", "rifenet.files", "xml.etree.ElementTree", "fractions"}


def test_evaluating_over_seeds_needs_training_s_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_custom(tmp_path / "photos")
    hide(monkeypatch, "scipy")
    words = [
        "evaluate",
        "--dataset",
        "custom",
        "--root",
        str(root),
        "--episodes",
        "1",
        "--some-classes",
        "--seeds",
        "0,1",
    ]
    assert main([*words, "--image-size", "65", "--min-area", "100", "--out", str(tmp_path / "r.json")]) == 1
    assert "scipy, but it is not installed. Run: pip install 'rifenet[train]'\n" in capsys.readouterr().err


def test_folds_of_ones_own_need_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_custom(tmp_path / "photos", folds={0: ["disc"], 1: ["gem"]})
    hide(monkeypatch, "yaml")
    assert main(["data", "index", "--dataset", "custom", "--root", str(root)]) == 1
    assert "yaml, but it is not installed. Run: pip install 'rifenet[train]'\n" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["pycocotools", "filelock"])
def test_coco_needs_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_coco(tmp_path / "coco", class_ids=(2, 3))
    hide(monkeypatch, package)
    assert main(["data", "index", "--dataset", "coco", "--root", str(root)]) == 1
    said = f"Expected the package {package}, but it is not installed. Run: pip install 'rifenet[coco]'\n"
    assert capsys.readouterr().err == f"rifenet data: {said}"


def test_sbd_needs_its_extra_and_no_photo_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    root = make_voc(tmp_path / "voc", per_class=1, mixed=0)
    (root / "cls").mkdir()
    for path in (root / "SegmentationClassAug").glob("*.png"):
        scipy_io.savemat(root / "cls" / f"{path.stem}.mat", {"GTcls": {"Segmentation": load_mask(path)}})
        path.unlink()
    (root / "SegmentationClassAug").rmdir()
    (root / "SegmentationClass").mkdir()

    def opened() -> ImageIndex:
        return open_dataset("pascal", root, list_file="ImageSets/Segmentation/train.txt")

    with monkeypatch.context() as patch:
        hide(patch, "scipy")
        words = ["data", "index", "--dataset", "pascal", "--root", str(root)]
        assert main([*words, "--list", "ImageSets/Segmentation/train.txt"]) == 1
        assert "scipy, but it is not installed. Run: pip install 'rifenet[sbd]'\n" in capsys.readouterr().err
    index = opened()  # once it is installed: nothing of before is in the cache
    assert (len(index), index.bad_files) == (10, ())


def test_tensorboard_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "tensorboard", "torch.utils.tensorboard")
    with pytest.raises(MissingExtra, match=r"tensorboard, .* pip install 'rifenet\[tensorboard\]'"):
        _tensorboard(tmp_path, 0)


def test_wandb_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "wandb")
    with pytest.raises(MissingExtra, match=r"wandb, .* pip install 'rifenet\[wandb\]'"):
        _wandb(tmp_path, Config())


def test_modules_of_our_own_are_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs("rifenet[train]"):
        import rifenet.nothing  # type: ignore[import-not-found]  # noqa: F401
