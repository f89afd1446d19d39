"""The runs that come next, as a pure function of the study and its records (protocol: docs/reference/protocol.md).

Base first; for a new classification head its learning rate next (on the `head` arm, shared by every arm);
then the learning-rate search of every arm by one rule; then confirmation with fresh seeds, in blocks of one
seed with the order of the arms rotated, so that machine drift does not become a difference between arms.
All arms are confirmed up to the first look. Only arms that are inconclusive there, and that a later look may still
decide, continue to the next, with the arms they are compared with. A run that was lost is repeated once. An arm that
does not fit in memory is excluded, and the study continues without it.
"""

from collections.abc import Mapping, Sequence

from tunewise.desk.protocol.confirmations import GoingOn, seeds_by_look, taking_part
from tunewise.desk.protocol.drafts import Drafts
from tunewise.desk.protocol.drafts import short_schedule as short_schedule
from tunewise.desk.protocol.trials import arm_search, fits, selected_rates, shared_head_rate
from tunewise.records import MAX_ATTEMPTS, DataSummary, RunRecord
from tunewise.records.data import num_steps as num_steps
from tunewise.spec import BASES, RunSpec
from tunewise.spec.resolved import ResolvedStudy


def current(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records that belong to this study, under its names of the arms; stale ones are left out.

    A record belongs if its run, drafted again from today's study and data, has the same id. With a new head it
    must also have used the head rate that the `head` arm's trials chose; a trial must be one that the search makes.
    """
    draft = Drafts(study, data)
    kept = [match for record in records if (match := draft.match(record))]
    if study.accept_stale:
        kept = draft.one_each(kept)
    head = study.reference_arm
    head_rate = shared_head_rate(study, data, _searched(study, data, kept))
    kept = [r for r in kept if r.spec.arm in (*BASES.values(), head) or r.spec.head_learning_rate in (None, head_rate)]
    return _searched(study, data, kept)


def _searched(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records without trials that the search of their arm would not have made."""
    found = {arm: found for arm in study.arms if (found := arm_search(study, data, records, arm))}
    # a rate may be waiting for only some of its seeds
    asked = {("tune", arm): of_arm.tried + of_arm.waiting for arm, of_arm in found.items()}
    asked |= {("short", arm): of_arm.tried_short + of_arm.waiting_short for arm, of_arm in found.items()}
    return [
        r
        for r in records
        if r.spec.role in ("base", "confirm") or r.spec.learning_rate in asked[r.spec.role, r.spec.arm]
    ]


def next_runs(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord], going: GoingOn) -> list[RunSpec]:
    """Runs that can start now; empty if the study is complete, or a look is and it is not known who goes on.

    `records` are those that `current` returns. `going` are the arms that go on after each interim look; before that
    look is complete they are not known and not used.
    """
    ended = [record for record in records if record.status != "failed" or record.attempts >= MAX_ATTEMPTS]
    draft = Drafts(study, data)
    known = {draft.identity(record.spec) for record in ended}

    def missing(runs: list[RunSpec]) -> list[RunSpec]:
        return [run for run in runs if draft.identity(run) not in known]

    base = missing(list(draft.bases()))
    needs_head_rate = data.num_new_parameters and study.train.head_learning_rate is None
    if needs_head_rate and (waiting := _search(draft, ended, study.reference_arm, None)):
        return base + missing(waiting)
    head_rate = shared_head_rate(study, data, ended)
    searches = [run for arm in study.arms for run in _search(draft, ended, arm, head_rate)]
    if waiting := base + missing(searches):
        return waiting
    rates = selected_rates(study, ended)
    assert not any(study.arms[arm].has_open_rank for arm in rates), "a searched rank: auto is settled first"
    arms = [arm for arm, method in study.arms.items() if arm in rates or not method.is_trained]
    arms = [arm for arm in arms if fits(ended, arm)]
    for look, seeds in enumerate(seeds_by_look(study)):
        arms = [arm for arm in arms if look == 0 or arm in taking_part(study, going, look)]
        if waiting := missing(_confirmations(draft, {arm: rates.get(arm) for arm in arms}, head_rate, seeds)):
            return waiting
    return []


def _search(draft: Drafts, records: Sequence[RunRecord], arm: str, head_rate: float | None) -> list[RunSpec]:
    found = arm_search(draft.study, draft.data, records, arm)
    if found is None:
        return []
    short = [run for rate in found.waiting_short for run in draft.tune(arm, rate, head_rate, "short")]
    return short + [run for rate in found.waiting for run in draft.tune(arm, rate, head_rate, "tune")]


def _confirmations(
    draft: Drafts, rates: Mapping[str, float | None], head_rate: float | None, seeds: Sequence[int]
) -> list[RunSpec]:
    """Blocks of one seed of every arm in `rates`, the order of the arms rotated."""
    arms = list(rates)
    runs = []
    for block, seed in enumerate(seeds):
        turn = block % len(arms) if arms else 0
        for arm in arms[turn:] + arms[:turn]:
            runs.append(draft.confirm(arm, rates[arm], head_rate, seed))
    unique = {run.run_id: run for run in runs}  # an `existing` arm with one folder: one run
    return list(unique.values())
