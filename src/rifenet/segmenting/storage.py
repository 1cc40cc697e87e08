"""Saves learned classes as one safetensors file and reads them again.

The file holds what decoding needs and no photo. Its header carries a format version, the model's hash and a checksum.
`read_classes` uses them to refuse a foreign or damaged file and one of another model.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rifenet.engines import Context, Engine
from rifenet.files import misfit, parse_json, write_bytes
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.instances import ObjectShape, shapes_of
from rifenet.segmenting.shots import PseudoShot, Shots

FORMAT = "rifenet-classes"
VERSIONS = (1, 2, 3, 4)
"""1: no shifts; 2: shifts; 3: `model_hash` also covers threshold and calibration, `weights_hash` names the weights; 4:
fits. A file without fits has version 3, so that older programs read it."""
FIT = "fit."
"""Prefix of the arrays of a class's fit, after its number."""
_SHAPE = {
    **{"version": int, "model": str, "model_hash": str, "weights_hash?": str, "size": int},
    **{"classes": [str], "shots": [int], "shifts?": [float], "fits?": [(dict, None)], "shapes?": [[[float, float]]]},
    "checksum": str,
}
"""What `save_classes` writes into the header; the names that may be missing are those of earlier versions."""
PER_CLASS = ("classes", "shots", "shifts", "fits", "shapes")


@dataclass(frozen=True, eq=False)
class LearnedClass:
    """A class: its context from the engine, and its shots, which are None for a class from a file."""

    name: str
    shots: int
    context: Context
    inputs: Shots | None = None
    adopted: tuple[PseudoShot, ...] = ()
    """Photos without annotation that it adopted as further shots (`Segmenter.adapt`)."""
    shift: float = 0.0
    """Added to the log-odds of its confidence; undoes the rise in confidence that adopted photos cause."""
    fit: Fit | None = None
    """What learning chose for it; None for the network's own masks."""

    negatives: Shots | None = None
    """Photos that show none of it, whose masks are empty; None for none, and for a class from a file."""
    kept_shapes: tuple[ObjectShape, ...] = ()
    """For a class from a file, the shapes that the file holds; those of earlier versions hold none."""

    @property
    def presence_shift(self) -> float:
        """All that is added to the log-odds of its confidence."""
        return self.shift + (0.0 if self.fit is None else self.fit.shift)

    @cached_property
    def shapes(self) -> tuple[ObjectShape, ...]:
        """Shapes of the objects in its annotated shots."""
        return self.kept_shapes if self.inputs is None else shapes_of(self.inputs.masks)

    def memory(self) -> int:
        """Bytes of its arrays."""
        photos = (*(self.inputs or ()), *(self.negatives or ()))
        return sum(array.nbytes for array in (*self.context.values(), *photos, *_fit_arrays(self).values()))

    def annotated(self) -> Shots:
        """Its annotated shots. Raises ValueError for a class from a file."""
        if self.inputs is None:
            raise ValueError(
                f"Expected the photos of {self.name!r}, but it was loaded from a file, which holds none."
                " Forget it and learn it from all its photos."
            )
        return self.inputs


def save_classes(path: Path, classes: Sequence[LearnedClass], engine: Engine) -> None:
    """Writes classes for `read_classes`. Raises OSError on a full disk and keeps an older file."""
    write_bytes(path, classes_file(classes, engine))


def classes_file(classes: Sequence[LearnedClass], engine: Engine) -> bytes:
    """The content of a file of classes that `engine` learned."""
    tensors = _tensors_of(classes)
    shifts = [known.shift for known in classes]
    fits = [None if known.fit is None else known.fit.to_dict() for known in classes]
    fitted = any(fit is not None for fit in fits)
    header = {
        "version": VERSIONS[-1] if fitted else VERSIONS[-2],
        "model": engine.name,
        "model_hash": engine.hash,
        "weights_hash": engine.weights_hash,
        "size": engine.size,
        "classes": [known.name for known in classes],
        "shots": [known.shots for known in classes],
        "shifts": shifts,
        **({"fits": fits} if fitted else {}),
        "shapes": [known.shapes for known in classes],  # which readers of earlier versions leave alone
        "checksum": _checksum(tensors, shifts, fits if fitted else None),
    }
    return save(tensors, {FORMAT: json.dumps(header)})


def digest_of(classes: Sequence[LearnedClass], others: Mapping[str, Any]) -> str:
    """A text that differs where classes, or the values of `others`, do."""
    told = [[known.name, known.shift, None if known.fit is None else known.fit.to_dict()] for known in classes]
    return _checksum(_tensors_of(classes), [], [told, sorted(others.items())])


def _tensors_of(classes: Sequence[LearnedClass]) -> dict[str, NDArray[Any]]:
    return {
        f"{index}.{field}": np.ascontiguousarray(array)
        for index, known in enumerate(classes)
        for field, array in (known.context | _fit_arrays(known)).items()
    }


