"""The driver: ask the desk what to run next, hand it to the lab, store the records, write the report."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunewise.desk import schedule
from tunewise.desk.budget import affordable
from tunewise.desk.declarations import declarations
from tunewise.desk.drafts import changed_since
from tunewise.desk.expected import num_scored, trained_arms, trials_of
from tunewise.desk.export import export_records
from tunewise.desk.fairness import check_before
from tunewise.desk.metrics import check_asked
from tunewise.desk.outlook import study_seconds
from tunewise.desk.report.build import undecided_arms
from tunewise.desk.report.card import write_card
from tunewise.desk.report.check import Checked
from tunewise.desk.report.folder import StudyFolder
from tunewise.desk.report.html import write_report
from tunewise.desk.report.view import Report
from tunewise.disk import read_text
from tunewise.errors import StudyError, TunewiseError
from tunewise.executors.client import LabServer
from tunewise.ledger import Ledger
from tunewise.lock import exclusive, reporting
from tunewise.plans import PlanRequest, StudyPlan, settled
from tunewise.records import LOST, DataSummary, RunRecord
from tunewise.spec import RunSpec, StudySpec

DEFAULT_ROOT = Path("runs")
TRIES = 3  # to read the deliverables while another command replaces them
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class StudyResult:
    """A finished study: its report as typed objects, and where everything lies."""

    folder: Path
    report: Report

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per arm, ready for `pandas.DataFrame`."""
        flat = []
        for arm in self.report.arms:
            row = {k: v for k, v in arm.model_dump().items() if isinstance(v, str | int | float | None)}
            for name, metric in arm.metrics.items():
                row |= {name: metric.mean, f"{name}_low": metric.low, f"{name}_high": metric.high}
            flat.append(row)
        return flat


def compare(study: StudySpec, out: Path | str | None = None, listener: Listener = lambda event: None) -> StudyResult:
    """Run what is missing of `study`, write its report, return both.

    `out` is the study folder (default `runs/<name>`). The same call continues where an earlier one stopped.
    `listener` hears of every step. Raises UserError before anything is trained where the study cannot run, and
    KeyboardInterrupt after a Ctrl-C or SIGTERM, once the run that was going on is saved.
    """
    check_asked(study)
    ledger = begin(study, out)
    with exclusive(ledger.folder) as lock:
        ledger.sweep()
        with LabServer(study.machine, (lock,)) as lab:
            finished = run_missing(study, ledger, lab, listener)
        tidy(ledger, finished.study, finished.records)  # an earlier command may have ended before it came to that
        deliver(ledger, finished.study, finished.records)
        return written(ledger)


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


def written(ledger: Ledger) -> StudyResult:
    """The study with its report, which is written. Raises StudyError."""
    with reporting(ledger.folder):
        return StudyResult(ledger.folder, write_report(ledger))


def run_missing(study: StudySpec, ledger: Ledger, lab: LabServer, listener: Listener) -> StudyFolder:
    """The folder of the study once every run that it asks for is there."""
    listener({"event": "preparing"})
    data = load_data(ledger, lab.prepare(study, ledger.folder / "data"))
    declared = schedule.resolve(study, data)
    check_asked(declared)
    ledger.require_space(disk_needed(declared, data))
    listener({"event": "findings", "findings": check_before(declared, data)})
    listener({"event": "planning"})
    declared = settled(declared, planned(lab, ledger, declared, data))
    ledger.store_study(declared)
    # what an earlier command lost gets another chance: its cause may be gone
    records = {r.run_id: r for r in ledger.records() if r.status not in LOST}
    for run_id in records:
        ledger.clear(run_id)
    folder = todays(ledger, declared, data, list(records.values()))
    while runs := next_runs(ledger, folder.study, data, folder.records) or undelivered(ledger, folder):
        if any(spec.role == "confirm" for spec in runs):
            declare(ledger, folder.study, data)
        current = list(folder.records)
        for number, spec in enumerate(runs):
            listener({"event": "begin", "spec": spec, **outlook(folder, current, len(runs) - number)})
            records[spec.run_id] = lab.run(spec, ledger, ledger.data_folder(data.key), listener)
            current = schedule.current(folder.study, data, list(records.values()))
            tidy(ledger, folder.study, current)
        folder = todays(ledger, declared, data, list(records.values()))
    return folder


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
    trained = trained_arms(study)
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
    chosen = schedule.confirmed(study, records)
    return {arm: runs for arm, runs in chosen.items() if study.arms[arm].method != "existing" and runs}


def _best(runs: Sequence[RunRecord]) -> RunRecord:
    return min(runs, key=schedule.selection_loss)


def check(study: StudySpec, out: Path | str | None = None) -> Checked:
    """The resolved study, what became of its data, and what it will need, before anything is trained.

    Raises UserError like `compare`, which does not plan again what was planned here.
    """
    check_asked(study)
    ledger = begin(study, out)
    with exclusive(ledger.folder) as lock, LabServer(study.machine, (lock,)) as lab:
        ledger.sweep()
        data = load_data(ledger, lab.prepare(study, ledger.folder / "data"))
        resolved = schedule.resolve(study, data)
        check_asked(resolved)
        plan = planned(lab, ledger, resolved, data)
    return Checked(settled(resolved, plan), data, plan)


def report(folder: Path | str) -> StudyResult:
    """The report of a study folder, built again from its records; trains nothing. Raises StudyError."""
    return written(Ledger.open(Path(folder)))


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


def plan(study: StudySpec, request: PlanRequest | None = None, *, probe: bool = True) -> StudyPlan:
    """What every arm of `study` will need, without its weights and before anything is trained. Raises UserError.

    `request`: for another machine than this one. `probe`: with seconds, from steps that are really done; here only.
    """
    with TemporaryDirectory() as scratch, LabServer(study.machine) as lab:
        found = lab.plan(study, Path(scratch), request or PlanRequest())
        study = schedule.resolve_as_planned(study, found)
        return timed(lab, settled(study, found), Path(scratch), found) if probe and request is None else found


def planned(lab: LabServer, ledger: Ledger, study: StudySpec, data: DataSummary) -> StudyPlan | None:
    """The plan of a resolved study whose data is prepared, made once; None: it cannot be made, and nothing needs it."""
    with suppress(StudyError):  # a damaged one is made again
        if found := ledger.plan(data.key, study):
            return found
    folder = ledger.data_folder(data.key)
    try:
        found = lab.plan(study, folder, PlanRequest())
    except TunewiseError:
        return None
    found = timed(lab, settled(study, found), folder, found)
    for asked in (study, settled(study, found)):
        ledger.store_plan(data.key, asked, found)
    return found


def timed(lab: LabServer, study: StudySpec, folder: Path, found: StudyPlan) -> StudyPlan:
    """The plan, made in `folder`, with the time that its arms and the whole study take on this machine."""
    arms = {
        name: arm.replace(speed=lab.probe(study, folder, name, arm)) if arm.step else arm
        for name, arm in found.arms.items()
    }
    found = found.replace(arms=arms)
    return found.replace(seconds=study_seconds(study, found))
