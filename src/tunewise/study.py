"""The driver: ask the desk what to run next, hand it to the lab, store the records, write the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tunewise.desk.fairness import check_before
from tunewise.desk.planning.budget import affordable
from tunewise.desk.planning.expected import num_scored, trials_of
from tunewise.desk.protocol import confirmations, resolve, schedule
from tunewise.desk.protocol import trials as trials_module
from tunewise.desk.protocol.drafts import changed_since
from tunewise.desk.protocol.resolve import settled
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.export import check_path, export_records
from tunewise.desk.report.pages.card import write_card
from tunewise.desk.report.terminal.check import Checked
from tunewise.desk.report.views.view import Report
from tunewise.desk.statistics.metrics import check_asked
from tunewise.desk.study.declarations import declarations
from tunewise.desk.study.stale import find_stale, stale_sentence
from tunewise.desk.study.state import StudyFolder
from tunewise.desk.study.verdicts import undecided_arms
from tunewise.errors import StudyError, TunewiseError
from tunewise.executors.local.client import LabServer
from tunewise.inputs.input_files import InputFiles
from tunewise.planning import planned, timed
from tunewise.records import LOST, DataSummary, RunRecord
from tunewise.records.plan import PlanRequest, StudyPlan, settled_with
from tunewise.spec import RunSpec, StudySpec
from tunewise.storage.disk import read_text
from tunewise.storage.ledger import DECLARATIONS, DEFAULT_ROOT, Ledger
from tunewise.storage.lock import exclusive, reporting
from tunewise.storage.scratch import scratch_folder
from tunewise.text.numbers import duration

TRIES = 3  # to read the deliverables while another command replaces them
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class StudyResult:
    """A finished study: its report as typed objects, and where everything lies."""

    folder: Path
    report: Report
    unfinished: tuple[str, ...] = ()  # a line for every run that was asked for and lost; (): all was done

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per arm, ready for `pandas.DataFrame`."""
        flat = []
        for arm in self.report.arms:
            row = {k: v for k, v in arm.model_dump().items() if isinstance(v, str | int | float | None)}
            for name, metric in arm.metrics.items():
                row |= {name: metric.mean, f"{name}_low": metric.low, f"{name}_high": metric.high}
            flat.append(row)
        return flat


def compare(
    study: StudySpec, out: Path | str | None = None, listener: Listener = lambda event: None, *, again: bool = False
) -> StudyResult:
    """Run what is missing of `study`, write its report, return both.

    `out` is the study folder (default `runs/<name>`). The same call continues where an earlier one stopped. `again`:
    finished runs that were made with other inputs, libraries or threads are made again; without it that is an error.
    `listener` hears of every step. Raises UserError before anything is trained where the study cannot run, and
    KeyboardInterrupt after a Ctrl-C or SIGTERM, once the run that was going on is saved.
    """
    check_asked(study)
    ledger = begin(study, out)
    with exclusive(ledger.folder) as lock:
        ledger.sweep()
        inputs = InputFiles.of(study, ledger.folder)
        with LabServer(study.machine, (lock,)) as lab:
            finished = run_missing(study, Work(ledger, lab, inputs, listener), again)
        tidy(ledger, finished.study, finished.records)  # an earlier command may have ended before it came to that
        deliver(ledger, finished.study, finished.records)
        return written(ledger, unfinished(finished))


def begin(study: StudySpec, out: Path | str | None) -> Ledger:
    """The study folder, made where it is missing. Raises StudyError where it is not a study's, or holds a link.

    study.yaml waits until the study is known to be sound, so as not to spoil a finished one's.
    """
    if out is not None and not str(out):
        raise StudyError("--out is empty. Give the name of the study folder, or leave --out away.")
    ledger = Ledger(DEFAULT_ROOT / study.name if out is None else Path(out))
    named = (study.data.train, study.data.valid, study.data.test, study.forgetting.text)
    ledger.create([source for source in named if source])
    return ledger


def written(ledger: Ledger, missing: tuple[str, ...] = ()) -> StudyResult:
    """The study with its report, which is written, and what is `missing` of it. Raises StudyError."""
    with reporting(ledger.folder):
        return StudyResult(ledger.folder, write_report(ledger), missing)


