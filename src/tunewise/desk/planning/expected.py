"""The runs that a study is expected to need, as far as they are known before its trials."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from tunewise.desk.protocol.drafts import short_training
from tunewise.desk.protocol.resolve import twin
from tunewise.spec import (
    Role,
    TrainedArm,
    TrainSpec,
    forgetting_steps,
)
from tunewise.spec.resolved import ResolvedStudy

# of every search: no rate beyond those that it begins with, or all that the cap allows
Extent = Literal["least", "cap"]
AFTER_SHORT = 3  # trials of full length after short ones: the best and its neighbors
HALF_STEPS = 2


class Trials(NamedTuple):
    """Learning-rate trials of one arm."""

    full_length: int
    short: int


class Runs(NamedTuple):
    """Identical runs of one arm, and the work of each."""

    arm: str
    role: Role
    num_runs: int
    num_steps: int = 0  # optimizer steps
    valid: int = 0  # how often it scores valid in the precision of training
    general: int = 0  # the same of the general text
    in_fp32: tuple[str, ...] = ()  # what it scores once, at its end: splits and the general text
    written: int = 0  # how often it writes texts for valid
    pauses: int = 0  # how often it scores between two steps

    def scored_tokens(self, tokens: Mapping[str, int]) -> tuple[int, int]:
        """Tokens that one run scores, in training precision and in fp32; `tokens`: size of splits and general text."""
        as_trained = self.valid * tokens.get("valid", 0) + self.general * tokens["general"]
        return as_trained, sum(tokens.get(name, 0) for name in self.in_fp32)


class Length(NamedTuple):
    """Known properties of the data."""

    num_steps: int  # of a run
    has_general: bool  # forgetting is measured


def trials_of(study: ResolvedStudy, arm: TrainedArm, extent: Extent) -> Trials:
    """Trials of a trained arm; `rank: auto` is searched twice, at its highest rank and at the candidate."""
    once = _one_search(study, arm, extent)
    times = 2 if arm.has_open_rank else 1
    return Trials(once.full_length * times, once.short * times)


def _one_search(study: ResolvedStudy, arm: TrainedArm, extent: Extent) -> Trials:
    tuning, short = study.tuning, 0
    if arm.rates is not None:  # these alone
        full_length = len(arm.rates)
    elif tuning.search == "short":
        full_length, short = tuning.cap if extent == "cap" else AFTER_SHORT, tuning.rates
    elif tuning.rates == 1:  # no edge to go beyond
        full_length = 1
    elif extent == "cap":
        full_length = tuning.cap
    else:  # of two rates the better one is at an edge
        always_refines = tuning.half_steps and study.protocol == "fixed"
        wanted = max(tuning.rates, 3) + (HALF_STEPS if always_refines else 0)
        full_length = min(wanted, tuning.cap)
    return Trials(full_length * tuning.seeds, short * tuning.seeds)


def num_scored(study: ResolvedStudy) -> int:
    """Number of runs up to the first look that only score: the bases, and arms trained elsewhere."""
    return len(study.bases) + sum(study.looks[0] if arm.has_seeds else 1 for arm in study.existing_arms.values())


def expected_runs(study: ResolvedStudy, length: Length, extent: Extent) -> Iterator[Runs]:
    """All runs of a resolved study up to its first look.

    With `least`, an arm with `rank: auto` ends with its first search if it may become identical to another arm.
    """
    held_out, writes = _held_out(length), int(study.select_by is not None)
    yield Runs("base", "base", len(study.bases), in_fp32=held_out, written=writes)
    for name, arm in study.arms.items():
        if not arm.is_trained:
            yield Runs(name, "confirm", study.looks[0] if arm.has_seeds else 1, in_fp32=held_out)
            continue
        yield from _search(study, name, length, extent, arm.num_truncated)
        if arm.has_open_rank and extent == "least" and _may_leave(study, name):
            continue
        if arm.has_open_rank:
            yield from _search(study, name, length, extent, 0)
        yield confirmations(study, name, length, study.looks[0])


def later_looks(study: ResolvedStudy, length: Length) -> Iterator[Runs]:
    """Runs that later looks add if every arm continues to the last; none if there is only one look."""
    more = study.looks[-1] - study.looks[0]
    for name, arm in study.arms.items() if more else ():
        if arm.is_trained:
            yield confirmations(study, name, length, more)
        elif arm.has_seeds:
            yield Runs(name, "confirm", more, in_fp32=_held_out(length))


def _held_out(length: Length) -> tuple[str, ...]:
    """What a run that only scores is scored on."""
    return ("valid", "test", "general") if length.has_general else ("valid", "test")


def _search(study: ResolvedStudy, name: str, length: Length, extent: Extent, truncated: int) -> Iterator[Runs]:
    trials, general = _one_search(study, study.trained_arms[name], extent), int(length.has_general)
    if trials.short:
        train = short_training(study.train, length.num_steps)
        num_steps = train.num_steps(0)
        at = evaluated(train, num_steps)
        written = len(at) if study.select_by else 0
        yield Runs(name, "short", trials.short, num_steps, len(at), written=written, pauses=_between(at, num_steps))
    at = evaluated(study.train, length.num_steps)
    pauses = _between(at, length.num_steps)
    written = len(at) if study.select_by else 0
    scored = len(at) + truncated
    yield Runs(name, "tune", trials.full_length, length.num_steps, scored, general, written=written, pauses=pauses)


def confirmations(study: ResolvedStudy, name: str, length: Length, num_runs: int) -> Runs:
    """Confirmed runs of an arm that trains.

    `valid` is scored at every evaluation, at other points of the forgetting curve, and for every extracted adapter.
    """
    points = forgetting_steps(study.forgetting.points if length.has_general else 0, length.num_steps)
    evaluations = evaluated(study.train, length.num_steps)
    at = evaluations | points
    return Runs(
        arm=name,
        role="confirm",
        num_runs=num_runs,
        num_steps=length.num_steps,
        valid=len(at) + study.arms[name].num_extracted,
        general=len(points),
        in_fp32=("test", "general") if length.has_general else ("test",),
        written=len(evaluations) if study.select_by else 0,
        pauses=_between(at, length.num_steps),
    )


def _between(steps: frozenset[int], num_steps: int) -> int:
    return len(steps - {0, num_steps})


def evaluated(train: TrainSpec, num_steps: int) -> frozenset[int]:
    """Steps after which `valid` is scored; short runs have fewer than requested."""
    return train.evaluation_steps(num_steps) - {0}


def _may_leave(study: ResolvedStudy, name: str) -> bool:
    """Whether this arm with `rank: auto` would be identical to another arm at some rank."""
    arm = study.lora_arms[name]
    return any(twin(study.arms, name, arm.at(rank)) for rank in (*arm.truncations, arm.top_rank))
