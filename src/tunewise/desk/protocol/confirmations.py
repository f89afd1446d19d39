"""Confirmation runs of every arm, by seed and by look."""

from collections.abc import Collection, Sequence
from itertools import pairwise

from tunewise.desk.protocol.trials import selected_rates
from tunewise.records import LOST, RunRecord
from tunewise.spec.resolved import ResolvedStudy


def confirmed(study: ResolvedStudy, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Confirmation runs per arm in order of seed, from the `records` that `asked_for` keeps.

    A seed lost in one arm is left out of all arms that ran it: all arms, or at the second look those that continued to
    it. An `existing` arm has one deterministic record, which counts for every seed.
    """
    runs = _confirmations_by_seed(study, records)
    found: dict[str, list[RunRecord]] = {
        arm: [] for arm in study.arms if any(run.status not in LOST for run in runs.get(arm, {}).values())
    }
    existing = [arm for arm in found if not study.arms[arm].is_trained]
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


def asked_for(study: ResolvedStudy, records: Sequence[RunRecord], undecided: Collection[str]) -> list[RunRecord]:
    """The records without second-look runs of arms that do not continue to it; if none do, those of the first look.

    Such runs are left over from another margin or other looks; reading them would be an undeclared look.
    """
    first = seeds_by_look(study)[0]
    arms = going_on(study, undecided)
    return [r for r in records if r.spec.role != "confirm" or r.spec.seed in first or r.spec.arm in arms]


def going_on(study: ResolvedStudy, undecided: Collection[str]) -> list[str]:
    """Arms that continue to the second look: those inconclusive at the first, full, and the reference of gain."""
    if not undecided:
        return []
    return [arm for arm in study.arms if arm in {*undecided, study.full_arm, study.reference_arm}]
