"""Find and read the runs of an arm in the files and folders that an option names.

A folder may come from a stranger: only regular files below it are read, and a link that leads out of it is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunewise.errors import DataError
from tunewise.inputs.logs import lm_eval
from tunewise.inputs.logs.log import RunLog, TaskLog
from tunewise.inputs.logs.rows import TABLES
from tunewise.inputs.logs.tables import read_table_runs
from tunewise.inputs.named_path import require_below
from tunewise.text.suggest import listed

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z")
MOST_DEPTH = 6  # folders below the named one
CHECKPOINT = re.compile(r"(?:checkpoint|step|epoch)[-_]?\d+", re.IGNORECASE)


def read_arm(
    paths: Sequence[Path], arm: str, metrics: Sequence[str], unit: str | None, lower_is_better: bool
) -> list[RunLog]:
    """The runs of an arm, in the order named. Raises DataError."""
    found: list[RunLog] = []
    for path in paths:
        for files in _runs_in(path):
            name = str(files[0].parent if lm_eval.SAMPLES.fullmatch(files[0].name) else files[0])
            if lm_eval.SAMPLES.fullmatch(files[0].name):
                read = [lm_eval.read_run(files, name, metrics, unit)]
            else:
                read = read_table_runs(files[0], arm, name, metrics, unit, lower_is_better)
            found += [_sharing(run, found[0]) if found else run for run in read]
    if len({run.name for run in found}) < len(found):
        twice = next(run.name for place, run in enumerate(found) if run.name in [of.name for of in found[:place]])
        raise DataError(f"{arm}: {twice} is named twice. Name every run once.")
    return with_labels(found, arm)


def _sharing(run: RunLog, first: RunLog) -> RunLog:
    """The run with the first one's ids, prompts and units where they are equal: a million hashes take 70 MB."""

    def shared(log: TaskLog, other: TaskLog | None) -> TaskLog:
        if other is None or not log.ids.equals(other.ids):
            return log
        same = {name: getattr(other, name) for name in ("prompts", "units") if _are_equal(log, other, name)}
        return replace(log, ids=other.ids, **same)

    return replace(run, tasks={name: shared(log, first.tasks.get(name)) for name, log in run.tasks.items()})


def _are_equal(log: TaskLog, other: TaskLog, name: str) -> bool:
    own, others = getattr(log, name), getattr(other, name)
    return own is not None and others is not None and bool(own.equals(others))


def _runs_in(path: Path) -> list[list[Path]]:
    """The files of every run at a path."""
    if path.is_file():
        return [[_readable(path)]]
    if not path.is_dir():
        raise DataError(f"no such file or folder: {path}. Give a log, or the folder that --output_path named.")
    runs = _below(path, path, 0)
    if runs:
        return runs
    names = listed(sorted(child.name for child in path.iterdir())) or "nothing"
    if any(child.suffix in ARCHIVES for child in path.iterdir()):
        raise DataError(f"{path} holds archives ({names}), which are not read. Unpack them first.")
    raise DataError(
        f"{path} holds no logs. It needs samples_*.jsonl of lm_eval --log_samples, or tables that end in "
        f"{', '.join(TABLES)}. It contains {names}."
    )


def _below(root: Path, folder: Path, depth: int) -> list[list[Path]]:
    children = sorted(folder.iterdir())
    samples = [require_below(root, child) for child in children if lm_eval.SAMPLES.fullmatch(child.name)]
    if samples:
        return [samples]
    tables = [[require_below(root, child)] for child in children if child.is_file() and child.suffix in TABLES]
    if tables or depth >= MOST_DEPTH:
        return tables
    folders = [require_below(root, child) for child in children if child.is_dir()]
    return [run for child in folders for run in _below(root, child, depth + 1)]


def _readable(path: Path) -> Path:
    if path.suffix in TABLES:
        return path
    if path.suffix in ARCHIVES:
        raise DataError(f"{path} is an archive, which is not read. Unpack it first.")
    if path.suffix == ".eval":
        raise DataError(f"{path} is a log of Inspect. Convert the log with examples/inspect_scores.py.")
    raise DataError(f"{path} is not a log. Allowed: files that end in {', '.join(TABLES)}.")


def with_labels(runs: list[RunLog], arm: str) -> list[RunLog]:
    """The runs with labels of their seeds: the numbers at the ends of the parts of their paths that differ.

    Raises DataError if these are checkpoints of one training: they are not independent.
    """
    if len(runs) < 2 or any(run.seed is not None for run in runs):
        return runs
    if of_training := _of_training(runs):
        return of_training
    parts = [Path(run.name).parts for run in runs]
    for places in zip(*parts, strict=False):
        if len(set(places)) < len(runs):
            continue
        if all(CHECKPOINT.fullmatch(part) for part in places):
            raise DataError(
                f"{arm}: {', '.join(places[:3])} are checkpoints of one training, which are not independent. Give one "
                "checkpoint of every training."
            )
        ends = [re.search(r"(\d+)$", Path(part).stem) for part in places]
        labels = [end[1] for end in ends if end]
        if len(set(labels)) == len(runs):
            return [replace(run, seed=label) for run, label in zip(runs, labels, strict=True)]
    return runs


def _of_training(runs: list[RunLog]) -> list[RunLog]:
    """The runs with the seeds that their trainers left; [] if one is not known, or two are equal."""
    seeds = [run.training.settings.get("seed") for run in runs]
    if None in seeds or len(set(seeds)) < len(runs):
        return []
    return [replace(run, seed=seed) for run, seed in zip(runs, seeds, strict=True)]
