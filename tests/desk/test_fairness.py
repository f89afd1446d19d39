"""Every fairness rule speaks where it must, and only there."""

from collections.abc import Callable
from typing import Any

import pytest

from tunewise.desk import schedule
from tunewise.desk.fairness import RULES, Finding, check
from tunewise.ledger import Ledger
from tunewise.records import DataSummary, RunRecord

ALL_LINEAR = {"full": {"method": "full"}, "lora": {"method": "lora", "rank": 16, "targets": "all-linear"}}

Make = Callable[..., Ledger]


def findings(ledger: Ledger) -> dict[str, Finding]:
    data = ledger.data_summary()
    study = schedule.resolve(ledger.study(), data)
    return {finding.id: finding for finding in check(study, data, schedule.current(study, data, ledger.records()))}


def splits(finished: Ledger, **of_test: Any) -> list[dict[str, Any]]:
    """The splits of the fake study without duplicates, the test split changed."""
    clean = [{**split.model_dump(), "duplicates_dropped": 0} for split in finished.data_summary().splits]
    return [{**split, **of_test} if split["split"] == "test" else split for split in clean]


def of_arm(arm: str, change: Callable[[RunRecord], RunRecord]) -> Callable[[RunRecord], RunRecord]:
    return lambda record: change(record) if record.spec.arm == arm and record.spec.role == "confirm" else record


@pytest.fixture
def clean(make_study: Make, finished: Ledger) -> Make:
    """Writes studies in which no rule finds anything, but for what the arguments change."""

    def make(study: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **others: Any) -> Ledger:
        return make_study(
            study={"arms": ALL_LINEAR, **(study or {})}, data={"splits": splits(finished), **(data or {})}, **others
        )

    return make


def test_a_clean_study_has_no_findings(clean: Make) -> None:
    assert findings(clean()) == {}


def test_an_unfinished_study_is_not_blamed_for_what_it_has_not_done(clean: Make) -> None:
    assert findings(clean(max_runs=4)) == {}


def test_an_optimum_at_the_edge_blocks_and_names_the_rates(clean: Make) -> None:
    found = findings(clean(study={"tuning": {"rates": 1}}))["optimum-at-edge"]
    assert found.severity == "blocks"
    assert "0.0014" in found.evidence


def test_two_seeds_warn_and_three_do_not(clean: Make) -> None:
    assert findings(clean(study={"looks": [2]}))["too-few-seeds"].evidence == "2 seeds"
    assert "too-few-seeds" not in findings(clean(study={"looks": [3]}))


@pytest.mark.parametrize(("units", "severity"), [(9, "blocks"), (10, "warns"), (29, "warns"), (30, None)])
def test_few_units_warn_below_30_and_block_below_10(
    clean: Make, finished: Ledger, units: int, severity: str | None
) -> None:
    found = findings(clean(data={"splits": splits(finished, units=units)})).get("few-units")
    assert (found.severity if found else None) == severity


def test_a_best_checkpoint_at_the_last_evaluation_warns_if_it_is_so_in_most_runs(clean: Make) -> None:
    late = of_arm("lora", lambda record: record.replace(selected_step=record.evaluations[-1].step))
    assert findings(clean(change=late))["still-improving"].evidence == "3 of 3 runs best at the last step"
    once = of_arm("lora", lambda record: late(record) if record.spec.seed == 1 else record)
    assert "still-improving" not in findings(clean(change=once))


def test_a_best_checkpoint_before_half_of_the_steps_warns(clean: Make) -> None:
    early = of_arm("full", lambda record: record.replace(selected_step=record.evaluations[0].step))
    assert set(findings(clean(change=early))) == {"early-best"}


def test_with_the_last_checkpoint_declared_the_lowest_valid_loss_tells_when_an_arm_was_best(clean: Make) -> None:
    def last(record: RunRecord) -> RunRecord:
        return record.replace(selected_step=record.evaluations[-1].step) if record.evaluations else record

    assert "still-improving" not in findings(clean(study={"checkpoint": "last"}, change=last))


def test_leakage_that_was_kept_blocks_and_that_was_dropped_is_told(clean: Make, finished: Ledger) -> None:
    kept = findings(clean(study={"data": {"train": "builtin:stdlib", "duplicates": "keep"}}))
    assert kept["leakage-kept"].severity == "blocks"
    dropped = findings(clean(data={"splits": [s.model_dump() for s in finished.data_summary().splits]}))
    assert dropped["duplicates-dropped"].severity == "note"
    assert dropped["duplicates-dropped"].evidence == "3 rows of train"


