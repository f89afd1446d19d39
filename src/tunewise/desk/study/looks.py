"""When a verdict may be given: at each look, for the arms that were still inconclusive at the one before.

The primary metric alone decides whether an arm goes on. A second one is judged from the same runs, where its arm ends.

The driver asks here which arms continue, and the report which verdicts it may show, so that both agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tunewise.desk.protocol import confirmations, schedule
from tunewise.desk.statistics.look import Look, looks_of
from tunewise.desk.statistics.verdict import Verdict, both_metrics
from tunewise.desk.study.state import StudyState

# Reasons that more seeds cannot resolve: such an arm does not continue.
SEEDS_CANNOT_HELP = frozenset({"units", "identical", "optimum not bracketed", "blocked"})

Decide = Callable[[StudyState, Look], Sequence[Verdict]]  # the verdicts of a look


@dataclass(frozen=True)
class Reading:
    """The part of a study that may be evaluated today."""

    state: StudyState  # with the records that the protocol asked for, and no others
    going: tuple[tuple[str, ...], ...]  # the arms that go on after each interim look that is complete
    is_complete: bool  # the last look that the study needs is complete
    verdicts: tuple[Verdict, ...]  # empty unless it is
    read_in: dict[str, StudyState]  # arm -> the state with the runs that its verdict was read in
    looks: dict[str, int]  # arm -> seeds of the look at which its verdict was read


def read_looks(everything: StudyState, decide: Decide) -> Reading:
    """The readable part of a study. `decide` is called for complete looks only, at later ones for those that go on."""
    study, data = everything.study, everything.data
    going: list[tuple[str, ...]] = []
    verdicts: dict[str, Verdict] = {}
    read_in: dict[str, StudyState] = {}
    looks: dict[str, int] = {}
    for index, look in enumerate(looks_of(study.looks, can_stop=study.protocol == "adaptive")):
        state = everything.asked_for(going)
        if schedule.next_runs(study, data, state.records, going):
            return Reading(state, tuple(going), is_complete=False, verdicts=(), read_in={}, looks={})
        # only the arms that went on share their seeds
        compared = state.of_arms(confirmations.taking_part(study, going, index)) if index else state
        left = {arm: tuple(of.outcome for of in both_metrics(verdict)) for arm, verdict in verdicts.items()}
        # an arm that no longer fits in memory has no verdict at a later look and keeps its earlier one
        found = [v for v in decide(compared, replace(look, left=left)) if not index or v.arm in going[-1]]
        verdicts |= {verdict.arm: verdict for verdict in found}
        read_in |= dict.fromkeys((verdict.arm for verdict in found), compared)
        looks |= dict.fromkeys((verdict.arm for verdict in found), look.seeds)
        on = tuple(verdict.arm for verdict in found if _goes_on(verdict, look))
        if look.is_last or not on:
            break
        going.append(on)
    return Reading(state, tuple(going), True, tuple(verdicts.values()), read_in, looks)


def _goes_on(verdict: Verdict, look: Look) -> bool:
    if verdict.outcome != "undecided" or verdict.reason in SEEDS_CANNOT_HELP:
        return False
    return verdict.chance_at_last is None or verdict.chance_at_last >= look.least_chance
