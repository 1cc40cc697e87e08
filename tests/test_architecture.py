"""The layout is the design: who may import whom, what loads torch, and how many rooms there are.

Every module of the package needs a row in `MAY_IMPORT`. Rows and their entries are module names below `rifenet`, with
`*` for any rest; `__init__` is the package itself. A row says what may be imported at all; `LAZILY` adds what may be
imported only inside a function or under TYPE_CHECKING. `__version__` and `IGNORE` are free for all.
"""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "rifenet"
MOST_ROOMS = 21  # packages and modules at the package's root
MOST_FLOORS = 10  # rooms in the longest chain of imports

LIGHT = (
    *("config", "data", "data.class_names", "data.folds", "data.transforms"),
    *("drawing", "drawing.*", "examples", "examples.*", "formats", "formats.*"),
)  # none of these loads torch
FORMATS = ("formats", "formats.*")
DRAWING = ("drawing", "drawing.*")
SCIENTIFIC = ("formats.paged_files", "formats.stacks", "formats.geotiff", "formats.video")
DATA = ("data", "data.*")
PAPER = (
    *("models.activation", "models.attention", "models.auxiliary", "models.backbones", "models.backbones.*"),
    *("models.head", "models.interaction", "models.kernels", "models.masks", "models.matching", "models.prior"),
    *("models.prototypes", "models.resize", "models.rifenet", "models.structures"),
)  # the method's own parts, and the baseline's matching
RIVALS = ("models.rivals", "models.rivals.*")  # heads of other papers
MODELS = ("models", *PAPER, "models.baseline", "models.beyond", "models.beyond.*", *RIVALS, "models.build")
MODEL_FILES = ("models.files", "models.files.*")
ENGINES = ("engines", "engines.*")
SEGMENTING = ("segmenting", "segmenting.*", *FORMATS, "data.transforms", "engines", *DRAWING, "files", "metrics")
PRODUCT = (*SEGMENTING, *ENGINES, *MODELS, *MODEL_FILES, "config")  # what is built over the product may use

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "__init__": ("segmenting.segmenter", "models.files.hub"),
    "__main__": ("cli.main",),
    # The ground floor. `config` speaks for the files it is made of.
    "config": ("config.*",),
    "config.*": ("config.*",),
    "files": (),
    "metrics": (),
    "drawing": (),
    "drawing.*": ("drawing.*",),
    "examples": (),
    "examples.*": (),
    # Files of other programs, and datasets.
    "formats": (),
    "formats.*": ("formats.*", "files", *DRAWING),
    **dict.fromkeys(SCIENTIFIC, ("formats.*", "files", "config")),  # the extras that they need
    "data": (),
    "data.*": (*FORMATS, "data.*", "config", "files"),
    # Models: the paper's parts know nothing of what goes beyond it; the builder knows all.
    "models": (*PAPER, "models.baseline", "models.build"),
    **dict.fromkeys(PAPER, ("config", *PAPER)),
    "models.baseline": ("config", *PAPER),
    "models.beyond": (),
    "models.beyond.*": ("config", *PAPER, "models.beyond.*"),
    "models.rivals": (),
    "models.rivals.*": ("config", *PAPER, "models.rivals.*"),
    "models.build": ("config", *PAPER, "models.baseline", "models.beyond.*", "models.rivals.*"),
    "models.files": (),
    "models.files.*": ("config", "files", *MODELS, *MODEL_FILES),
    "models.files.over_backbone": (
        "config",
        *MODELS,
        *MODEL_FILES,
        "examples.*",
        "formats.pictures",
        "data.transforms",
    ),
    # The product.
    "engines": (),
    "engines.allocator": (),
    "engines.device": (),
    "engines.garbage": (),
    "engines.onnx": ("config", "engines", "files", "data.transforms", *FORMATS, *DRAWING),
    "engines.torch": ("engines", "engines.device", *MODELS, *MODEL_FILES),
    "engines.load": ("engines", "engines.garbage"),
    "segmenting": (),
    "segmenting.*": SEGMENTING,
    "segmenting.instances": (*SEGMENTING, "config"),  # the extra that it needs
    # Programs over it.
    "advice": ("advice.*", "segmenting.*", *FORMATS),
    "advice.*": ("advice.*", *SEGMENTING),
    "export": ("export.*",),
    "export.*": (*PRODUCT, "examples.*", "export.*"),
    "evaluation": ("evaluation.*",),
    "evaluation.*": ("config", *DATA, *SEGMENTING, *MODELS, "models.files.checkpoint", "evaluation.*"),
    "server": ("server.*",),
    "server.*": (*PRODUCT, "advice", "advice.*", "server.*"),
    "training": ("training.*",),
    "training.*": ("config", *DATA, *PRODUCT, "evaluation", "evaluation.*", "training.*"),
    "bench": ("bench.*",),
    "bench.*": (*PRODUCT, "bench.*"),
    # Other programs: they import these, nothing of the package does.
    "integrations": (),
    "integrations.*": (*PRODUCT, "integrations.*"),
    # Commands: what they run is imported inside the function that runs it, so that --help is quick.
    "cli": (),
    "cli.*": ("cli", "cli.*", *LIGHT),
}
LAZILY: dict[str, tuple[str, ...]] = {
    "segmenting.segmenter": ENGINES,
    "engines.load": ("engines.onnx", "engines.torch"),
    "bench.*": ("training.*", "evaluation.provenance"),  # the training step, and what machine it ran on
    "cli.*": ("*",),
}
ONLY_AT_FUNCTION_LEVEL = ("__init__", "models")  # whatever these import, they import lazily
LIMITED_NAMES = {
    (tuple(name for name in PAPER if not name.startswith("models.backbones")), "config"): {"NetworkConfig"},
    (("models.backbones", "models.rivals.*"), "config"): {"NetworkConfig"},
    (("models.backbones.*",), "config"): {"needs", "from_outside", "is_outside"},  # an extra, and code from outside
    (("models.baseline", "models.beyond.*"), "config"): {"ModelConfig"},
    (("models.build",), "config"): {
        "ModelConfig",
        "ANY_BACKBONE",
        "BACKBONES",
        "from_outside",
        "is_outside",
    },
}  # of these modules, only these names