class Work(NamedTuple):
    """What the runs of a study are made with."""

    ledger: Ledger
    lab: LabServer
    inputs: InputFiles
    listener: Listener

    def run(self, spec: RunSpec, data_key: str) -> RunRecord:
        """The record of a run, which read what the study began with. Raises StudyError where that changed."""
        self.inputs.require_same()
        record = self.lab.run(spec, self.ledger, self.ledger.data_folder(data_key), self.listener)
        try:
            self.inputs.require_same("runs")
        except StudyError:
            self.ledger.forget(spec.run_id)  # which of the two it read is not known
            raise
        return record


def run_missing(study: StudySpec, work: Work, again: bool) -> StudyFolder:
    """The folder of the study once every run that it asks for is there."""
    ledger, lab, listener = work.ledger, work.lab, work.listener
    listener({"event": "preparing"})
    data = load_data(ledger, lab.prepare(study, ledger.folder / "data"))
    work.inputs.require_same()
    declared = resolve.resolve(study, data)
    check_asked(declared)
    ledger.require_space(disk_needed(declared, data))
    listener({"event": "findings", "findings": check_before(declared, data)})
    # what an earlier command lost gets another chance: its cause may be gone
    stored = [r for r in ledger.records() if r.status not in LOST]
    require_declarations(ledger, stored)
    if not again:
        require_no_stale(declared, data, stored)
    listener({"event": "planning"})
    declared = settled(declared, planned(lab, ledger, declared, data, listener))
    ledger.store_study(declared)
    records = {r.run_id: r for r in stored}
    for run_id in records:
        ledger.clear(run_id)
    folder = todays(ledger, declared, data, stored)
    while runs := next_runs(ledger, folder.study, data, folder.records) or undelivered(ledger, folder):
        if any(spec.role == "confirm" for spec in runs):
            declare(ledger, folder.study, data)
        current = list(folder.records)
        for number, spec in enumerate(runs):
            listener({"event": "begin", "spec": spec, **outlook(folder, current, len(runs) - number)})
            records[spec.run_id] = work.run(spec, data.key)
            current = schedule.current(folder.study, data, list(records.values()))
            tidy(ledger, folder.study, current)
        folder = todays(ledger, declared, data, list(records.values()))
    return folder


