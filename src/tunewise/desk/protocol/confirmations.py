"""Confirmation runs of every arm, by seed and by look."""

from collections.abc import Collection, Sequence
from itertools import pairwise

from tunewise.desk.protocol.trials import selected_rates
from tunewise.records import LOST, RunRecord
from tunewise.spec.resolved import ResolvedStudy

# After each interim look, the arms that go on to the next; shorter than the looks if some are not complete yet.
GoingOn = Sequence[Collection[str]]


def confirmed(study: ResolvedStudy, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Confirmation runs per arm in order of seed, from the `records` that `asked_for` keeps.

    A seed lost in one arm is left out of all arms that ran it: all arms, or at a later look those that continued to
    it. An `existing` arm with one folder has one deterministic record, which counts for every seed.
    """
    runs = _confirmations_by_seed(study, records)
    found: dict[str, list[RunRecord]] = {
        arm: [] for arm in study.arms if any(run.status not in LOST for run in runs.get(arm, {}).values())
    }
    existing = [arm for arm in found if not study.arms[arm].has_seeds]
    for look, seeds in enumerate(seeds_by_look(study)):
        took_part = [arm for arm in found if arm not in existing and runs[arm].keys() & set(seeds)]
        if look > 0 and not took_part:
            break
        kept = [s for s in seeds if all(s in runs[arm] and runs[arm][s].status not in LOST for arm in took_part)]
        for arm in took_part:
            found[arm] += [runs[arm][seed] for seed in kept]
        for arm in existing:
            found[arm] += [next(iter(runs[arm].values()))] * len(kept)
    return found


def _confirmations_by_seed(study: ResolvedStudy, records: Sequence[RunRecord]) -> dict[str, dict[int, RunRecord]]:
    """Confirmation runs per arm at its chosen rate, including lost ones."""
    rates = selected_rates(study, records)
    found: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        spec = record.spec
        if spec.role == "confirm" and spec.learning_rate == rates.get(spec.arm):
            found.setdefault(spec.arm, {})[spec.seed] = record
    return found


def seeds_by_look(study: ResolvedStudy) -> list[tuple[int, ...]]:
    """The seeds that each look adds."""
    seeds = study.confirmation_seeds()
    return [seeds[begin:end] for begin, end in pairwise((0, *study.looks))]


def asked_for(study: ResolvedStudy, records: Sequence[RunRecord], going: GoingOn) -> list[RunRecord]:
    """The records without runs of later looks of arms that do not continue to them.

    Such runs are left over from another margin or other looks; reading them would be an undeclared look.
    """
    look_of = {seed: look for look, seeds in enumerate(seeds_by_look(study)) for seed in seeds}

    def is_asked_for(record: RunRecord) -> bool:
        look = look_of.get(record.spec.seed, len(study.looks))
        return record.spec.role != "confirm" or look == 0 or record.spec.arm in taking_part(study, going, look)

    return [record for record in records if is_asked_for(record)]


def taking_part(study: ResolvedStudy, going: GoingOn, look: int) -> list[str]:
    """Arms with runs at a look after the first: those that go on to it, full, and the reference of gain."""
    if look > len(going) or not going[look - 1]:
        return []
    return [arm for arm in study.arms if arm in {*going[look - 1], study.full_arm, study.reference_arm}]
