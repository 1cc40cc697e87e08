"""The notebook's table of campaigns, from their records.

    python -m campaigns.table docs/results/campaigns

`tests/test_tables.py` compares docs/lab/campaigns.md with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def main() -> None:
    """Prints the table of a folder."""
    print("\n".join(table(Path(sys.argv[1]))))


def table(folder: Path) -> list[str]:
    """A row for each campaign whose record is in `folder`."""
    lines = ["| campaign | commit | what was done | found |", "|---|---|---|---|"]
    for name, words in ROWS.items():
        file = folder / f"{name}.json"
        if file.is_file():
            record = json.loads(file.read_text(encoding="utf-8"))
            done, found = words(record)
            lines.append(f"| {name} | `{record['commit'][:7]}` | {done} | {found} |")
    return lines


def mutants(files: Sequence[Path]) -> list[str]:
    """Killed and drawn mutants of each package: a row for each, a column for each record of `scripts/mutants.py`."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    names = list(records[0]["packages"])
    titles = [f"draw {record['seed']}, commit `{record['commit'][:7]}`" for record in records]
    lines = [f"| package | {' | '.join(titles)} |", "|---" * (len(records) + 1) + "|"]
    for name in names:
        cells = [f"{each['killed']} of {each['drawn']}" for each in (record["packages"][name] for record in records)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    sums = [
        [sum(each[part] for each in record["packages"].values()) for part in ("killed", "drawn")] for record in records
    ]
    return [*lines, f"| all | {' | '.join(f'{killed} of {drawn}' for killed, drawn in sums)} |"]


def _files(record: Record) -> tuple[str, str]:
    slowest = f"the slowest took {record['slowest seconds']} s"
    return f"{record['files']:,} damaged files of {record['kinds']} kinds", f"{_faults(record)}; {slowest}"


def _kills(record: Record) -> tuple[str, str]:
    jobs = ", ".join(record["of each job"])
    return f"{record['kills']} times kill -9 over {jobs}", _faults(record)


def _disk(record: Record) -> tuple[str, str]:
    return f"{record['trials']} trials over {', '.join(record['of each job'])}", _faults(record)


def _crowd(record: Record) -> tuple[str, str]:
    median, most, longest = record["health ms, median, 99 of 100, longest"]
    beside = record.get("the same of a server that does nothing else")
    slow = sum(record["health over 100 ms, during"].values())
    checks = record["statuses"]["health 200"]
    growth = record["memory growth"]
    waits = record["longest wait beyond the median client's, s"]
    found = [
        f"{sum(record['failures'].values())} failures",
        f"longest wait {waits} s beyond the median client's",
        f"health {median} ms in the median and {most} ms for 99 of 100",
        f"{slow} of {checks:,} checks over 100 ms, the longest {longest:,} ms"
        + (f" ({beside[1]} and {beside[2]:,} ms of a server that does nothing else)" if beside else ""),
        f"peak of memory {growth['of the peak']:+.1%}, its median {growth['of the median']:+.1%}",
    ]
    if missed := record.get("missed bars"):
        found.append(f"missed: {', '.join(missed)}")
    done = f"{record['minutes']:g} minutes, {record['requests']:,} requests of 8 clients and attackers"
    return done, "; ".join(found)


def _digits(record: Record) -> tuple[str, str]:
    ways = f"the same scores in {len(record['differences'])} ways"
    return ways, f"largest difference {record['largest difference']:.2g} points, of {record['tolerance']} allowed"


def _faults(record: Record) -> str:
    return f"{record['faults']} fault{'' if record['faults'] == 1 else 's'}"


ROWS: dict[str, Callable[[Record], tuple[str, str]]] = {
    "files": _files,
    "kills": _kills,
    "disk": _disk,
    "crowd": _crowd,
    "digits": _digits,
}


if __name__ == "__main__":
    main()