NAMED_AFTER_ANOTHER = ("cli.*",)  # a command's file has the command's name, which is often that of what it runs

NO_TORCH_AT_ALL = (
    *LIGHT,
    *("config.*", "metrics", "segmenting", "segmenting.*", "advice", "advice.*", "engines.onnx", "engines.load"),
)
TORCH_FREE = (
    *NO_TORCH_AT_ALL,
    *(
        "__init__",
        "__main__",
        "engines",
        "models",
        "models.files",
        "models.files.header",
        "models.files.hub",
        "cli",
        "cli.*",
    ),
)  # importing them does not load it
FABRIC = ("training.*", "evaluation.*", "cli.train", "cli.evaluate")
MAY_IMPORT_BY_NAME = (
    "__init__",
    "models",
    "cli.main",
    "config.outside",
)  # may hand a string to importlib.import_module

BASE = {"torch", "numpy", "PIL", "safetensors", "rich"}
EXTRAS = {
    "fastapi": ("server.*",),
    "ijson": ("server.*",),
    "uvicorn": ("server.*",),
    "starlette": ("server.*",),
    "pydantic": ("server.*",),
    "lightning_fabric": ("*",),  # has a rule of its own, FABRIC
    "jsonargparse": (),
    "yaml": (),
    "filelock": ("training.features", "evaluation.ablation"),
    "matplotlib": (),
    "markdown_it": ("evaluation.page",),
    "onnx": ("export.*",),
    "onnxscript": ("export.*",),
    "onnxruntime": ("export.*",),
    "pycocotools": (),
    "scipy": (),
    "tifffile": (),
    "imagecodecs": (),
    "zarr": (),
    "rasterio": (),
    "fiona": (),
    "av": (),
    "skimage": (),
    "huggingface_hub": (),
    "transformers": (),
    "tensorboard": (),
    "ray": (),
    "fsspec": (),
    "pyarrow": (),
    "wandb": (),
    "cvat_sdk": (),
    "fiftyone": (),
    "napari": (),
    "qtpy": (),
}  # extra -> modules that may import it at module level; all others only inside the function that uses it


