"""Which photos are worked on together, and which of these blocks are done, at `--out`.

    OUT/plan.parquet          the photos of each block, written before the work begins
    OUT/table/BLOCK.parquet   a row for each photo of the block; written last

A block is done once its part of the table is there. The files at OUT are the only memory: no process keeps what another
would need. A block that two workers did is there once all the same, because both write the same files.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rifenet.integrations.places import FoundPhoto, Place

if TYPE_CHECKING:
    import pyarrow

PLAN = "plan.parquet"
TABLE = "table"
_KEYS = ["photo", "bytes", "stamp"]
_READERS = 16  # threads that wait for the object store


class BlockPlan:
    """The blocks of a run. Each photo has a number and is in one block; neither number is ever given again."""

    def __init__(self, place: Place, size: int) -> None:
        """`size`: photos of a block."""
        self.place = place
        self.size = size
        self.blocks: dict[int, list[tuple[int, FoundPhoto]]] = {}
        """Number -> the block's photos with their numbers."""
        self._next_block = self._next_photo = 0

    def settle(self, found: Iterable[FoundPhoto]) -> set[int]:
        """Plans for the photos that are there now, each once, and returns the numbers of the blocks that are done.

        A block whose photos are all there as they were stays as it is. A block that lost or changed a photo is void:
        its part of the table is removed, and what is left of it goes into new blocks with the new photos.
        """
        import pyarrow

        there = pyarrow.Table.from_pylist([photo._asdict() for photo in found], _schema()).group_by("photo")
        there = there.aggregate([("bytes", "max"), ("stamp", "max")]).rename_columns(_KEYS)
        before = self._planned()
        done = self._parts()
        self._next_block = 1 + max([-1, *done, *before["block"].to_pylist()])
        self._next_photo = 1 + max([-1, *before["number"].to_pylist()])
        gone = before.join(there, _KEYS, join_type="left anti")
        void = set(gone["block"].to_pylist())
        kept = before.filter(pyarrow.compute.invert(_among(before["block"], void)))
        self.blocks = _grouped(kept)
        self._add(sorted(FoundPhoto(**row) for row in there.join(kept, _KEYS, join_type="left anti").to_pylist()))
        self._write()
        for block in done - self.blocks.keys():
            self.place.remove(part_name(block))
        return done & self.blocks.keys()

    def split(self, block: int) -> list[int]:
        """Puts each photo of a block into a block of its own, and returns their numbers."""
        photos = [photo for _, photo in self.blocks.pop(block)]
        first = self._next_block
        self._add(photos, 1)
        self._write()
        return list(range(first, self._next_block))

    def _add(self, photos: Sequence[FoundPhoto], size: int | None = None) -> None:
        size = size or self.size
        for start in range(0, len(photos), size):
            part = photos[start : start + size]
            self.blocks[self._next_block] = list(enumerate(part, self._next_photo))
            self._next_block += 1
            self._next_photo += len(part)

    def _planned(self) -> pyarrow.Table:
        import pyarrow
        from pyarrow import parquet

        data = self.place.read(PLAN)
        schema = _schema(numbered=True)
        return schema.empty_table() if data is None else parquet.read_table(pyarrow.BufferReader(data), schema=schema)

    def _write(self) -> None:
        rows = ((block, number, *photo) for block, photos in self.blocks.items() for number, photo in photos)
        columns: Any = tuple(zip(*rows, strict=True)) or ([], [], [], [], [])
        names = ["block", "number", *_KEYS]
        self.place.write(PLAN, encoded_table(dict(zip(names, columns, strict=True)), _schema(numbered=True)))

    def _parts(self) -> set[int]:
        return {int(name.removesuffix(".parquet")) for name in self.place.names(TABLE) if name.endswith(".parquet")}


def part_name(block: int, folder: str = TABLE, suffix: str = "parquet") -> str:
    """Name of the block's file in a folder of parts."""
    return f"{folder}/{block:08d}.{suffix}"


def failed_of(place: Place, blocks: Iterable[int]) -> tuple[dict[str, str], set[int]]:
    """Photos that could not be read, with the reason, of blocks that are done; and the blocks that are not whole.

    An interrupted copy of a folder, for one, leaves parts of files.
    """
    import pyarrow
    from pyarrow import parquet

    def failed_in(block: int) -> dict[str, str] | None:
        try:
            data = pyarrow.BufferReader(place.read(part_name(block)) or b"")
            table = parquet.read_table(data, columns=["photo", "error"])
        except pyarrow.ArrowInvalid:
            return None
        return {row["photo"]: row["error"] for row in table.to_pylist() if row["error"] is not None}

    failed: dict[str, str] = {}
    broken: set[int] = set()
    blocks = list(blocks)
    with ThreadPoolExecutor(_READERS) as readers:
        for block, reasons in zip(blocks, readers.map(failed_in, blocks), strict=True):
            if reasons is None:
                broken.add(block)
            else:
                failed |= reasons
    return failed, broken


def encoded_table(columns: Mapping[str, Sequence[Any]], schema: pyarrow.Schema) -> bytes:
    """A Parquet file."""
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(columns), schema), buffer, compression="zstd")
    return buffer.getvalue()


def _schema(*, numbered: bool = False) -> pyarrow.Schema:
    import pyarrow

    fields = [("photo", pyarrow.string()), ("bytes", pyarrow.int64()), ("stamp", pyarrow.string())]
    return pyarrow.schema([("block", pyarrow.int64()), ("number", pyarrow.int64()), *fields] if numbered else fields)


def _among(column: Any, values: set[int]) -> Any:
    import pyarrow
    from pyarrow import compute

    return compute.is_in(column, pyarrow.array(sorted(values), pyarrow.int64()))


def _grouped(table: pyarrow.Table) -> dict[int, list[tuple[int, FoundPhoto]]]:
    blocks: dict[int, list[tuple[int, FoundPhoto]]] = {}
    for row in table.to_pylist():
        photo = FoundPhoto(row["photo"], row["bytes"], row["stamp"])
        blocks.setdefault(row["block"], []).append((row["number"], photo))
    return {block: sorted(blocks[block]) for block in sorted(blocks)}
