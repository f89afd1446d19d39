"""The driver: ask the desk what to run next, let the lab run it, store the records, write the report."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tunewise.commands.deliver import deliver, disk_needed, tidy
from tunewise.commands.opening import (
    begin,
    load_data,
    of_its_time,
    require_declarations,
    require_no_stale,
    require_one_set,
)
from tunewise.commands.planning import planned, room_of
from tunewise.commands.report import StudyResult, written
from tunewise.commands.running import Running
from tunewise.commands.sharding import require_shardable
from tunewise.desk.fairness import check_before
from tunewise.desk.fairness.finding import Finding
from tunewise.desk.metrics.metrics import check_asked
from tunewise.desk.planning.shorter import too_long
from tunewise.desk.protocol import resolve
from tunewise.desk.protocol.resolve import settled
from tunewise.desk.study.looks import read_looks
from tunewise.desk.study.state import StudyState
from tunewise.desk.study.test_set import uses_in
from tunewise.desk.study.verdicts import words_at
from tunewise.errors import SpecError
from tunewise.executors import ask
from tunewise.executors.base import Executor
from tunewise.executors.handshake import greet
from tunewise.executors.local.client import LocalExecutor
from tunewise.executors.local.shares import shared
from tunewise.executors.places import Places
from tunewise.executors.ray.client import RayPlaces
from tunewise.executors.ray.cluster import connected, nodes, shared_by
from tunewise.executors.slurm import client as slurm
from tunewise.executors.slurm.queue import prepared
from tunewise.inputs.input_files import InputFiles
from tunewise.records import LOST, events
from tunewise.records.events import Listener, unheard
from tunewise.spec import StudySpec
from tunewise.storage import test_sets
from tunewise.storage.ledger import Ledger
from tunewise.storage.lock import exclusive
from tunewise.trackers.notebook import followed


def compare(
    study: StudySpec,
    out: Path | str | None = None,
    listener: Listener = unheard,
    *,
    again: bool = False,
    least_chance: float = 0.0,
    ray_address: str | None = None,
) -> StudyResult:
    """Run what is missing of `study`, write its report, and return both.

    `out` is the study folder (default `runs/<name>`). The same call resumes an interrupted study. `again`: repeat
    finished runs that were made with other inputs, libraries or threads; without it they are an error. `listener`
    receives every event; without one, a Jupyter notebook shows live progress. `least_chance`: end after the search if
    no arm has this chance of an answer. `ray_address`: of the cluster for `machine.executor: ray`; None: this machine
    alone. Raises UserError before training if the study cannot run, and KeyboardInterrupt after a Ctrl-C or SIGTERM,
    once the current run is saved.
    """
    require_one_set(study)
    check_asked(study)
    require_shardable(study)
    listener = followed(listener)
    ledger = begin(study, out)
    study = of_its_time(study, ledger)
    with exclusive(ledger.folder) as lock:
        ledger.sweep()
        inputs = InputFiles.of(study, ledger.folder)
        with places_of(study, ledger, lock, listener, ray_address) as places:
            study = study.replace(machine=places.machine)
            finished = run_missing(study, places, inputs, again=again, least_chance=least_chance)
        ledger.forget_jobs()
        tidy(ledger, finished.study, finished.records)  # an earlier command may have ended before doing this
        deliver(ledger, finished.study, finished.records)
        record_looks(finished)
        return written(ledger, unfinished(finished))


@contextmanager
def places_of(
    study: StudySpec, ledger: Ledger, lock: int, listener: Listener, ray_address: str | None
) -> Iterator[Places]:
    """The places at which the study's runs are made. Raises UserError if there are none such."""
    if ray_address is not None and study.machine.executor != "ray":
        raise SpecError("--ray-address is the address of a Ray cluster. Add --executor ray, or leave it out.")
    if study.machine.executor == "ray":
        with connected(ray_address):
            found = nodes()
            machine, demand, number = shared_by(found, study.machine, lambda: threads_of(ledger))
            openers: list[Callable[[], Executor]] = [RayPlaces(demand).open] * number
            with Places(openers, ledger, machine, listener, greet) as places:
                places.is_one_machine = len(found) == 1
                yield places
        return
    if study.machine.executor == "slurm":
        machine = prepared(study.machine, threads_of(ledger))
        with Places(slurm.openers(ledger.folder, machine), ledger, machine, listener, slurm.greet_first) as places:
            places.is_one_machine = False
            yield places
        return
    machine, environments = shared(study.machine, lambda: threads_of(ledger))
    with Places([opener(lock, environment) for environment in environments], ledger, machine, listener) as places:
        yield places


def opener(lock: int, environment: Mapping[str, str]) -> Callable[[], Executor]:
    """Opens a place on this machine, whose processes hold the lock as long as they live."""
    return lambda: LocalExecutor((lock,), environment) if environment else LocalExecutor((lock,))


def threads_of(ledger: Ledger) -> int | None:
    """Threads of the runs in the folder, which those of the same study must equal; None: it holds no run."""
    return next((record.spec.threads for record in ledger.records() if record.status not in LOST), None)


def run_missing(
    study: StudySpec, places: Places, inputs: InputFiles, *, again: bool, least_chance: float = 0.0
) -> StudyState:
    """State of the study once every run that it asks for exists."""
    executor, ledger, listener = places.first, places.ledger, places.listener
    listener(events.Preparing())
    data = load_data(ledger, ask.prepare(executor, study, ledger.folder / "data"))
    inputs.require_same()
    declared = resolve.resolve(study, data)
    check_asked(declared)
    require_shardable(declared)
    ledger.require_space(disk_needed(declared, data))
    listener(events.Findings(findings=tuple(_as_told(finding) for finding in check_before(declared, data))))
    # lost runs are tried again: the cause may be gone
    stored = [r for r in ledger.records() if r.status not in LOST]
    require_declarations(ledger, stored)
    if not again:
        require_no_stale(declared, data, stored)
    listener(events.Planning())
    plan = planned(executor, ledger, declared, data, listener)
    places.room = room_of(plan, places.num_places, listener) if plan and places.is_one_machine else None
    declared = settled(declared, plan)
    if plan and not stored and (found := too_long(declared, plan)):
        listener(events.TooLong(sentence=found[0], versions=found[1]))
    ledger.store_study(declared)
    for record in stored:
        ledger.clear(record.run_id)
    return Running(declared, data, places, inputs, stored, least_chance).finish()


def _as_told(finding: Finding) -> events.Remark:
    return events.Remark.model_validate(finding.model_dump())


def unfinished(state: StudyState) -> tuple[str, ...]:
    """One line for every requested run that gave no result."""
    return tuple(
        f"{record.spec.arm}, seed {record.spec.seed}: {record.status}" + (f" ({record.message})" * bool(record.message))
        for record in state.records
        if record.status in LOST
    )


def record_looks(state: StudyState) -> None:
    """Count the study's looks in the ledger of test sets. If that fails, the report notes it."""
    with suppress(OSError, RuntimeError):
        test_sets.record(uses_in(read_looks(state, words_at)))
