"""The study folder: atomic writes, and finished runs found again by id.

runs/<study>/
  study.yaml               resolved
  declarations.json        what was declared before the first confirmation run, and its SHA-256
  data/<key>/              prepared examples: data.json, train.parquet, valid.parquet, test.parquet, general.parquet
  runs/<run-id>/           spec.json, steps.jsonl, scores.parquet, log.txt, weights/, record.json (written last)
  best/<arm>/              the deliverable
  report.html  report.json  figures/
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tunewise.errors import StudyError
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import RunSpec, StudySpec, canonical_json
from tunewise.study_file import parse_study

RECORD = "record.json"
DECLARATIONS = "declarations.json"
RUN_FILES = ("spec.json", "steps.jsonl", "scores.parquet", "forgetting.parquet")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either all of it or what it held before, also after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder`, in a fixed order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


class Ledger:
    """One study folder. Reading never needs torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """The ledger of an existing study. Raises StudyError where `folder` holds none."""
        if not (folder / "study.yaml").is_file():
            raise StudyError(
                f"no study in {folder}: it has no study.yaml. `tunewise list` shows the studies there are."
            )
        return cls(folder)

    def create(self) -> None:
        """Make the folder, ready to be written. Raises StudyError where that is not allowed."""
        try:
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "runs" / ".writable", "")
        except OSError as error:
            raise StudyError(
                f"cannot write the study folder {self.folder}: {error.strerror}. Choose another with --out."
            ) from error

    def store_study(self, study: StudySpec) -> None:
        """Write study.yaml, every default written out."""
        write_atomically(self.folder / "study.yaml", yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))

    def declared(self) -> dict[str, Any] | None:
        """What was declared before the first confirmation run; None: nothing. Raises StudyError if it was altered."""
        path = self.folder / DECLARATIONS
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            is_sound = stored["sha256"] == _text_hash(canonical_json(stored["declared"]))
        except (ValueError, KeyError, TypeError):
            is_sound = False
        if not is_sound:
            raise StudyError(
                f"{path} is not what this study declared. Put it back, or choose another folder with --out."
            )
        declared: dict[str, Any] = stored["declared"]
        return declared

    def declare(self, declared: Mapping[str, Any]) -> None:
        """Store what is declared, with its hash."""
        content = {"sha256": _text_hash(canonical_json(declared)), "declared": declared}
        write_atomically(self.folder / DECLARATIONS, json.dumps(content, indent=1))

    def require_space(self, num_bytes: int) -> None:
        """Raises StudyError where the disk has less than `num_bytes` left."""
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes:
            raise StudyError(
                f"not enough disk space for {self.folder}: {free / 2**20:,.0f} MiB free, about "
                f"{num_bytes / 2**20:,.0f} MiB needed. Free some, set `keep: none`, or choose another with --out."
            )

    def study(self) -> StudySpec:
        """The resolved study as stored."""
        path = self.folder / "study.yaml"
        return parse_study(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))

    # --- prepared data

    def data_folder(self, key: str) -> Path:
        """Where the prepared examples with this key are, or will be."""
        return self.folder / "data" / key

    def data_summary(self) -> DataSummary:
        """The summary of the data that the newest records used. Raises StudyError where nothing was prepared."""
        found = sorted((self.folder / "data").glob("*/data.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise StudyError(f"{self.folder} holds no prepared data yet. Run `tunewise compare` on its study file.")
        return DataSummary.model_validate_json(found[-1].read_text(encoding="utf-8"))

    # --- runs

    def run_folder(self, run_id: str) -> Path:
        """The folder of one run, which may not exist yet."""
        return self.folder / "runs" / run_id

    def scores_path(self, run_id: str) -> Path:
        """The per-example scores of one run (schema: records.SCORES_SCHEMA)."""
        return self.run_folder(run_id) / "scores.parquet"

    def forgetting_path(self, run_id: str) -> Path:
        """Learning against forgetting while one run trained (schema: records.FORGETTING_SCHEMA); it may not exist."""
        return self.run_folder(run_id) / "forgetting.parquet"

    def begin(self, spec: RunSpec) -> Path:
        """An empty folder for a run that starts now, its spec inside; leftovers of a broken start are removed."""
        folder = self.run_folder(spec.run_id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_atomically(folder / "spec.json", spec.model_dump_json(indent=2))
        return folder

    def record(self, run_id: str) -> RunRecord | None:
        """The record of a finished run, None if there is none. Raises StudyError if its files changed since."""
        path = self.run_folder(run_id) / RECORD
        if not path.is_file():
            return None
        try:
            record = RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise StudyError(
                f"{path} is damaged or of another version. Delete {path.parent} to run it again."
            ) from error
        for name, expected in record.files.items():
            file = path.parent / name
            if not file.is_file() or file_hash(file) != expected:
                raise StudyError(f"{file} is not what the run wrote. Delete {path.parent} to run it again.")
        return record

    def records(self) -> list[RunRecord]:
        """All finished runs, in the order of their ids. Raises StudyError if one is damaged."""
        ids = sorted(path.parent.name for path in (self.folder / "runs").glob(f"*/{RECORD}"))
        return [record for run_id in ids if (record := self.record(run_id))]

    def steps(self, run_id: str) -> list[dict[str, float]]:
        """The optimizer steps of one run as they were logged; empty for runs that train nothing."""
        path = self.run_folder(run_id) / "steps.jsonl"
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def finish(self, record: RunRecord) -> None:
        """Store a record, which makes its run done: hashes first, record.json last."""
        folder = self.run_folder(record.run_id)
        weights = folder / "weights"
        files = {name: file_hash(folder / name) for name in RUN_FILES if (folder / name).is_file()}
        saved = {str(p.relative_to(weights)): file_hash(p) for p in files_below(weights)}
        complete = record.replace(files=files, weights=saved)
        write_atomically(folder / RECORD, complete.model_dump_json(indent=1))

    # --- deliverables

    def best_folder(self, arm: str) -> Path:
        """The deliverable of one arm."""
        return self.folder / "best" / arm

    def promote(self, arm: str, run_id: str, keep_in_run: bool) -> None:
        """Make the weights of `run_id` the deliverable of `arm`, if they still lie in the run's folder."""
        weights, best = self.run_folder(run_id) / "weights", self.best_folder(arm)
        if not weights.is_dir():
            return
        shutil.rmtree(best, ignore_errors=True)
        best.parent.mkdir(exist_ok=True)
        if keep_in_run:
            shutil.copytree(weights, best)
        else:
            weights.replace(best)

    def drop_weights(self, run_id: str) -> None:
        """Delete the weights of a run that is not the deliverable."""
        shutil.rmtree(self.run_folder(run_id) / "weights", ignore_errors=True)


def find_studies(root: Path) -> list[Path]:
    """Every study folder directly below `root`."""
    return sorted(path.parent for path in root.glob("*/study.yaml"))