class Import(NamedTuple):
    """The module something comes from, the name taken of it ("" for the module), and whether it waits for a call."""

    module: str
    name: str
    lazy: bool


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def row_of(module: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """The exact row, else the longest pattern that fits."""
    fitting = sorted(
        (key for key in table if fnmatch.fnmatchcase(module, key)), key=lambda key: (key == module, len(key))
    )
    return table[fitting[-1]] if fitting else None


def nodes(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below `tree`, and whether it runs only when a function is called or a type checker reads it."""
    for child in ast.iter_child_nodes(tree):
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = True
        yield child, inside
        yield from nodes(child, inside)


def imports(source: str, module: str, is_package: bool) -> list[Import]:
    found = []
    for node, lazy in nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "", lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                here = ["rifenet", *(module.split(".") if module != "__init__" else [])]
                up = node.level - is_package
                origin = ".".join([*here[: len(here) - up], *([origin] if origin else [])])
            found += [Import(origin, alias.name, lazy) for alias in node.names]
    return found


def own_imports(source: str, module: str, modules: Mapping[str, str], is_package: bool = False) -> list[Import]:
    """Imports of the package, as names below `rifenet`: `from rifenet.models import prior` counts as `models.prior`."""
    found = []
    for origin, name, lazy in imports(source, module, is_package):
        if origin.split(".")[0] != "rifenet" or (origin, name) in (("rifenet", "__version__"), ("rifenet", "IGNORE")):
            continue
        below = origin.removeprefix("rifenet").removeprefix(".")
        submodule = f"{below}.{name}".strip(".")
        if name and submodule in modules:
            found.append(Import(submodule, "", lazy))
        else:
            found.append(Import(below or "__init__", name, lazy))
    return found


def violations(modules: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """What breaks the table, one sentence each; `modules` maps names to sources."""
    broken = []
    for module, source in modules.items():
        row = row_of(module, MAY_IMPORT)
        if row is None:
            broken.append(f"{module} has no row in MAY_IMPORT: add it to the table.")
            continue
        lazily = row_of(module, LAZILY) or ()
        for target, name, lazy in own_imports(source, module, modules, module in packages):
            if not matches(target, row) and not (lazy and matches(target, lazily)):
                broken.append(
                    f"{module} imports {target}{'' if lazy else ' at module level'}, which its row does not allow."
                )
            elif module in ONLY_AT_FUNCTION_LEVEL and not lazy:
                broken.append(f"{module} imports {target} at module level; it may only inside a function.")
            for (where, origin), names in LIMITED_NAMES.items():
                if target == origin and matches(module, where) and name not in names:
                    broken.append(f"{module} takes {name or 'everything'} of {origin}; it may take {', '.join(names)}.")
    return broken


def third_party_violations(modules: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    broken = []
    for module, source in modules.items():
        for origin, _, lazy in imports(source, module, module in packages):
            top = origin.split(".")[0]
            if top in sys.stdlib_module_names or top == "rifenet":
                continue
            if top == "torch" and matches(module, NO_TORCH_AT_ALL):
                broken.append(f"{module} imports torch; it must work without.")
            if top == "lightning_fabric" and not matches(module, FABRIC):
                broken.append(f"{module} imports lightning_fabric; only {', '.join(FABRIC)} may.")
            if top in EXTRAS and not lazy and not matches(module, EXTRAS[top]):
                broken.append(f"{module} imports the extra {top} at module level.")
            if top not in BASE and top not in EXTRAS:
                broken.append(f"{module} imports {top}, which is no dependency.")
    return broken


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
PACKAGES = frozenset(name for name, path in FILES.items() if path.name == "__init__.py")


def test_the_walk_finds_the_package() -> None:
    assert {"config", "training.losses", "models.rifenet"} <= SOURCES.keys()


def test_imports_follow_the_table() -> None:
    assert "\n".join(violations(SOURCES, PACKAGES)) == ""


def test_third_parties_are_declared_and_loaded_where_they_belong() -> None:
    assert "\n".join(third_party_violations(SOURCES, PACKAGES)) == ""


def test_no_import_cycles() -> None:
    edges = {
        module: {target for target, *_ in own_imports(source, module, SOURCES, module in PACKAGES)}
        for module, source in SOURCES.items()
    }
    graphlib.TopologicalSorter(edges).prepare()  # raises CycleError, which names the cycle


def test_only_the_dispatchers_import_by_name() -> None:
    calls = {
        module
        for module, source in SOURCES.items()
        for node, _ in nodes(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr == "import_module")
        or (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
    }
    assert calls <= set(MAY_IMPORT_BY_NAME)


def room_of(module: str) -> str:
    return module.split(".")[0]


ROOMS = {
    room: {
        room_of(target)
        for module, source in SOURCES.items()
        if room_of(module) == room
        for target, *_ in own_imports(source, module, SOURCES, module in PACKAGES)
        if room_of(target) != room
    }
    for room in {room_of(module) for module in SOURCES}
}


def test_rooms_are_few_and_no_arrow_runs_up() -> None:
    """The root holds at most 21 rooms; they stand on at most 10 floors, each importing only lower ones."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert len(ROOMS.keys() | folders) <= MOST_ROOMS
    floors: dict[str, int] = {}
    for room in graphlib.TopologicalSorter(ROOMS).static_order():  # raises CycleError, which names the cycle
        floors[room] = 1 + max((floors[below] for below in ROOMS[room]), default=0)
    assert max(floors.values()) <= MOST_FLOORS, floors


def test_the_papers_network_stands_by_itself() -> None:
    """Nothing that is not in the paper is in `models/rifenet.py`, nor in what that is made of."""
    backbone_or_fast = ("models.backbones*", "models.kernels")  # of any method; fast forms of equations said elsewhere
    made_of, todo = set(), ["models.rifenet"]
    while todo:
        module = todo.pop()
        made_of.add(module)
        targets = {target for target, *_ in own_imports(SOURCES[module], module, SOURCES, module in PACKAGES)}
        todo += sorted(targets - made_of - {"config"} - {name for name in targets if matches(name, backbone_or_fast)})
    assert {"models.prior", "models.prototypes", "models.attention", "models.auxiliary"} <= made_of
    for module in (*made_of, "config.network"):
        assert re.findall(r"evidence|threshold|views", SOURCES[module], re.IGNORECASE) == [], module
    imported = {target for target, *_ in own_imports(SOURCES["models.rifenet"], "models.rifenet", SOURCES)}
    files = {"models.rifenet", *imported} - {"config"}
    assert sum(len(SOURCES[module].splitlines()) for module in files) < 1100


def test_the_root_holds_no_loose_module() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "files", "metrics"}


def shared_names(modules: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """Names that two modules, or a public class and anything else at the top of a module, have in common."""
    files: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for module, source in modules.items():
        if module not in packages and not matches(module, NAMED_AFTER_ANOTHER):
            files.setdefault(module.split(".")[-1], []).append(module)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(module)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    others.setdefault(ast.unparse(target), []).append(module)
    homes = {name: [*found, *others.get(name, [])] for name, found in classes.items() if not name.startswith("_")}
    return [
        f"{name} is in {' and '.join(found)}: give one another name."
        for name, found in [*files.items(), *homes.items()]
        if len(found) > 1
    ]


def test_two_things_never_share_a_name() -> None:
    assert "\n".join(shared_names(SOURCES, PACKAGES)) == ""


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        ({"data.shots": "", "advice.shots": ""}, "shots"),
        ({"data.a": "class Job:\n    pass", "advice.b": "class Job:\n    pass"}, "Job"),
        ({"data.a": "class Source:\n    pass", "advice.b": "Source = str | int"}, "Source"),
    ],
)
def test_a_shared_name_is_found(modules: Mapping[str, str], name: str) -> None:
    (sentence,) = shared_names(modules)
    assert sentence.startswith(f"{name} is in ")


