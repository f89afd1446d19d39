"""The study folder: atomic writes, finished runs by id.

runs/<study>/
  study.yaml               resolved
  declarations.json        what was declared before the first confirmation run, and its SHA-256
  data/<key>/              prepared examples: data.json, train.parquet, valid.parquet, test.parquet, general.parquet,
                           and their hashes in sha256.json (written last);
                           plan-<hash>.json: what the runs were expected to need
  runs/<run-id>/           spec.json, steps.jsonl, scores.parquet, log.txt, weights/, record.json (written last);
                           checkpoint/ and lease.json while it runs
  best/<arm>/              the deliverable
  report.html  report.json  figures/
  sets/<name>/  sets.html  sets.json    of several datasets: a study folder for each, and the report on their mean
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tunewise.errors import StudyError, clause
from tunewise.records import LOST, DataSummary, RunRecord
from tunewise.records.plan import StudyPlan, plan_key
from tunewise.spec import ARM_NAME, RunSpec, StudySpec, canonical_json
from tunewise.spec.reading import parse_study
from tunewise.storage.disk import (
    TEMPORARY,
    create,
    delete,
    hide_like,
    make_folder,
    move,
    rename,
    require_space,
    set_modes,
    sweep,
    sync_all,
    temporary_name,
    write_atomically,
    write_with,
)
from tunewise.storage.files import file_hash, files_below, in_folders, is_there, read_text, reraise_as_study_error
from tunewise.storage.gate import has_results, require_free, require_inside, require_key, require_no_links
from tunewise.storage.lease import LEASE, Lease, take
from tunewise.storage.seal import (
    CARD,
    DATA_HASHES,
    SEAL,
    but_card,
    data_is_whole,
    holds,
    sealed,
    text_hash,
    unsealed,
)
from tunewise.text.plain_yaml import YamlError, load_yaml

STUDY = "study.yaml"
RECORD = "record.json"
DECLARATIONS = "declarations.json"
CHECKPOINT = "checkpoint"
TO_CONTINUE = (CHECKPOINT, "steps.jsonl", "log.txt")  # files with which an interrupted run resumes
RUN_FILES = ("spec.json", "steps.jsonl", "scores.parquet", "forgetting.parquet", "spectrum.parquet")
OF_A_RUN = {*RUN_FILES, *TO_CONTINUE, RECORD, "weights"}  # files that a run writes; only these are deleted


class Ledger:
    """One study folder. Reading never needs torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """Ledger of an existing study. Raises StudyError if `folder` holds no study, or a link."""
        if not is_there(folder / STUDY):
            raise StudyError(f"no study in {folder}: it has no study.yaml. `tunewise list` shows existing studies.")
        ledger = cls(folder)
        if not ledger.is_begun():
            raise StudyError(
                f"no study in {folder}: its study.yaml was not written by tunewise. Run it with `tunewise compare`."
            )
        require_no_links(folder)
        return ledger

    def create(self, sources: Sequence[str] = ()) -> None:
        """Ledger of a folder, created if missing and ready to be written.

        Raises StudyError if writing is not allowed, or the folder is not a study's. `sources` are the data files: who
        may not read one of them may not look into a new study folder either.
        """
        with reraise_as_study_error(self.folder, "read"):
            is_new = not self.folder.is_dir() or not any(self.folder.iterdir())
        if not is_new:
            if not self.is_begun():
                require_free(self.folder)
            require_no_links(self.folder)
        runs = self.folder / "runs"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            probe = temporary_name(runs / "writable")
            create(probe)
            probe.unlink()
            if is_new:
                hide_like(self.folder, map(Path, sources))
        except OSError as error:
            raise StudyError(
                f"cannot write the study folder {self.folder}: {error.strerror}. Choose another folder with --out."
            ) from error

    def sweep(self) -> None:
        """Remove temporary files of commands that died.

        Only for the holder of the lock; report files have their own lock.
        """
        sweep(path for name in ("runs", "data", "best") for path in (self.folder / name).rglob(f"*{TEMPORARY}"))
        sweep(path for name in (STUDY, DECLARATIONS) for path in self.folder.glob(f"{name}.*{TEMPORARY}"))

    def forget_jobs(self) -> None:
        """Remove job files, also those of commands that died. Only once no place of this command works any more."""
        for path in (self.folder / "jobs").glob("*"):
            delete(path)

    def is_begun(self) -> bool:
        """True if this is the folder of a study: it holds a study.yaml that tunewise wrote, a run, or prepared data."""
        return self._is_sealed() or has_results(self.folder)

    def _is_sealed(self) -> bool:
        """True if study.yaml is as tunewise wrote it."""
        path = self.folder / STUDY
        text, _, seal = (read_text(path) if is_there(path) else "").rpartition(SEAL)
        return seal.strip() == text_hash(text)

    def store_study(self, study: StudySpec) -> None:
        """Write study.yaml with every default written out."""
        text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
        path = self.folder / STUDY
        if is_there(path) and not self._is_sealed():  # damaged or written by the user: not ours to delete
            with reraise_as_study_error(path):
                rename(path, temporary_name(path).with_suffix(".kept"))
        write_atomically(path, f"{text}{SEAL}{text_hash(text)}\n")

    def declared(self) -> dict[str, Any] | None:
        """Declaration stored before the first confirmation run; None if there is none.

        Raises StudyError if it was altered.
        """
        path = self.folder / DECLARATIONS
        if not is_there(path):
            return None
        try:
            stored = json.loads(read_text(path))
            is_sound = stored["sha256"] == text_hash(canonical_json(stored["declared"]))
        except (ValueError, KeyError, TypeError):
            is_sound = False
        if not is_sound:
            raise StudyError(
                f"{path} is not what this study declared. Restore it, or choose another folder with --out."
            )
        declared: dict[str, Any] = stored["declared"]
        return declared

    def declare(self, declared: Mapping[str, Any]) -> None:
        """Store a declaration with its hash."""
        content = {"sha256": text_hash(canonical_json(declared)), "declared": declared}
        write_atomically(self.folder / DECLARATIONS, json.dumps(content, indent=1))

    def require_space(self, num_bytes: int) -> None:
        """Raise StudyError if the disk has less than `num_bytes` left."""
        require_space(self.folder, num_bytes)

    def study(self) -> StudySpec:
        """The resolved study as stored. Raises StudyError if it was altered."""
        path = self.folder / "study.yaml"
        text, _, seal = read_text(path).rpartition(SEAL)
        again = "Run `tunewise compare` on your own study file again: it rewrites this one."
        if seal.strip() != text_hash(text):
            raise StudyError(f"{path} was changed after tunewise wrote it. {again}")
        try:
            content = load_yaml(text)
            if isinstance(content, dict):  # a folder from before there was another protocol
                content.setdefault("protocol", "fixed")
            return parse_study(content, str(path))
        except YamlError as error:  # the author of a broken file can also make its seal
            raise StudyError(f"{path}: not readable as YAML: {clause(error)}. {again}") from error

    # --- prepared data

    def data_folder(self, key: str) -> Path:
        """Folder of the prepared examples with this key, which may not exist yet."""
        return self.folder / "data" / key

    def data_summary(self) -> DataSummary:
        """Summary of the data that the newest records used. Raises StudyError if nothing was prepared."""
        found = sorted(in_folders(self.folder / "data", "data.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise StudyError(f"{self.folder} holds no prepared data yet. Run `tunewise compare` on its study file.")
        if not data_is_whole(found[-1].parent, ("data.json",)):
            raise StudyError(
                f"the prepared data in {found[-1].parent} is damaged (data.json or {DATA_HASHES}). "
                "Run `tunewise compare` again: it prepares the data anew."
            )
        summary = DataSummary.model_validate_json(read_text(found[-1]))
        require_key(found[-1], summary.key)
        return summary

    def plan(self, key: str, study: StudySpec) -> StudyPlan | None:
        """The study's plan with this data; None if there is none. Raises StudyError if it was altered."""
        path = self._plan_path(key, study)
        if not is_there(path):
            return None
        try:
            return StudyPlan.model_validate_json(json.dumps(unsealed(read_text(path))))
        except ValidationError as error:
            raise StudyError(
                f"{path} is damaged or of another version. Delete it, or run `tunewise compare` again: it plans anew."
            ) from error

    def store_plan(self, key: str, study: StudySpec, plan: StudyPlan) -> None:
        """Store the plan next to the data that it was made with."""
        write_atomically(self._plan_path(key, study), sealed(json.loads(plan.model_dump_json())))

    def _plan_path(self, key: str, study: StudySpec) -> Path:
        return self.data_folder(key) / f"plan-{plan_key(study)}.json"

    # --- runs

    def run_folder(self, run_id: str) -> Path:
        """Folder of one run, which may not exist yet."""
        return self.folder / "runs" / run_id

    def scores_path(self, run_id: str) -> Path:
        """Per-example scores of one run (schema: records.SCORES_SCHEMA)."""
        return self.run_folder(run_id) / "scores.parquet"

    def forgetting_path(self, run_id: str) -> Path:
        """Forgetting during training of one run (schema: records.FORGETTING_SCHEMA); it may not exist."""
        return self.run_folder(run_id) / "forgetting.parquet"

    def spectrum_path(self, run_id: str) -> Path:
        """Update of one full fine-tuning run (schema: records.SPECTRUM_SCHEMA); it may not exist."""
        return self.run_folder(run_id) / "spectrum.parquet"

    def begin(self, spec: RunSpec) -> Path:
        """Folder of a run that starts now, with its spec inside; files with which it can resume are kept.

        Waits as long as another process makes this run.
        """
        folder = self.run_folder(spec.run_id)
        make_folder(folder)
        require_inside(folder)
        take(folder)
        sweep(folder.iterdir())  # first: a record that a process without the lease is storing cannot appear any more
        delete(folder / RECORD)  # then: its presence says that the run is done and its other files are complete
        kept = TO_CONTINUE if (folder / CHECKPOINT).is_dir() else ()
        for name in sorted(OF_A_RUN.difference(kept)):
            delete(folder / name)
        write_atomically(folder / "spec.json", spec.model_dump_json(indent=2))
        return folder

    def record(self, run_id: str) -> RunRecord | None:
        """Record of a finished run, None if there is none. Raises StudyError if its files changed since."""
        path = self.run_folder(run_id) / RECORD
        if not is_there(path):
            return None
        try:
            record = RunRecord.model_validate_json(json.dumps(unsealed(read_text(path))))
        except ValidationError as error:
            raise StudyError(
                f"{path} is damaged or of another version. Delete {path.parent} to run it again."
            ) from error
        require_key(path, record.run_id)
        for name, expected in record.files.items():
            file = path.parent / name
            if name not in RUN_FILES or not is_there(file) or file_hash(file) != expected:
                raise StudyError(f"{file} was changed after the run wrote it. Delete {path.parent} to run it again.")
        return record

    def records(self) -> list[RunRecord]:
        """All finished runs, in the order of their ids. Raises StudyError if one is damaged."""
        ids = [path.parent.name for path in in_folders(self.folder / "runs", RECORD)]
        return [record for run_id in ids if (record := self.record(run_id))]

    def steps(self, run_id: str) -> list[dict[str, float]]:
        """Logged optimizer steps of one run; empty for runs that train nothing."""
        path = self.run_folder(run_id) / "steps.jsonl"
        if not is_there(path):
            return []
        return [json.loads(line) for line in read_text(path).splitlines()]

    def finish(self, record: RunRecord, lease: Lease | None = None) -> None:
        """Store a record, which makes its run done: hashes first, record.json last.

        Raises LostLeaseError, and stores nothing, if another process has taken the `lease` of this one. It is looked at
        when the temporary file of the record exists: `begin` takes the lease, then deletes temporary files, so one of
        the two processes notices the other, whatever their order.
        """
        folder = self.run_folder(record.run_id)
        weights = folder / "weights"
        sync_all(weights)
        files = {name: file_hash(folder / name) for name in RUN_FILES if (folder / name).is_file()}
        saved = {str(p.relative_to(weights)): file_hash(p) for p in files_below(weights)}
        complete = record.replace(files=files, weights=saved)
        content = sealed(json.loads(complete.model_dump_json()))

        def write(temporary: Path) -> None:
            if lease:
                lease.require()
            temporary.write_text(content, encoding="utf-8")

        write_with(folder / RECORD, write)
        if record.status not in LOST:
            delete(folder / CHECKPOINT)

    def forget(self, run_id: str) -> None:
        """Delete a run whose result is not valid; it is made again."""
        delete(self.run_folder(run_id))

    def clear(self, run_id: str) -> None:
        """Delete what a command that died left of a finished run: nothing reads it."""
        folder = self.run_folder(run_id)
        delete(folder / CHECKPOINT)
        delete(folder / LEASE)
        for path in folder.glob(f"*{TEMPORARY}"):
            delete(path)

    # --- deliverables

    def best_folder(self, arm: str) -> Path:
        """Folder of the deliverable of one arm."""
        assert re.fullmatch(ARM_NAME, arm), f"{arm!r} must be the name of an arm"
        return self.folder / "best" / arm

    def deliverables(self) -> dict[str, int]:
        """Folder of every deliverable, by its inode on the disk, which changes when it is replaced."""
        best = self.folder / "best"
        with reraise_as_study_error(best, "read"):
            entries = list(os.scandir(best)) if best.is_dir() else []
        return {entry.name: entry.inode() for entry in entries if re.fullmatch(ARM_NAME, entry.name)}

    def promote(self, arm: str, run_id: str, keep_in_run: bool) -> None:
        """Make the weights of `run_id` the deliverable of `arm`, if the run's folder still holds them."""
        weights, best = self.run_folder(run_id) / "weights", self.best_folder(arm)
        if not weights.is_dir():
            return
        require_inside(weights)
        with reraise_as_study_error(best):
            best.parent.mkdir(exist_ok=True)
            require_inside(best.parent)
            if keep_in_run:
                copy = temporary_name(best)
                weights = Path(shutil.copytree(weights, copy))
                set_modes(copy)
                sync_all(copy)
            self._keep_others(best)
        move(weights, best)

    def _keep_others(self, best: Path) -> None:
        """Move files of a deliverable that no run wrote, such as a user's notes, to best/<arm>.others/."""
        stored = [unsealed(read_text(path)) or {} for path in in_folders(self.folder / "runs", RECORD)]
        ours = {CARD, *(name for record in stored for name in record.get("weights", ()))}
        for path in list(files_below(best)):
            name = path.relative_to(best)
            if str(name) not in ours:
                to = best.with_name(f"{best.name}.others") / name
                make_folder(to.parent)
                rename(path, temporary_name(to).with_suffix(".kept") if to.exists() else to)

    def has_weights(self, arm: str, record: RunRecord) -> bool:
        """True if the run's weights are unchanged in its folder or in best/<arm>."""
        return any(
            holds(at, record.weights) for at in (self.run_folder(record.run_id) / "weights", self.best_folder(arm))
        )

    def writer(self, arm: str, records: Sequence[RunRecord]) -> RunRecord | None:
        """The record among `records` whose run wrote the weights now in best/<arm>; None if none of them did."""
        best = self.best_folder(arm)
        held = {str(path.relative_to(best)): file_hash(path) for path in files_below(best)}
        saved = [(record, but_card(record.weights)) for record in records]
        return next((record for record, hashes in saved if hashes and hashes.items() <= held.items()), None)

    def drop_weights(self, run_id: str) -> None:
        """Delete the weights of a run that is not the deliverable."""
        delete(self.run_folder(run_id) / "weights")


def find_studies(root: Path) -> list[Path]:
    """Every study folder directly below `root`."""
    return sorted(path.parent for path in root.glob("*/study.yaml"))


DEFAULT_ROOT = Path("runs")
