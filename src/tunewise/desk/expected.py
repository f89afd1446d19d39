"""How many runs a study will take, as far as that is known before its trials."""

from typing import Literal, NamedTuple

from tunewise.desk.schedule import is_unsettled
from tunewise.spec import BaseMethod, ExistingMethod, Method, StudySpec

Extent = Literal["least", "cap"]  # of every search: no rate beyond the first, or all that the cap allows
LEAST_AFTER_SHORT = 3  # trials of full length after short ones: the best and its neighbours


class Trials(NamedTuple):
    """Learning-rate trials of one arm."""

    full_length: int
    short: int


def trials_of(study: StudySpec, arm: Method, extent: Extent) -> Trials:
    """Of an arm that trains; `rank: auto` is searched twice, at its highest rank and at the candidate."""
    assert not isinstance(arm, ExistingMethod | BaseMethod), "nothing is trained"
    tuning, short = study.tuning, 0
    full_length = tuning.cap if extent == "cap" else tuning.rates
    if arm.rates is not None:  # these alone
        full_length = len(arm.rates)
    elif tuning.search == "short":
        full_length, short = tuning.cap if extent == "cap" else LEAST_AFTER_SHORT, tuning.rates
    times = tuning.seeds * (2 if is_unsettled(arm) else 1)
    return Trials(full_length * times, short * times)


def trained_arms(study: StudySpec) -> dict[str, Method]:
    """The arms that train, by name."""
    return {name: arm for name, arm in study.arms.items() if not isinstance(arm, ExistingMethod)}


def num_scored(study: StudySpec) -> int:
    """Runs that only score: the base, and what was trained elsewhere."""
    return 1 + len(study.arms) - len(trained_arms(study))