def test_functions_are_kept_simple_not_files_short() -> None:
    """What a reader must hold in mind is a function's paths and statements; ruff limits both, in `make lint`."""
    lint = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert {"C901", "PLR0912", "PLR0915"} <= set(lint["select"])
    assert lint["mccabe"]["max-complexity"] <= 10
    assert lint["pylint"]["max-branches"] <= 12
    assert lint["pylint"]["max-statements"] <= 50
    silenced = [module for module, source in SOURCES.items() if re.search(r"noqa:.*(C901|PLR09)", source)]
    assert silenced == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("metrics", "from rifenet.config import TrainConfig", "metrics imports config at module level"),
        ("metrics", "def f():\n    import rifenet.config", "metrics imports config,"),
        ("models.head", "from .beyond import evidence", "models.head imports models.beyond.evidence at module level"),
        ("models.rifenet", "from rifenet.config import Config", "takes Config of config"),
        ("models.rifenet", "from ..training.losses import dice", "models.rifenet imports training.losses"),
        ("data.index", "from rifenet.segmenting import segmenter", "data.index imports segmenting.segmenter"),
        (
            "segmenting.segmenter",
            "from rifenet.engines.torch import TorchEngine",
            "segmenting.segmenter imports engines.torch at module level",
        ),
        ("segmenting.segmenter", "from rifenet import load_model", "segmenting.segmenter imports __init__"),
        ("evaluation.protocol", "from rifenet.cli import main", "evaluation.protocol imports cli.main"),
        (
            "cli.segment",
            "from rifenet.segmenting.segmenter import Segmenter",
            "cli.segment imports segmenting.segmenter at",
        ),
        ("__init__", "from rifenet.segmenting.segmenter import Segmenter", "only inside a function"),
        ("utils", "", "utils has no row"),
        ("models.utils", "", "models.utils has no row"),
    ],
)
def test_the_table_complains(module: str, source: str, complaint: str) -> None:
    others = dict.fromkeys(
        ("models.beyond.evidence", "training.losses", "cli.main", "segmenting.segmenter", "engines.torch"), ""
    )
    (sentence,) = violations({**others, module: source})
    assert complaint in sentence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("segmenting.segmenter", "def from_pretrained():\n    from rifenet.engines.torch import TorchEngine"),
        ("segmenting.segmenter", "from rifenet import __version__"),
        (
            "engines.torch",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rifenet.engines import Engine",
        ),
        (
            "cli.train",
            "from rifenet.config import Config\ndef main(argv):\n    from rifenet.training.loop import train",
        ),
        ("models.backbones.resnet", "from .base import Backbone"),
        ("models.rifenet", "from rifenet.config import NetworkConfig\nfrom rifenet.models import prior"),
    ],
)
def test_the_table_allows(module: str, source: str) -> None:
    assert violations({"models.prior": "", "models.backbones.base": "", module: source}) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("drawing.visualize", "def f():\n    import torch.nn", "imports torch; it must work without"),
        ("metrics", "from lightning_fabric import Fabric", "imports lightning_fabric; only"),
        ("data.sources", "from scipy.io import loadmat", "extra scipy at module level"),
        ("data.transforms", "import cv2", "cv2, which is no dependency"),
    ],
)
def test_third_party_rules_complain(module: str, source: str, complaint: str) -> None:
    (sentence,) = third_party_violations({module: source})
    assert complaint in sentence


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_import_and_help_do_not_load_torch() -> None:
    done = run_python(
        "import runpy, sys\n"
        "import rifenet\n"
        "assert rifenet.__version__\n"
        "assert 'torch' not in sys.modules, 'import rifenet loads torch'\n"
        "sys.argv = ['rifenet', '--help']\n"
        "try:\n"
        "    runpy.run_module('rifenet', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as exit:\n"
        "    assert not exit.code, exit.code\n"
        "assert 'torch' not in sys.modules, 'rifenet --help loads torch'\n"
    )
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout


