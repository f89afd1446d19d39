"""Compare two study folders bit for bit; only times and memory may differ.

PYTHONPATH=src python scripts/compare_studies.py runs/before runs/after

Compares run ids, records, scores, forgetting, spectra, optimizer steps, saved weights and report.json. Prints every
difference and exits with 1 if there is one. Use it after a code change that should not change results. Run the same
study before and after the change, on one machine with `machine.threads: 1`.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Keys of values that differ in every run.
MEASURED = re.compile(
    r"seconds|memory|peak|above_start|tokens_per_second|others_share|^started$|^ended$|^planned$|^sha256$"
)
# Numbers with a unit of time, size or speed, in sentences.
MEASURED_IN_TEXT = re.compile(r"(about )?[\d.,]+\s?(ms|s|min|h|d|days?|KiB|MiB|GiB|kB|MB|GB|tokens/s|x|%)(?!\w)")
MEASURED_FINDINGS = {"busy-machine"}
BY_BYTES = ("scores.parquet", "forgetting.parquet", "spectrum.parquet")
SHOWN = 20  # differences printed per file


def differences(before: Path, after: Path) -> Iterator[str]:
    """Yield one line for every difference between two study folders."""
    runs = {folder: {path.parent.name for path in folder.glob("runs/*/record.json")} for folder in (before, after)}
    yield from (f"only in {before}: run {run}" for run in sorted(runs[before] - runs[after]))
    yield from (f"only in {after}: run {run}" for run in sorted(runs[after] - runs[before]))
    for run in sorted(runs[before] & runs[after]):
        place = Path("runs") / run
        yield from _of_json(before, after, place / "record.json")
        yield from _of_steps(before, after, place / "steps.jsonl")
        for name in BY_BYTES:
            yield from _of_bytes(before, after, place / name)
        yield from _of_weights(before, after, place / "weights")
    yield from _of_weights(before, after, Path("best"))
    yield from _of_json(before, after, Path("report.json"))


def _of_json(before: Path, after: Path, name: Path) -> Iterator[str]:
    one, other = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (before, after))
    found = list(_between(without_measures(one), without_measures(other), ""))
    yield from (f"{name}{line}" for line in found[:SHOWN])
    if len(found) > SHOWN:
        yield f"{name}: {len(found) - SHOWN} more differences"


def _of_steps(before: Path, after: Path, name: Path) -> Iterator[str]:
    if not (before / name).exists() and not (after / name).exists():
        return
    one, other = (
        [without_measures(json.loads(line)) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for folder in (before, after)
    )
    if one != other:
        first = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        yield f"{name}: differs from step {first + 1} on"


def _of_bytes(before: Path, after: Path, name: Path) -> Iterator[str]:
    one, other = (_hash(folder / name) for folder in (before, after))
    if one != other:
        yield f"{name}: other bytes"


def _of_weights(before: Path, after: Path, place: Path) -> Iterator[str]:
    names = {path.relative_to(folder) for folder in (before, after) for path in (folder / place).rglob("*.safetensors")}
    for name in sorted(names):
        yield from _of_bytes(before, after, name)


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def without_measures(value: Any) -> Any:
    """The value without measured times and memory, and without hashes of files that contain them."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not MEASURED.search(k)}
        if isinstance(kept.get("files"), dict):
            kept["files"] = {k: v for k, v in kept["files"].items() if k in BY_BYTES}
        return {k: without_measures(v) for k, v in kept.items()}
    if isinstance(value, list):
        items = [v for v in value if not (isinstance(v, dict) and v.get("id") in MEASURED_FINDINGS)]
        return [without_measures(v) for v in items]
    return MEASURED_IN_TEXT.sub("#", value) if isinstance(value, str) else value


def _between(one: Any, other: Any, place: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key not in one or key not in other:
                yield f"{place}.{key}: only {'after' if key in other else 'before'}"
            else:
                yield from _between(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _between(a, b, f"{place}[{index}]")
    elif one != other:
        yield f"{place}: {str(one)[:80]!r} became {str(other)[:80]!r}"


def main() -> None:
    """Compare, print, and exit with 1 if the folders differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    asked = parser.parse_args()
    num_runs = len(list(asked.before.glob("runs/*/record.json")))
    found = list(differences(asked.before, asked.after))
    print("\n".join(found) or f"the same study: {num_runs} runs, except for times and memory")
    sys.exit(bool(found) or not num_runs)


if __name__ == "__main__":
    main()