def require_no_stale(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> None:
    """Raises StudyError where finished runs would be made again without anybody having asked for it."""
    # micro-batches of `auto` are what they were: the plan that tells them takes time
    for tokens in {record.spec.train.micro_batch_tokens for record in records}:
        if stale := find_stale(settled_with(study, tokens), data, records):
            raise StudyError(stale_sentence(stale, duration(stale.seconds)))


def require_declarations(ledger: Ledger, records: Sequence[RunRecord]) -> None:
    """Raises StudyError where arms were scored on test and what was declared before is gone."""
    scored = [record for record in records if record.spec.role == "confirm"]
    if scored and ledger.declared() is None:
        raise StudyError(
            f"{ledger.folder / DECLARATIONS} is gone, although {len(scored)} runs were scored on test data: what the "
            "study declared before is not known. Put the file back, or begin in another folder with --out."
        )


def unfinished(folder: StudyFolder) -> tuple[str, ...]:
    """A line for every run that the study asked for and that gave no result."""
    return tuple(
        f"{record.spec.arm}, seed {record.spec.seed}: {record.status}" + (f" ({record.message})" * bool(record.message))
        for record in folder.records
        if record.status in LOST
    )


def todays(ledger: Ledger, declared: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> StudyFolder:
    """The study as its budget and its own trials have it by now, with the records that belong to it."""
    study = affordable(declared, data, records)
    return StudyFolder(ledger, study, data, schedule.current(study, data, records)).settled(records)


def declare(ledger: Ledger, study: StudySpec, data: DataSummary) -> None:
    """Store what the study declares, unless an arm was scored on test already: then what stands is what counts."""
    is_scored = any(r.spec.role == "confirm" and r.status not in LOST for r in ledger.records())
    if ledger.declared() is None or not is_scored:
        ledger.declare(declarations(study, data))


def load_data(ledger: Ledger, key: str) -> DataSummary:
    """The summary of the data prepared under `key`."""
    return DataSummary.model_validate_json(read_text(ledger.data_folder(key) / "data.json"))


def next_runs(ledger: Ledger, study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> list[RunSpec]:
    """The runs that come next, those of the second look once the verdicts of the first are known."""
    runs = schedule.next_runs(study, data, records, ())
    if runs or len(study.looks) == 1:
        return runs
    return schedule.next_runs(study, data, records, undecided_arms(ledger))


def outlook(folder: StudyFolder, records: Sequence[RunRecord], waiting: int) -> dict[str, Any]:
    """How many runs are done, and about how many there will be if no search is extended and no arm goes on."""
    study, first = folder.study, len(folder.first_searches)
    trained = study.trained_arms
    trials = sum(sum(trials_of(study, arm, "least")) for arm in trained.values())
    expected = num_scored(study) + first + trials + len(trained) * study.looks[0]
    done = first + len(records)
    return {"done": done, "expected": max(expected, done + waiting)}


def disk_needed(study: StudySpec, data: DataSummary) -> int:
    """Bytes of tuned weights that lie on disk at once, at most, and as much again for one being written."""
    sizes = [
        4 * (tuned.trainable_parameters if study.arms[name].method not in ("full", "head") else tuned.total_parameters)
        for name, tuned in data.arms.items()
        if name in study.arms
    ]
    kept = sum(sizes) * (study.looks[-1] if study.keep == "all" else 1)
    return kept + 2 * max(sizes, default=0)


def undelivered(ledger: Ledger, folder: StudyFolder) -> list[RunSpec]:
    """The runs whose weights should be delivered and are gone or damaged: they are made again."""
    if folder.study.keep == "none":
        return []
    best = {arm: _best(runs) for arm, runs in _deliverable_runs(folder.study, folder.records).items()}
    return [
        record.spec
        for arm, record in best.items()
        # an accepted stale run cannot be made again as it was
        if not ledger.has_weights(arm, record) and not changed_since(record.spec, folder.data)
    ]


def tidy(ledger: Ledger, study: StudySpec, records: Sequence[RunRecord]) -> None:
    """Delete the weights that `keep` does not keep."""
    if study.keep == "all":
        return
    for runs in _deliverable_runs(study, records).values():
        best = _best(runs)
        for record in runs:
            if study.keep == "none" or record is not best:
                ledger.drop_weights(record.run_id)


def deliver(ledger: Ledger, study: StudySpec, records: Sequence[RunRecord]) -> None:
    """Put the confirmed run with the best valid score of every arm into best/<arm>, with its model card."""
    if study.keep == "none":
        return
    for arm, runs in _deliverable_runs(study, records).items():
        record = _best(runs)
        ledger.promote(arm, record.run_id, keep_in_run=study.keep == "all")
        write_card(ledger, study, record)


def _deliverable_runs(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    chosen = confirmations.confirmed(study, records)
    return {arm: runs for arm, runs in chosen.items() if study.arms[arm].method != "existing" and runs}


def _best(runs: Sequence[RunRecord]) -> RunRecord:
    return min(runs, key=trials_module.selection_loss)


def check(
    study: StudySpec, out: Path | str | None = None, listener: Listener = lambda event: None, *, probe: bool = True
) -> Checked:
    """The resolved study, what became of its data, and what it will need, before anything is trained.

    `listener` hears what is known before the study is planned. `probe`: with seconds, from steps that are really done.
    Raises UserError like `compare`, which does not plan again what was planned here.
    """
    check_asked(study)
    ledger = begin(study, out)
    missing: list[str] = []

    def hear(event: dict[str, Any]) -> None:
        missing.append(event["message"])
        listener(event)

    with exclusive(ledger.folder) as lock, LabServer(study.machine, (lock,)) as lab:
        ledger.sweep()
        data = load_data(ledger, lab.prepare(study, ledger.folder / "data"))
        resolved = resolve.resolve(study, data)
        check_asked(resolved)
        listener({"event": "checked", "checked": Checked(resolved, data, None, _would_be_lost(ledger, resolved, data))})
        plan = planned(lab, ledger, resolved, data, hear, probe=probe)
    return Checked(settled(resolved, plan), data, plan, tuple(missing))


def _would_be_lost(ledger: Ledger, study: StudySpec, data: DataSummary) -> tuple[str, ...]:
    """What `compare` would refuse in this folder, in a sentence."""
    try:
        stored = [r for r in ledger.records() if r.status not in LOST]
        require_declarations(ledger, stored)
        require_no_stale(study, data, stored)
    except StudyError as error:
        return (str(error),)
    return ()


def report(folder: Path | str) -> StudyResult:
    """The report of a study folder, built again from its records; trains nothing. Raises StudyError."""
    return written(Ledger.open(Path(folder)))


def write_report(ledger: Ledger) -> Report:
    """The report of a study folder, after it was written there: report.json, report.html and figures/."""
    from tunewise.desk.report.pages import (
        html,  # with the charts' libraries: half a second, which reading does not need
    )

    return html.write_report(ledger)


def read_reports(folders: Sequence[Path | str], records: Path | None = None) -> list[StudyResult]:
    """The reports of study folders, from their records; nothing is written. Raises StudyError.

    Also where `records`, to which their runs are to be exported, cannot be written.
    """
    if records:
        check_path(records)
    ledgers = [Ledger.open(Path(folder)) for folder in folders]
    return [StudyResult(ledger.folder, build_report(ledger)) for ledger in ledgers]


def write_files(result: StudyResult) -> None:
    """Write the report into its study folder: report.json, report.html and figures/. Raises StudyError."""
    from tunewise.desk.report.pages import html

    with reporting(result.folder):
        html.write_pages(result.folder, result.report)


def export(folders: Sequence[Path | str], path: Path | str) -> int:
    """The number of runs that were written to `path` (.csv or .parquet), a row each. Raises StudyError."""
    return export_records({str(folder): Ledger.open(Path(folder)) for folder in folders}, Path(path))


def answers(folder: Path | str, prompt: str, max_new_tokens: int, *, trust_remote_code: bool = False) -> dict[str, str]:
    """What the base and every deliverable of a study answer to `prompt` (classification: the label).

    Where another command replaces a deliverable meanwhile, all is read again. Raises UserError, also for a study that
    runs code of its model and is not trusted by `trust_remote_code`: the folder may be somebody else's.
    """
    ledger = Ledger.open(Path(folder))
    if ledger.study().trust_remote_code and not trust_remote_code:
        raise StudyError(
            f"the study in {folder} runs code that its model {ledger.study().model} brings (trust_remote_code). "
            "If you trust that code, add --trust-remote-code."
        )
    for _ in range(TRIES):
        before, failure = ledger.deliverables(), None
        try:
            found = _answers(ledger, prompt, max_new_tokens)
        except (TunewiseError, OSError, ValueError) as error:  # of half a folder, libraries say all kinds of things
            failure = error
        if ledger.deliverables() != before:
            continue
        if failure is not None:
            raise failure
        return found
    raise StudyError(f"the tuned models in {folder} are being replaced. Wait for the command that does it, and retry.")


def _answers(ledger: Ledger, prompt: str, max_new_tokens: int) -> dict[str, str]:
    from tunewise.lab.evaluate.answer import answer  # torch, which only this function needs in this process

    study, data = ledger.study(), ledger.data_summary()
    folders = {arm: ledger.best_folder(arm) for arm in study.arms if ledger.best_folder(arm).is_dir()}
    records = ledger.records() if folders else []
    for arm, place in folders.items():
        if ledger.writer(arm, records) is None:
            raise StudyError(f"{place} is not what its run wrote. Give `tunewise compare` again: it is made anew.")
    if not folders:
        raise StudyError(f"{ledger.folder} holds no tuned models. `tunewise compare` makes them (with `keep: best`).")
    return answer(study, data, folders, prompt, max_new_tokens)


def plan(
    study: StudySpec,
    request: PlanRequest | None = None,
    *,
    probe: bool = True,
    tell: Callable[[str], None] = lambda message: None,
) -> StudyPlan:
    """What every arm of `study` will need, without its weights and before anything is trained. Raises UserError.

    `request`: for another machine than this one. `probe`: with seconds, from steps that are really done; here only.
    `tell` is given a sentence for every arm whose speed could not be measured.
    """
    with scratch_folder() as scratch, LabServer(study.machine) as lab:
        found = lab.plan(study, scratch, request or PlanRequest())
        study = resolve.resolve_as_planned(study, found)
        if not probe or request is not None:
            return found
        return timed(lab, settled(study, found), scratch, found, tell)