def test_the_segmenter_starts_with_few_modules() -> None:
    """Loading it takes a fifth of what torch takes; modules are counted, since seconds vary."""
    done = run_python(
        "import sys\n"
        "before = set(sys.modules)\n"
        "import rifenet.segmenting.segmenter\n"
        "new = set(sys.modules) - before\n"
        "paths = {name: getattr(sys.modules[name], '__file__', None) or '' for name in new}\n"
        "outside = {name.split('.')[0] for name, path in paths.items() if 'site-packages' in path}\n"
        "print(len(new), *sorted(outside - {'rifenet', '_distutils_hack'}))\n"
    )
    assert done.returncode == 0, done.stderr
    count, *outside = done.stdout.split()
    assert outside == ["PIL", "numpy", "safetensors"]
    assert int(count) <= 400  # torch alone loads 900


def test_no_commands_help_loads_torch() -> None:
    done = run_python(
        "import sys\n"
        "from rifenet.cli.main import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    assert main([command, '--help']) == 0, command\n"
        "    assert 'torch' not in sys.modules, f'rifenet {command} --help loads torch'\n"
    )
    assert done.returncode == 0, done.stderr


def test_light_modules_do_not_load_torch() -> None:
    light = [f"rifenet.{name}" for name in SOURCES if matches(name, TORCH_FREE) and not name.startswith("__")]
    done = run_python(
        "import importlib, sys\n"
        f"for name in {light}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} loads torch'\n"
    )
    assert done.returncode == 0, done.stderr
