"""Law 33 for many workers: the records of a study depend neither on their number nor on which run ends first."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from builders import make_run_spec
from desk import conftest as fake
from desk.planned_study import GIB, PEAK, arm_plan, study_plan
from tunewise.commands.planning import room_of
from tunewise.commands.running import Running
from tunewise.desk.protocol import resolve
from tunewise.desk.study.state import StudyState
from tunewise.executors.places import Places
from tunewise.inputs.input_files import InputFiles
from tunewise.records import RunRecord
from tunewise.records.events import Event, unheard
from tunewise.spec import RunSpec, StudySpec
from tunewise.storage.ledger import Ledger

SMALL = {"looks": [2], "forgetting": {"tokens": 0}, "samples": {"count": 0}}
SHORT = {"rates": 7, "cap": 5, "search": "short"}
AUTO = {"full": {"method": "full"}, "lora": {"method": "lora", "rank": "auto", "max_rank": 8, "targets": "qkv"}}
# What makes the order of the runs matter, if anything does.
STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "searches that extend": ("sft", {"tuning": {"rates": 3, "cap": 7}}),
    "a new head": ("classify", {}),
    "short trials": ("sft", {"tuning": SHORT}),
    "looks": ("sft", {"looks": [2, 3, 4], "protocol": "fixed", "margin": "0.003"}),
    "a budget": ("sft", {"budget": "3min", "tuning": {"rates": 3, "cap": 7}, "looks": [3, 5]}),
    "a rank to find": ("sft", {"arms": AUTO, "tuning": {"half_steps": False}}),
}


class SimulatedPlaces(Places):
    """Places where any run under way may be the next to end, as `choose` says."""

    def __init__(self, number: int, lab: fake.FakeLab, choose: Callable[[list[str]], str]) -> None:
        super().__init__([AssertionError] * number, lab.ledger, study_of("searches that extend").machine, unheard)
        self.lab, self.choose = lab, choose
        self.most = 0  # runs that were ever under way at the same time
        self.made: list[RunSpec] = []

    def start(self, spec: RunSpec, data_folder: Path) -> None:
        assert spec.run_id not in self.under_way, "nothing is asked for that is under way"
        assert len(self.under_way) < self.num_places
        if spec.role == "confirm":
            assert not any(of.role in ("short", "tune") for of in self.under_way.values()), "its rate is chosen"
        self.under_way[spec.run_id] = spec
        self.most = max(self.most, len(self.under_way))

    def may_start(self, spec: RunSpec) -> bool:
        return len(self.under_way) < self.num_places

    def ended(self) -> RunRecord:
        spec = self.under_way.pop(self.choose(list(self.under_way)))
        self.made.append(spec)
        return self.lab.run(spec)


def study_of(name: str) -> StudySpec:
    return fake.study_spec(**{**SMALL, **STUDIES[name][1]})


def finished(name: str, folder: Path, workers: int, choose: Callable[[list[str]], str], lose: str = "") -> Any:
    """The records of a study, and how it was made; `lose`: the first attempt at runs whose id begins so."""
    data = fake.data_summary(STUDIES[name][0])
    study = resolve.resolve(study_of(name), data)
    ledger = Ledger(folder)
    ledger.create()
    lost: set[str] = set()

    def change(record: RunRecord) -> RunRecord:
        if not lose or not record.run_id.startswith(lose) or record.run_id in lost:
            return record
        lost.add(record.run_id)
        return record.replace(status="failed")

    places = SimulatedPlaces(workers, fake.FakeLab(ledger, study, data, change), choose)
    state = Running(study, data, places, InputFiles({}), []).finish()
    assert isinstance(state, StudyState)
    return {r.run_id: r for r in ledger.records()}, places


COUNTER = itertools.count()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
@given(st.randoms(use_true_random=False), st.integers(2, 9), st.sampled_from(["", "1", "b"]))
@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
def test_law_33_records_depend_neither_on_the_number_of_workers_nor_on_who_is_done_first(
    name: str, tmp_path_factory: pytest.TempPathFactory, draw: random.Random, workers: int, lose: str
) -> None:
    """Law 33: the loop of the driver itself, with runs that end in any order and some that are lost once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunewise.storage.disk.sync", lambda path: None)
        root = tmp_path_factory.mktemp(f"law-{next(COUNTER)}")
        alone, in_order = finished(name, root / "alone", 1, lambda ids: ids[0], lose)
        shared, places = finished(name, root / "shared", workers, draw.choice, lose)
        backwards, _ = finished(name, root / "backwards", workers, lambda ids: ids[-1])
    assert shared == alone
    assert backwards.keys() == alone.keys()
    assert in_order.most == 1
    assert 1 < places.most <= workers
    assert len(places.made) == len(in_order.made), "no run is made twice but one that was lost"


def test_runs_that_do_not_fit_together_are_made_one_at_a_time_and_the_user_is_told(tmp_path: Path) -> None:
    big, small = arm_plan(step=PEAK.replace(weights=6 * GIB)), arm_plan(step=PEAK.replace(weights=0, activations=0))
    plan = study_plan(full=big, lora=small).replace(device="cpu", memory_bytes=24 * GIB)
    told: list[Event] = []
    room = room_of(plan, 2, told.append)
    assert [event.event for event in told] == ["crowded"]
    assert "arm 'full' needs about 12.5 GiB" in str(told)
    assert "only 1 at a time" in str(told)
    ledger = Ledger(tmp_path)
    ledger.create()
    places = Places([AssertionError] * 3, ledger, study_of("looks").machine, unheard)
    places.room = room
    under_way = make_run_spec(arm="full")
    places.under_way[under_way.run_id] = under_way
    assert not places.may_start(make_run_spec(arm="full", seed=8))
    assert places.may_start(make_run_spec(arm="lora", seed=8))
    assert room_of(plan.replace(device="cuda"), 2, unheard) is None
    assert room_of(plan, 1, unheard) is None


def test_a_confirmation_waits_for_its_turn_where_timing_is_exclusive_and_so_does_what_was_lost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    trial, confirmation = make_run_spec(role="tune", seed=5), make_run_spec(role="confirm")
    for is_exclusive in (False, True):
        machine = study_of("looks").machine.replace(exclusive_timing=is_exclusive)
        places = Places([AssertionError] * 3, ledger, machine, unheard)
        assert places.may_start(confirmation)
        places.under_way[trial.run_id] = trial
        assert places.may_start(confirmation) != is_exclusive
        assert places.may_start(trial.replace(seed=6))
    ledger.begin(confirmation)
    ledger.finish(RunRecord(run_id=confirmation.run_id, spec=confirmation, status="failed"))
    places = Places([AssertionError] * 3, ledger, study_of("looks").machine, unheard)
    places.under_way[trial.run_id] = trial
    assert not places.may_start(confirmation), "what ran beside it may be why it was lost"
