"""A study so small that it runs hundreds of times, every moment at which it could die, and what must come out of it."""

import hashlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lab_fixtures import small_model
from laws.small_studies import SPLITS, executor_here, rows_of
from tunewise.commands import compare as driver
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.views.view import Report
from tunewise.spec import StudySpec
from tunewise.storage import disk
from tunewise.storage.files import file_hash, files_below
from tunewise.storage.ledger import Ledger

# Measured, or about how a run was interrupted: no two runs agree in them.
OF_RECORD = {"usage", "environment", "files"}
OF_REPORT = re.compile(r".*_seconds|.*_per_second|.*peak.*_bytes|.*to_quality|seconds|environment")
FINDINGS = ("runs-continued", "busy-machine", "timed-runs-overlapped", "times-not-comparable")


def chaos_study(root: Path) -> StudySpec:
    """Two arms, one seed, three steps a run, on forty rows and a model of two layers; its inputs lie in `root`."""
    files = {split: str(root / f"{split}.jsonl") for split in SPLITS}
    for split, (first, last) in SPLITS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows_of("sft")[first:last])
        Path(files[split]).write_text(text, encoding="utf-8")
    small_model("llama", root / "model")
    return StudySpec.model_validate(
        {
            "name": "chaos",
            "model": str(root / "model"),
            "data": files,
            "arms": {
                "full": {"method": "full", "learning_rate": 1e-3},
                "lora": {"method": "lora", "rank": 2, "learning_rate": 1e-2, "dropout": 0.2},
            },
            "train": {"max_steps": 3, "batch_size": 4, "evaluations": 2},
            "tuning": {"rates": 1, "cap": 1},
            "looks": [1],
            "forgetting": {"tokens": 60, "points": 1},
            "samples": {"count": 1, "max_new_tokens": 2},
            "machine": {"device": "cpu", "precision": "fp32", "threads": 1, "checkpoint_seconds": 0},
        }
    )


def finish(study: StudySpec, folder: Path, report: Callable[[Ledger], Report] = write_report) -> None:
    """What the command does, in this process: begin or continue the study, to its report."""
    with patch.object(driver, "LocalExecutor", executor_here), patch("tunewise.commands.report.write_report", report):
        driver.compare(study, folder)


def write_report_alone(ledger: Ledger) -> Report:
    """The report's data; most of the time that a study of three steps takes goes into its page and figures."""
    report = build_report(ledger)
    disk.sweep(ledger.folder.glob("report.*"))  # as the real one does: of a command that died
    disk.write_atomically(ledger.folder / "report.json", report.model_dump_json())
    return report


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished study leaves, measured time and memory and the name of its folder apart."""
    ledger = Ledger(folder)
    found: dict[str, Any] = {}
    for record in ledger.records():
        steps = [
            {key: value for key, value in step.items() if key != "seconds"} for step in ledger.steps(record.run_id)
        ]
        found[record.run_id] = (record.model_dump(mode="json", exclude=OF_RECORD), steps)
    for path in files_below(folder):
        if path.suffix == ".kept":  # a study.yaml that was not as tunewise wrote it
            continue
        name = str(path.relative_to(folder))
        is_weights = name.startswith("best/") and path.suffix != ".md"
        found[name] = file_hash(path) if is_weights or path.suffix == ".parquet" else "is there"
    text = (folder / "report.json").read_text(encoding="utf-8").replace(str(folder), "FOLDER")
    report = without_measured(json.loads(text))
    del report["sha256"]  # of the text, with all that was measured
    return {**found, "report": {**report, "warnings": [w for w in report["warnings"] if w["id"] not in FINDINGS]}}


def made_alike(folder: Path) -> dict[str, Any]:
    """The outcome but for the report, which also shows who made the runs and what the plan measured."""
    return {name: found for name, found in outcome(folder).items() if name != "report"}


def without_measured(value: Any) -> Any:
    """Plain data of a report without the keys of what was measured, however deep."""
    if isinstance(value, dict):
        return {key: without_measured(inner) for key, inner in value.items() if not OF_REPORT.fullmatch(key)}
    return [without_measured(inner) for inner in value] if isinstance(value, list) else value


# --- every moment at which it could die

LITTER = re.compile(r"\.[0-9a-f]{16}\.tmp\b")  # the end of a temporary name, which nobody can foresee

Visit = Callable[[str], None]  # receives which operation, of which file


@contextmanager
def visited(visit: Visit) -> Iterator[None]:
    """Calls `visit` before every operation on the disk, and where half of one is done."""
    true = {name: getattr(disk, name) for name in ("fill", "sync", "rename", "remove", "append")}

    def fill(path: Path, write: Callable[[Path], object]) -> None:
        name = LITTER.sub(".tmp", path.name)
        visit(f"fill {name}")
        true["fill"](path, write)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        visit(f"half filled {name}")
        path.write_bytes(content)

    def remove(path: Path) -> None:
        visit(f"remove {LITTER.sub('.tmp', path.name)}")
        if path.is_dir() and (files := list(files_below(path))):
            files[0].unlink()
            visit(f"half removed {LITTER.sub('.tmp', path.name)}")
        true["remove"](path)

    def told(name: str) -> Callable[..., None]:
        def operation(first: Any, *more: Any) -> None:
            visit(f"{name} {LITTER.sub('.tmp', Path(first.name).name)}")
            true[name](first, *more)

        return operation

    simple = {name: told(name) for name in ("sync", "rename", "append")}
    with patch.multiple(disk, fill=fill, remove=remove, **simple):
        yield


class Deaths:
    """The folders that a study would leave if it were killed before, or in the middle of, each of its operations.

    What a process wrote and did not flush is not in them, as it is not after a kill -9.
    """

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place = folder, place
        self.left: dict[str, Path] = {}  # what was happening -> the folder, of those that differ
        self.num_points = 0
        self._known: set[str] = set()

    def visit(self, happening: str) -> None:
        """Keep a copy of the folder, if none like it is kept yet."""
        self.num_points += 1
        if (content := digest(self.folder)) not in self._known:
            self._known.add(content)
            copy = self.place / f"{self.num_points}"
            shutil.copytree(self.folder, copy)
            self.left[f"{self.num_points} {happening}"] = copy


def digest(folder: Path) -> str:
    """Of the names and bytes of all that is below a folder."""
    hashed = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        hashed.update(LITTER.sub(".tmp", str(path.relative_to(folder))).encode() + b"\0")
        if path.is_file():
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


def killed_after(seconds: float, study: StudySpec, folder: Path) -> bool:
    """True if a process that begins or continues the study was still at it after `seconds`, and died by SIGKILL."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            finish(study, folder)
            status = 0
        finally:
            os._exit(status)
    killer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    killer.start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    killer.cancel()
    killer.join()
    assert code in (0, -signal.SIGKILL), f"the study ended with exit status {code}"
    return code != 0