def read_classes(path: Path, engine: Engine) -> list[LearnedClass]:
    """Reads the classes of a file that fits `engine`.

    Raises FileNotFoundError, or ValueError for a damaged or foreign file and for one of another format or model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of learned classes at {path}, but there is none.")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(FORMAT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"Expected a file of learned classes, but {path} is damaged or something else: {error}."
        ) from error
    if text is None:
        raise ValueError(f"Expected learned classes, but {path} holds something else. Give a file from save_classes.")
    header = _header(path, text)
    _check_model(path, header, engine)
    shifts = header.get("shifts", [0.0] * len(header["classes"]))  # files of version 1 have none
    fits = header.get("fits")  # files of older versions, and those without fits, have none
    if header["checksum"] != _checksum(tensors, shifts, fits):
        raise ValueError(
            f"Expected {path} to be as it was saved, but its content has changed. Learn the classes again."
        )
    kept = _shapes_in(header, path), fits or [None] * len(shifts)
    rows = zip(header["classes"], header["shots"], shifts, *kept, strict=True)
    return [
        LearnedClass(
            name,
            shots,
            _context_of(index, tensors),
            shift=float(shift),
            fit=_fit_of(path, index, tensors, fit),
            kept_shapes=shapes,
        )
        for index, (name, shots, shift, shapes, fit) in enumerate(rows)
    ]


def _shapes_in(header: Mapping[str, Any], path: Path) -> list[tuple[ObjectShape, ...]]:
    """Shapes of each class's objects; none from a file of a version that did not keep them."""
    kept = header.get("shapes", [()] * len(header["classes"]))
    if not all(0 < number <= 1 for shapes in kept for shape in shapes for number in shape):
        raise ValueError(
            f"Expected area and solidity in (0,1] of each class's objects, but {path} holds something else. Learn the"
            " classes again."
        )
    return [tuple(ObjectShape(*map(float, shape)) for shape in shapes) for shapes in kept]


def _check_model(path: Path, header: Mapping[str, Any], engine: Engine) -> None:
    """Raises ValueError if another model made the file; warns if an older file records only the model's weights."""
    older = header["version"] < 3
    if (header["model_hash"], header["size"]) != (engine.weights_hash if older else engine.hash, engine.size):
        same = not older and header.get("weights_hash") == engine.weights_hash
        other = ", which has the same weights but another threshold, calibration or option" if same else ""
        raise ValueError(
            f"Expected classes learned with the model {engine.name} ({engine.hash}, {engine.size} px), but {path} was"
            f" made with {header['model']} ({header['model_hash']}, {header['size']} px){other}. Load that model, or"
            " learn the classes again."
        )
    if older:
        warnings.warn(
            f"{path} is from a version that did not record the model's threshold and calibration. It was read, because"
            f" its model had the weights of {engine.name}. Save it again to record the rest.",
            stacklevel=4,
        )


def _header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = parse_json(text, path)
        version = header["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected the header that save_classes writes, but {path} has another ({error!r})."
            " Learn the classes again."
        ) from error
    if version not in VERSIONS:
        raise ValueError(
            f"Expected learned classes of format {VERSIONS[-1]} at most, but {path} has format {version}."
            " Update rifenet, or learn the classes again."
        )
    wrong = misfit(header, _SHAPE, "the header")
    counts = {name: len(header[name]) for name in PER_CLASS if name in header} if not wrong else {}
    if len(set(counts.values())) > 1:
        wrong = f"as many of each, but got {', '.join(f'{count} {name}' for name, count in counts.items())}"
    if wrong:
        raise ValueError(
            f"Expected the header that save_classes writes, but {path} has another: expected {wrong}."
            " Learn the classes again."
        )
    return dict(header)


def _context_of(index: int, tensors: Mapping[str, NDArray[Any]]) -> Context:
    prefix = f"{index}."
    own = {
        name.removeprefix(prefix): array
        for name, array in tensors.items()
        if name.startswith(prefix) and not name.startswith(prefix + FIT)
    }
    # Files of versions 1 and 2 hold an empty array for each part that the network lacks.
    return {name: array for name, array in own.items() if array.size}


def _fit_arrays(known: LearnedClass) -> Context:
    """The arrays of the class's fit, by their names in a file."""
    return {} if known.fit is None else {f"{FIT}{name}": array for name, array in known.fit.arrays().items()}


def _fit_of(path: Path, index: int, tensors: Mapping[str, NDArray[Any]], values: Any) -> Fit | None:
    if values is None:
        return None
    prefix = f"{index}.{FIT}"
    arrays = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
    try:
        return Fit.restored(values, arrays)
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"Expected a fit as save_classes writes it, but {path} has another ({error}). Learn the classes again."
        ) from error


def _checksum(tensors: Mapping[str, NDArray[Any]], shifts: Sequence[float], fits: Any = None) -> str:
    digest = hashlib.sha256(str(shifts).encode() if any(shifts) else b"")
    if fits is not None:
        digest.update(json.dumps(fits).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def try_out(classes: Sequence[LearnedClass], engine: Engine, path: str) -> None:
    """Segments a grey picture by each class. Raises ValueError for a class that the engine cannot use."""
    size = engine.size
    features = engine.encode_query(np.full((1, 3, size, size), 0.5, np.float32), np.ones((1, size, size), bool))
    for known in classes:
        try:
            works = np.isfinite(engine.decode(features, known.context)).all()
        except Exception as error:  # libraries raise many kinds over names, shapes and types
            raise ValueError(f"Expected classes that {engine.name} can use, but {path} fails: {error}") from error
        if not works:
            raise ValueError(
                f"Expected numbers for {known.name!r} that give finite logits, but those of {path} do not. Learn it"
                " again."
            )