def test_near_duplicates_warn(clean: Make) -> None:
    assert findings(clean(data={"near_duplicates": 4}))["near-duplicates"].evidence == "4 of 150 test rows"


def test_rows_that_were_cut_warn_with_their_tokens(clean: Make, finished: Ledger) -> None:
    cut = splits(finished, truncated_rows=1, truncated_tokens=40)
    assert findings(clean(data={"splits": cut}))["truncated-rows"].evidence == "1 row and 40 tokens of test"


@pytest.mark.parametrize(
    ("role", "status", "name"),
    [
        ("confirm", "diverged", "confirmation-diverged"),
        ("confirm", "failed", "confirmation-failed"),
        ("tune", "failed", "trials-failed"),
        ("tune", "diverged", "trials-diverged"),
    ],
)
def test_lost_runs_are_counted_by_arm(clean: Make, role: str, status: str, name: str) -> None:
    def lose(record: RunRecord) -> RunRecord:
        spec = record.spec
        high = spec.learning_rate == 0.00419  # the highest of the rates of `lora`
        is_lost = spec.arm == "lora" and spec.role == role and (high if role == "tune" else spec.seed == 1)
        return record.replace(status=status, message="lost") if is_lost else record

    found = findings(clean(study={"looks": [5]}, change=lose))
    assert found[name].evidence == "lora: 1"
    assert set(found) == {name}


def test_an_arm_whose_rates_all_diverge_is_named(clean: Make) -> None:
    def lose(record: RunRecord) -> RunRecord:
        is_lost = record.spec.arm == "lora" and record.spec.role == "tune"
        return record.replace(status="diverged") if is_lost else record

    found = findings(clean(change=lose))
    assert "lora" in found["no-finished-rate"].sentence


def test_library_versions_that_differ_between_arms_block(clean: Make) -> None:
    def upgrade(record: RunRecord) -> RunRecord:
        assert record.environment is not None
        versions = {**record.environment.versions, "torch": "2.13.1"}
        return record.replace(environment=record.environment.replace(versions=versions).model_dump())

    found = findings(clean(change=of_arm("lora", upgrade)))["different-versions"]
    assert found.severity == "blocks"
    assert "torch 2.13.1" in found.evidence


def test_hardware_that_differs_between_arms_warns(clean: Make) -> None:
    def move(record: RunRecord) -> RunRecord:
        assert record.environment is not None
        return record.replace(environment=record.environment.replace(device_name="Other CPU").model_dump())

    found = findings(clean(change=of_arm("lora", move)))["different-hardware"]
    assert found.severity == "warns"
    assert found.evidence == "full: Example CPU @ 2.4 GHz; lora: Other CPU"


def test_unequal_numbers_of_trials_are_told_with_their_counts(clean: Make) -> None:
    def raise_lowest_loss(record: RunRecord) -> RunRecord:
        # the highest rate of `lora` becomes the best, so that its search is extended
        if record.spec.arm != "lora" or record.spec.learning_rate != 0.00419:
            return record
        best = [{**e.model_dump(), "nll": e.nll - 1} for e in record.evaluations]
        return record.replace(evaluations=best)

    found = findings(clean(change=raise_lowest_loss))
    assert found["unequal-trials"].severity == "note"
    assert found["unequal-trials"].evidence == "full: 5, lora: 6"


def test_targets_under_half_of_the_linear_parameters_warn(clean: Make) -> None:
    narrow = {"full": {"method": "full"}, "lora": {"method": "lora", "targets": "qkv"}}
    assert findings(clean(study={"arms": narrow}))["narrow-targets"].evidence == "25% covered"


def test_blocking_findings_come_first(clean: Make) -> None:
    study = {"looks": [2], "tuning": {"rates": 1}, "data": {"train": "builtin:stdlib", "duplicates": "keep"}}
    ledger = clean(study=study, data={"near_duplicates": 1})
    data: DataSummary = ledger.data_summary()
    resolved = schedule.resolve(ledger.study(), data)
    severities = [f.severity for f in check(resolved, data, schedule.current(resolved, data, ledger.records()))]
    order = ["blocks", "warns", "note"]
    assert severities == sorted(severities, key=order.index)
    assert {"blocks", "warns"} <= set(severities)


def test_every_rule_is_listed_once() -> None:
    assert len(set(RULES)) == len(RULES)
