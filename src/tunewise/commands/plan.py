"""Check and plan a study: what it would train on, and what that needs."""

from collections.abc import Callable
from pathlib import Path

from tunewise.commands.opening import begin, load_data, require_declarations, require_no_stale, require_one_set
from tunewise.commands.planning import planned, timed
from tunewise.commands.sharding import require_shardable
from tunewise.desk.metrics.metrics import check_asked
from tunewise.desk.protocol import resolve
from tunewise.desk.protocol.resolve import settled
from tunewise.desk.report.terminal.check import Checked
from tunewise.errors import StudyError
from tunewise.executors import ask
from tunewise.executors.local.client import LocalExecutor
from tunewise.records import LOST, DataSummary, events
from tunewise.records.events import Event, Listener, unheard
from tunewise.records.plan import PlanRequest, StudyPlan
from tunewise.spec import StudySpec
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.ledger import Ledger
from tunewise.storage.lock import exclusive
from tunewise.storage.scratch import scratch_folder


def check(
    study: StudySpec, out: Path | str | None = None, listener: Listener = unheard, *, probe: bool = True
) -> Checked:
    """The resolved study, the summary of its data, and what it will need, before training.

    `listener` receives what is known before planning. `probe`: estimate seconds from measured steps. Raises UserError
    as `compare` does, which reuses this plan.
    """
    require_one_set(study)
    check_asked(study)
    require_shardable(study)
    ledger = begin(study, out)
    missing: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, events.Unplanned):
            missing.append(event.message)
        listener(event)

    with exclusive(ledger.folder) as lock, LocalExecutor((lock,)) as executor:
        ledger.sweep()
        data = load_data(ledger, ask.prepare(executor, study, ledger.folder / "data"))
        resolved = resolve.resolve(study, data)
        check_asked(resolved)
        require_shardable(resolved)
        listener(events.Checked(study=resolved, data=data, remarks=_would_be_lost(ledger, resolved, data)))
        plan = planned(executor, ledger, resolved, data, hear, probe=probe)
    return Checked(settled(resolved, plan), data, plan, tuple(missing))


def _would_be_lost(ledger: Ledger, study: ResolvedStudy, data: DataSummary) -> tuple[str, ...]:
    """Why `compare` would refuse this folder, in a sentence."""
    try:
        stored = [r for r in ledger.records() if r.status not in LOST]
        require_declarations(ledger, stored)
        require_no_stale(study, data, stored)
    except StudyError as error:
        return (str(error),)
    return ()


def plan(
    study: StudySpec,
    request: PlanRequest | None = None,
    *,
    probe: bool = True,
    tell: Callable[[str], None] = lambda message: None,
) -> StudyPlan:
    """Needs of every arm of `study`, without its weights and before training. Raises UserError.

    `request`: for another machine than this one. `probe`: estimate seconds from measured steps, only for this machine.
    `tell` receives a sentence for every arm whose speed could not be measured.
    """
    require_one_set(study)
    require_shardable(study)
    with scratch_folder() as scratch, LocalExecutor() as executor:
        found = ask.plan(executor, study, scratch, request or PlanRequest())
        resolved = resolve.resolve_as_planned(study, found)
        if not probe or request is not None:
            return found
        return timed(executor, settled(resolved, found), scratch, found, tell)
