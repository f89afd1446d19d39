"""When a verdict may be given: at the interim look, and for arms still inconclusive there at the final one.

The driver asks here which arms continue, and the report which verdicts it may show, so that both agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunewise.desk.protocol import confirmations, schedule
from tunewise.desk.statistics.power import EARLY_ERROR, ONE_SIDED_ERROR
from tunewise.desk.statistics.verdict import Verdict
from tunewise.desk.study.state import StudyState

# Reasons that more seeds cannot resolve: such an arm does not continue.
SEEDS_CANNOT_HELP = frozenset({"units", "identical", "optimum not bracketed", "blocked"})

Decide = Callable[[StudyState, float], Sequence[Verdict]]  # the verdicts of a look, its one-sided error given


@dataclass(frozen=True)
class Reading:
    """The part of a study that may be evaluated today."""

    state: StudyState  # with the records that the protocol asked for, and no others
    undecided: tuple[str, ...]  # arms that continue to the second look; empty if there is none, or not known yet
    is_complete: bool  # the last look that the study needs is complete
    verdicts: tuple[Verdict, ...]  # empty unless it is
    read_in: dict[str, StudyState]  # arm -> the state with the runs that its verdict was read in
    looks: dict[str, int]  # arm -> seeds of the look at which its verdict was read


def read_looks(everything: StudyState, decide: Decide) -> Reading:
    """The readable part of a study. `decide` is called for complete looks only, at the second for its own arms."""
    study, data = everything.study, everything.data
    first = everything.asked_for(())
    if schedule.next_runs(study, data, first.records, ()):
        return Reading(first, (), is_complete=False, verdicts=(), read_in={}, looks={})
    is_last = len(study.looks) == 1
    verdicts = {verdict.arm: verdict for verdict in decide(first, ONE_SIDED_ERROR if is_last else EARLY_ERROR)}
    read_in, looks = dict.fromkeys(verdicts, first), dict.fromkeys(verdicts, study.looks[0])
    undecided = tuple(arm for arm, verdict in verdicts.items() if not is_last and _goes_on(verdict))
    if not undecided:
        return Reading(first, (), True, tuple(verdicts.values()), read_in, looks)
    second = everything.asked_for(undecided)
    if schedule.next_runs(study, data, second.records, undecided):
        return Reading(second, undecided, is_complete=False, verdicts=(), read_in={}, looks={})
    compared = second.of_arms(confirmations.going_on(study, undecided))  # only these share seeds and levels
    # an arm that no longer fits in memory has no verdict at the second look and keeps that of the first
    later = {verdict.arm: verdict for verdict in decide(compared, ONE_SIDED_ERROR) if verdict.arm in undecided}
    read_in |= dict.fromkeys(later, compared)
    looks |= dict.fromkeys(later, study.looks[1])
    return Reading(second, undecided, True, tuple({**verdicts, **later}.values()), read_in, looks)


def _goes_on(verdict: Verdict) -> bool:
    return verdict.outcome == "undecided" and verdict.reason not in SEEDS_CANNOT_HELP
