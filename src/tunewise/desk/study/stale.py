"""Finished runs that a study would repeat, because its inputs or its environment changed."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from tunewise.desk.fairness.finding import count
from tunewise.desk.protocol.drafts import Drafts, changed_since
from tunewise.records import LOST, DataSummary, RunRecord
from tunewise.spec import NUMERICS, RunSpec
from tunewise.spec.resolved import ResolvedStudy


class Stale(NamedTuple):
    """Runs that would be repeated."""

    num_runs: int
    seconds: float  # that they took
    changes: tuple[str, ...]  # what changed: 'threads 4 (now 2)'
    threads: int | None  # the number they ran with, if nothing else differs; None: more differs
    is_acceptable: bool  # `accept_stale` takes them


def find_stale(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> Stale | None:
    """Finished runs among `records` that this resolved study would repeat although the study itself did not change.

    Runs with other settings are not included: changing settings asks for other runs. None: there are none.
    """
    draft, ids = Drafts(study, data), {record.run_id for record in records}
    accepting = Drafts(study.replace(accept_stale=True), data)
    lost = []
    for record in records:
        today = as_today(record.spec, study, data)
        if record.status in LOST or today.run_id in ids or draft.match(record):
            continue
        if draft.match(record.replace(run_id=today.run_id, spec=today)):
            lost.append(record)
    if not lost:
        return None
    changes = dict.fromkeys(change for record in lost for change in changed_since(record.spec, data))
    is_threads_alone = len(changes) == 1 and all(change.startswith("threads ") for change in changes)
    return Stale(
        num_runs=len(lost),
        seconds=sum(_seconds(record) for record in lost),
        changes=tuple(changes) or ("the weights of an existing arm",),
        threads=lost[0].spec.threads if is_threads_alone else None,
        is_acceptable=all(accepting.match(record) for record in lost),
    )


def as_today(spec: RunSpec, study: ResolvedStudy, data: DataSummary) -> RunSpec:
    """The same run with today's base, data, libraries and machine."""
    general = data.inputs.general if spec.inputs.general else None
    seeds = study.confirmation_seeds()
    place = seeds.index(spec.seed) if spec.seed in seeds else 0
    return spec.replace(
        inputs=data.inputs.replace(general=general, existing=data.weights_of(spec.arm, place)),
        numerics=NUMERICS,
        threads=data.threads,
        device=data.device,
        precision=data.precision,
    )


def stale_sentence(stale: Stale, duration: str) -> str:
    """A message on what would be repeated, why, and the options; `duration`: time that the runs took, as text."""
    begin = f"{count(stale.num_runs, 'finished run')} of this study, which took {duration}, would be repeated"
    reason = f"because of {' and '.join(stale.changes)}"
    if stale.threads is not None and (value := os.environ.get("OMP_NUM_THREADS")):
        reason += f" (OMP_NUM_THREADS is {value} here)"
    ways = ["--again repeats them"]
    if stale.threads is not None:
        ways.insert(0, f"--set machine.threads={stale.threads} keeps them")
    if stale.is_acceptable:
        ways.append("--accept-stale keeps them as they are, with a warning in the report")
    return f"{begin} {reason}. Choose one: {'; '.join(ways)}; --out FOLDER starts in another folder."


def _seconds(record: RunRecord) -> float:
    usage = record.usage
    return usage.load_seconds + (usage.train_seconds or 0.0) + usage.evaluate_seconds if usage else 0.0
