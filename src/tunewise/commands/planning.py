"""Plan of a study, stored with its prepared data: made once, timed on a few arms, and never an obstacle to the runs."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tunewise.desk.planning.estimates import run_bytes, study_seconds
from tunewise.desk.protocol.resolve import settled
from tunewise.errors import StudyError, TunewiseError
from tunewise.executors import ask
from tunewise.executors.base import Executor, LostPlaceError
from tunewise.executors.places import Room
from tunewise.records import DataSummary, events
from tunewise.records.events import Listener, unheard
from tunewise.records.plan import TIGHT, ArmPlan, PlanRequest, Speed, StudyPlan
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.ledger import Ledger
from tunewise.text.numbers import size

MOST_PROBED = 6  # arms that are timed; each takes seconds, and the speed of the others is derived


def planned(
    executor: Executor,
    ledger: Ledger,
    study: ResolvedStudy,
    data: DataSummary,
    listener: Listener = unheard,
    *,
    probe: bool = True,
) -> StudyPlan | None:
    """Plan of a resolved study whose data is prepared; None if it cannot be made, and the study continues without it.

    `listener` receives what is missing and why. A complete plan is stored and reused.
    """
    with suppress(StudyError):  # a damaged one is made again
        if found := ledger.plan(data.key, study):
            return found
    folder = ledger.data_folder(data.key)
    try:
        found = ask.plan(executor, study, folder, PlanRequest())
    except LostPlaceError:  # nothing can run there either
        raise
    except TunewiseError as error:
        listener(events.Unplanned(message=f"the study could not be planned: {error}"))
        return None
    if not probe:
        return found
    missing: list[str] = []
    found = timed(executor, settled(study, found), folder, found, missing.append)
    for message in missing:
        listener(events.Unplanned(message=message))
    for asked in () if missing else (study, settled(study, found)):
        ledger.store_plan(data.key, asked, found)
    return found


def room_of(plan: StudyPlan, num_places: int, listener: Listener) -> Room | None:
    """Room for runs at the same time in the memory of this machine; None: they do not share memory.

    `listener` hears if it is too small for as many runs as there are places.
    """
    if plan.device == "cuda" or num_places == 1:  # GPUs have their own memory
        return None
    room = Room(int(TIGHT * plan.memory_bytes), {name: run_bytes(arm) for name, arm in plan.arms.items()})
    largest = max(room.needs, key=lambda name: room.needs[name])
    if room.needs[largest] * num_places > room.capacity:
        fitting = max(1, room.capacity // room.needs[largest])
        message = (
            f"a run of arm '{largest}' needs about {size(room.needs[largest])} and this machine has "
            f"{size(plan.memory_bytes)}, so of such runs only {fitting} at a time will be made, not {num_places}"
        )
        listener(events.Crowded(message=message))
    return room


def timed(
    executor: Executor,
    study: ResolvedStudy,
    folder: Path,
    found: StudyPlan,
    tell: Callable[[str], None] = lambda message: None,
) -> StudyPlan:
    """The plan, made in `folder`, with the time that its arms and the whole study take on this machine.

    `tell` receives a sentence for every arm whose speed could not be measured.
    """
    shapes = {name: _shape(arm) for name, arm in found.arms.items() if arm.step}
    speeds: dict[str, Speed] = {}
    for name in _chosen(found, shapes):
        try:
            speeds[shapes[name]] = ask.probe(executor, study, folder, name, found.arms[name])
        except LostPlaceError:
            raise
        except TunewiseError as error:
            tell(f"the speed of arm '{name}' could not be measured: {error}")
            speeds.pop(shapes[name], None)
            shapes = {other: shape for other, shape in shapes.items() if shape != shapes[name]}
    measured = {name: speeds[shape] for name, shape in shapes.items() if shape in speeds}
    arms = {
        name: arm.replace(speed=measured.get(name) or (_scaled(arm, found, measured) if name in shapes else None))
        for name, arm in found.arms.items()
    }
    found = found.replace(arms=arms)
    return found.replace(seconds=study_seconds(study, found))


def _shape(arm: ArmPlan) -> str:
    """A text that is equal for arms with the same steps: they differ only in scale, initialization or rates."""
    tuned = arm.tuned.replace(scale=None, parameter_groups=())
    return arm.replace(tuned=tuned, speed=None, note=None).model_dump_json()


def _chosen(found: StudyPlan, shapes: dict[str, str]) -> list[str]:
    """One arm of each shape; of many shapes a few, spread evenly from the least work per step to the most."""
    first = {shape: name for name, shape in reversed(shapes.items())}
    names = sorted(first.values(), key=lambda name: found.arms[name].flops_per_token or 0)
    if len(names) <= MOST_PROBED:
        return [name for name in shapes if name in names]
    return [names[round(i * (len(names) - 1) / (MOST_PROBED - 1))] for i in range(MOST_PROBED)]


def _scaled(arm: ArmPlan, found: StudyPlan, measured: dict[str, Speed]) -> Speed | None:
    """Speed of the measured arm with the most similar work, scaled to this arm's work; None if none was measured."""

    def work(of: ArmPlan) -> float:
        return float(of.flops_per_token or 1)

    if not measured:
        return None
    name = min(measured, key=lambda name: abs(math.log(work(arm) / work(found.arms[name]))))
    speed, like = measured[name], found.arms[name]
    scoring = (arm.scoring_flops_per_token or 1) / (like.scoring_flops_per_token or 1)
    return speed.replace(
        source="similar" if speed.source == "steps" else speed.source,
        step_seconds=speed.step_seconds * work(arm) / work(like),
        score_seconds_per_token=speed.score_seconds_per_token * scoring,
        fp32_score_seconds_per_token=speed.fp32_score_seconds_per_token * scoring,
        write_seconds_per_row=speed.write_seconds_per_row and speed.write_seconds_per_row * scoring,
        peak_above_start_bytes=None,
    )
