"""Every fairness rule speaks where it must, and only there."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tunewise.desk.analysis.curves import LossPoint
from tunewise.desk.fairness import RULES, Case, Finding, check, check_before
from tunewise.desk.protocol import resolve, schedule, trials
from tunewise.desk.report.compose.build import build_report
from tunewise.records import DataSummary, RunRecord, TrainableSummary
from tunewise.storage.ledger import Ledger

ALL_LINEAR = {"full": {"method": "full"}, "lora": {"method": "lora", "rank": 16, "targets": "all-linear"}}

Make = Callable[..., Ledger]


def findings(ledger: Ledger) -> dict[str, Finding]:
    data = ledger.data_summary()
    study = resolve.resolve(ledger.study(), data)
    return {
        finding.id: finding for finding in check(Case(study, data, schedule.current(study, data, ledger.records())))
    }


def findings_with(ledger: Ledger, change: Callable[[RunRecord], RunRecord], **others: Any) -> dict[str, Finding]:
    """The findings on records that say something which the schedule would not have asked for."""
    data = ledger.data_summary()
    study = resolve.resolve(ledger.study(), data)
    records = [change(record) for record in schedule.current(study, data, ledger.records())]
    return {finding.id: finding for finding in check(Case(study, data, records, **others))}


def findings_before(ledger: Ledger) -> dict[str, Finding]:
    data = ledger.data_summary()
    return {finding.id: finding for finding in check_before(resolve.resolve(ledger.study(), data), data)}


def respecified(**changes: Any) -> Callable[[RunRecord], RunRecord]:
    return lambda record: record.replace(spec=record.spec.replace(**changes).model_dump())


def retrained(**changes: Any) -> Callable[[RunRecord], RunRecord]:
    return lambda record: respecified(train=record.spec.train.replace(**changes))(record)


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
    assert findings(clean(change=late))["still-improving"].evidence == "lora: best at the last step in 3 of 3 runs"
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
    keep = {"data": {"train": "builtin:stdlib", "duplicates": "keep"}}
    kept = findings(clean(study=keep, data={"exact_duplicates": 7}))["leakage-kept"]
    assert (kept.severity, kept.evidence) == ("blocks", "7 of 150 test rows")
    assert "leakage-kept" not in findings(clean(study=keep, data={"exact_duplicates": 0}))
    assert "unknown" in findings(clean(study=keep))["leakage-kept"].evidence
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
        ("confirm", "timed-out", "confirmation-timed-out"),
        ("tune", "failed", "trials-failed"),
        ("tune", "timed-out", "trials-timed-out"),
        ("tune", "diverged", "trials-diverged"),
    ],
)
def test_lost_runs_are_counted_by_arm(clean: Make, role: str, status: str, name: str) -> None:
    def lose(record: RunRecord) -> RunRecord:
        spec = record.spec
        high = spec.learning_rate == 0.00419  # the highest of the rates of `lora`
        is_lost = spec.arm == "lora" and spec.role == role and (high if role == "tune" else spec.seed == 1)
        return record.replace(status=status, message="lost") if is_lost else record

    found = findings(clean(study={"looks": [5], "protocol": "fixed"}, change=lose))
    where, _, why = found[name].evidence.partition("; lost (runs/")
    assert where == ("lora: 1; seeds 1" if role == "confirm" else "lora: 1")
    assert why.endswith("/log.txt)") == (status == "failed")
    assert set(found) == {name}


@pytest.mark.parametrize("status", ["failed", "timed-out", "out-of-memory"])
def test_a_base_that_was_not_scored_is_named(clean: Make, status: str) -> None:
    def lose(record: RunRecord) -> RunRecord:
        return record.replace(status=status, message="lost") if record.spec.role == "base" else record

    assert findings(clean(change=lose))[f"base-{status}"].severity == "warns"


def test_lost_short_trials_are_counted_among_the_trials(clean: Make) -> None:
    def lose(record: RunRecord) -> RunRecord:
        is_it = (record.spec.arm, record.spec.role, record.spec.learning_rate) == ("lora", "tune", 0.00419)
        return respecified(role="short")(record).replace(status="failed", message="lost") if is_it else record

    assert findings_with(clean(), lose)["trials-failed"].evidence.startswith("lora: 1; lost (runs/")


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
    assert found["unequal-trials"].evidence == "full: 3, lora: 7"


def test_targets_under_half_of_the_linear_parameters_warn(clean: Make) -> None:
    narrow = {"full": {"method": "full"}, "lora": {"method": "lora", "targets": "qkv"}}
    assert findings(clean(study={"arms": narrow}))["narrow-targets"].evidence == "lora: 25% covered"


def test_arms_on_a_base_in_4_bits_are_named_with_the_base_that_shows_its_cost(clean: Make) -> None:
    arms = {"full": {"method": "full"}, "lora": {"method": "lora"}, "qlora": {"method": "lora", "base": "nf4"}}
    ledger = clean(study={"arms": arms})
    found = findings(ledger)
    assert found["quantized-base"].evidence == "qlora: nf4; all other arms: whole"
    assert "The scores of base-nf4 show it" in found["quantized-base"].sentence
    assert "same-training" not in found, "the base is another one, so the training is, too"
    assert [arm.name for arm in build_report(ledger).arms] == ["base", "base-nf4", "full", "lora", "qlora"]
    assert {record.spec.arm for record in ledger.records() if record.spec.role == "base"} == {"base", "base-nf4"}
    assert "quantized-base" not in findings(clean())


def test_targets_that_match_nothing_block_before_the_study(clean: Make) -> None:
    nothing = TrainableSummary(
        trainable_parameters=0,
        total_parameters=10,
        scale=4,
        num_target_modules=0,
        linear_share=0,
        parameter_groups=(),
    )
    ledger = clean(data={"arms": {"lora": nothing.model_dump()}}, max_runs=0)
    assert findings_before(ledger)["nothing-adapted"].arms == ("lora",)
    assert "nothing-adapted" not in findings_before(clean(max_runs=0))


# --- learning rates


def test_an_arm_with_rates_of_its_own_blocks_its_comparison_before_and_after_the_study(clean: Make) -> None:
    own = {**ALL_LINEAR, "lora": {**ALL_LINEAR["lora"], "rates": [1e-3, 2e-3]}}
    ledger = clean(study={"arms": own})
    for found in (findings_before(ledger), findings(ledger)):
        assert found["unequal-tuning-rule"].arms == ("lora",)
        assert found["unequal-tuning-rule"].evidence.startswith("rates 0.001, 0.002")
    tried = trials.trials(ledger.records(), "lora")
    assert [trial.rate for trial in tried] == [1e-3, 2e-3]
    assert "unequal-tuning-rule" not in findings(clean())


def test_more_trials_than_the_cap_block(clean: Make) -> None:
    ledger = clean()
    data, cap = ledger.data_summary(), ledger.study().tuning.cap
    study = resolve.resolve(ledger.study(), data)
    records = schedule.current(study, data, ledger.records())
    (trial,) = (r for r in records if (r.spec.arm, r.spec.role, r.spec.learning_rate) == ("full", "tune", 0.00014))
    more = [respecified(learning_rate=0.0001 + i * 1e-6)(trial) for i in range(cap)]
    found = {finding.id: finding for finding in check(Case(study, data, [*records, *more]))}
    assert found["unequal-tuning-rule"].arms == ("full",)


def test_the_head_rate_at_the_edge_is_a_warning_for_all_and_blocks_the_head_arm_alone(clean: Make) -> None:
    def better_at_lower_rates(record: RunRecord) -> RunRecord:
        falling = [{**e.model_dump(), "accuracy": 0.9 - (record.spec.learning_rate or 0)} for e in record.evaluations]
        return record.replace(evaluations=falling) if record.spec.arm == "head" else record

    edge = findings(clean(data={"task": "classify"}, change=better_at_lower_rates))
    assert edge["head-rate-at-edge"].severity == "warns"
    assert edge["optimum-at-edge"].arms == ("head",)
    assert "head-rate-at-edge" not in findings(clean(data={"task": "classify"}))


def lopsided(arm: str) -> Callable[[RunRecord], RunRecord]:
    """The trial above the best rate of `arm` is nearly as good, so that the parabola's minimum lies between."""

    def change(record: RunRecord) -> RunRecord:
        above, gained = {"full": (0.000419, 0.12), "lora": (0.00419, 0.095)}[arm]
        if (record.spec.arm, record.spec.learning_rate) != (arm, above):
            return record
        return record.replace(evaluations=[{**e.model_dump(), "nll": e.nll - gained} for e in record.evaluations])

    return change


def test_headroom_above_a_quarter_of_the_margin_is_told(clean: Make) -> None:
    study = {"tuning": {"half_steps": False}, "protocol": "fixed", "looks": [3]}
    for arm in ("full", "lora"):
        found = findings(clean(study=study, change=lopsided(arm)))["headroom"]
        assert (found.arms, found.severity, found.forbids) == (
            (arm,),
            "warns",
            (),
        )  # desk/statistics/comparison.py forbids
    assert "headroom" not in findings(clean(study={**study, "margin": "0.5"}, change=lopsided("lora")))
    other_metric = {**study, "primary": "bits_per_byte", "margin": "0.02"}  # which no trial measured
    assert "headroom" not in findings(clean(study=other_metric, change=lopsided("lora")))


def test_headroom_is_measured_by_a_share_of_the_gain_on_valid(clean: Make) -> None:
    study = {"tuning": {"half_steps": False}, "margin": "50% of gain", "protocol": "fixed", "looks": [3]}
    ledger = clean(study=study, change=lopsided("full"))
    # full gains 0.62 of its 3.1: half of it is a wide margin; of a gain that is 0.04 it is a narrow one
    assert "headroom" not in findings_with(ledger, lambda record: record, reference_loss=3.1)
    assert "headroom" in findings_with(ledger, lambda record: record, reference_loss=2.52)
    assert "headroom" not in findings_with(ledger, lambda record: record, reference_loss=None)


def test_a_head_rate_that_differs_between_arms_blocks(clean: Make) -> None:
    ledger = clean(data={"task": "classify"})
    found = findings_with(ledger, of_arm("lora", respecified(head_learning_rate=0.5)))
    assert found["head-rate-differs"].arms == ("lora",)
    assert "head-rate-differs" not in findings(ledger)


def test_lora_arms_of_different_alpha_at_one_untuned_rate_block(clean: Make) -> None:
    def arms(**of_second: Any) -> dict[str, Any]:
        lora = {"method": "lora", "rates": [1e-3]}
        return {"full": {"method": "full"}, "a": {**lora, "alpha": 16}, "b": {**lora, "rank": 4, **of_second}}

    different = findings_before(clean(study={"arms": arms(alpha=32)}, max_runs=0))
    assert different["shared-rate-untuned"].evidence == "rate 0.001; alpha_eff a: 16, b: 32"
    assert "shared-rate-untuned" not in findings_before(clean(study={"arms": arms(alpha=16)}, max_runs=0))
    assert "shared-rate-untuned" not in findings_before(clean(study={"arms": arms(rates=[2e-3])}, max_runs=0))


def test_an_arm_trained_elsewhere_is_named_before_the_study(clean: Make) -> None:
    arms = {"full": {"method": "full"}, "theirs": {"method": "existing", "path": "adapter"}}
    ledger = clean(study={"arms": arms}, data={"existing": {"theirs": "e" * 64}}, max_runs=0)
    assert findings_before(ledger)["trained-elsewhere"].evidence == "1 arm: theirs"
    assert "trained-elsewhere" not in findings_before(clean(max_runs=0))


# --- training


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda record: record.replace(num_steps=200), "steps: full: 126; lora: 200"),
        (
            lambda record: record.replace(usage={**record.usage.model_dump(), "num_tokens": 5}),
            "tokens: full: 121000; lora: 5",
        ),
        (
            lambda record: record.replace(usage={**record.usage.model_dump(), "num_supervised_tokens": 5}),
            "supervised tokens: full: 47500; lora: 5",
        ),
        (retrained(batch_size=8), "batch size: full: 16; lora: 8"),
        (retrained(epochs=7), "epochs: full: 2; lora: 7"),
    ],
)
def test_more_steps_tokens_batch_or_epochs_in_one_arm_block(
    clean: Make, change: Callable[[RunRecord], RunRecord], shown: str
) -> None:
    found = findings_with(clean(), of_arm("lora", change))["different-training"]
    assert (found.arms, found.evidence) == (("lora",), shown)


def test_seeds_may_differ_in_tokens_if_the_arms_do_not(clean: Make) -> None:
    """With `data.resample` they do, and an arm may lack a seed that full has."""

    def by_seed(record: RunRecord) -> RunRecord:
        return record.replace(usage={**record.usage.model_dump(), "num_tokens": record.spec.seed})

    def diverge(record: RunRecord) -> RunRecord:
        is_lost = (record.spec.arm, record.spec.role, record.spec.seed) == ("lora", "confirm", 2)
        return by_seed(record.replace(status="diverged") if is_lost else record)

    def swap(record: RunRecord) -> RunRecord:
        others = {**record.usage.model_dump(), "num_tokens": 4 - record.spec.seed}
        return record.replace(usage=others) if record.spec.arm == "lora" else by_seed(record)

    assert "different-training" not in findings_with(clean(), diverge)
    assert findings_with(clean(), swap)["different-training"].arms == ("lora",)


def test_a_run_that_diverged_is_not_blamed_for_the_steps_that_it_lacks(clean: Make) -> None:
    def diverge(record: RunRecord) -> RunRecord:
        return record.replace(status="diverged", num_steps=3) if record.spec.seed == 2 else record

    assert "different-training" not in findings_with(clean(), of_arm("lora", diverge))


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (retrained(weight_decay=0.1), "weight decay: full: 0.01; lora: 0.1"),
        (retrained(clip_norm=9.0), "clipping: full: 1; lora: 9"),
    ],
)
def test_another_weight_decay_or_clipping_in_one_arm_blocks(
    clean: Make, change: Callable[[RunRecord], RunRecord], shown: str
) -> None:
    assert findings_with(clean(), of_arm("lora", change))["different-regularisation"].evidence == shown


def test_another_precision_of_what_learns_blocks(clean: Make) -> None:
    def half(record: RunRecord) -> RunRecord:
        assert record.tuned is not None
        return record.replace(tuned={**record.tuned.model_dump(), "learned_dtypes": ["bfloat16"]})

    found = findings_with(clean(), of_arm("lora", half))["different-precision"]
    assert (found.arms, found.severity) == (("lora",), "blocks")
    assert "bfloat16" in found.evidence
    by_spec = findings_with(clean(), of_arm("lora", respecified(precision="bf16")))
    assert by_spec["different-precision"].evidence == "precision: full: fp32; lora: bf16"


def test_updates_that_the_stored_weights_do_not_take_block(clean: Make) -> None:
    def stored(share: float) -> dict[str, Finding]:
        return findings_with(clean(), of_arm("lora", lambda record: record.replace(updates_kept=share)))

    lost = stored(0.89)["updates-lost"]
    assert (lost.arms, lost.severity, lost.evidence) == (("lora",), "blocks", "lora: 89.0% of the weights changed")
    assert "updates-lost" not in stored(0.9)


# --- the protocol


def test_a_search_seed_that_confirms_too_blocks(clean: Make) -> None:
    ledger = clean()
    reuse = respecified(seed=ledger.study().search_seeds()[0])
    found = findings_with(ledger, of_arm("lora", lambda r: reuse(r) if r.spec.seed == 1 else r))
    assert found["search-seeds-reused"].evidence == "lora: 1000000"
    assert found["search-seeds-reused"].arms == ("lora",)


def test_test_scores_from_before_a_change_of_settings_are_counted(clean: Make) -> None:
    ledger = clean()
    older = [
        retrained(epochs=7)(record).replace(run_id=f"{number:016x}")
        for number, record in enumerate(ledger.records())
        if (record.spec.arm, record.spec.role) == ("lora", "confirm")
    ]
    found = findings_with(ledger, lambda record: record, stale=older)["test-scored-again"]
    assert (found.severity, found.evidence) == ("warns", "lora: 3 seeds")
    other_data = [r.replace(spec=r.spec.replace(inputs=r.spec.inputs.replace(data="x")).model_dump()) for r in older]
    assert "test-scored-again" not in findings_with(ledger, lambda record: record, stale=other_data)


# --- machines


def test_timed_runs_that_overlapped_warn_and_name_the_first_pair(clean: Make) -> None:
    def timed(minutes_apart: float) -> dict[str, Finding]:
        begin = datetime(2026, 1, 1, tzinfo=UTC)
        turns = iter(range(1000))

        def change(record: RunRecord) -> RunRecord:
            assert record.usage is not None
            started = begin + timedelta(minutes=minutes_apart * next(turns))
            ended = started + timedelta(minutes=2)
            return record.replace(usage={**record.usage.model_dump(), "started": started, "ended": ended})

        return findings_with(clean(), change)

    overlapped = timed(minutes_apart=1)["timed-runs-overlapped"]
    assert overlapped.severity == "warns"
    assert "seed" in overlapped.evidence
    assert "timed-runs-overlapped" not in timed(minutes_apart=2)


def test_a_machine_that_others_used_while_runs_were_timed_warns(clean: Make) -> None:
    def used(share: float | None) -> Callable[[RunRecord], RunRecord]:
        def change(record: RunRecord) -> RunRecord:
            assert record.usage is not None
            is_it = record.spec.seed == 2
            return record.replace(usage=record.usage.replace(others_share=share if is_it else 0.01).model_dump())

        return change

    found = findings(clean(change=of_arm("lora", used(0.43))))["busy-machine"]
    assert (found.severity, found.evidence) == (
        "warns",
        "largest share of CPU time that other programs used: full 0%, lora 43%",
    )
    assert "busy-machine" not in findings(clean(change=of_arm("lora", used(0.1))))
    assert "busy-machine" not in findings(clean(change=of_arm("lora", used(None))))


def test_smaller_micro_batches_for_want_of_memory_are_noted_by_arm(clean: Make) -> None:
    def halved(record: RunRecord) -> RunRecord:
        if (record.spec.arm, record.spec.role) != ("lora", "confirm") or record.usage is None:
            return record
        return record.replace(usage={**record.usage.model_dump(), "micro_batch_tokens": 1024})

    assert findings_with(clean(), halved)["micro-batches-halved"].evidence == "lora: 1,024 tokens"


def test_continued_runs_are_noted_by_arm(clean: Make) -> None:
    def continued(record: RunRecord) -> RunRecord:
        if (record.spec.arm, record.spec.role) != ("full", "confirm"):
            return record
        assert record.usage is not None
        return record.replace(usage={**record.usage.model_dump(), "num_continued": 2})

    found = findings_with(clean(), continued)["runs-continued"]
    assert (found.severity, found.evidence) == ("note", "full: 3 runs")
    assert "runs-continued" not in findings_with(clean(), lambda record: record)


def test_runs_of_other_libraries_are_counted_and_taken_only_if_the_study_says_so(clean: Make) -> None:
    ledger = clean()
    data, study, records = ledger.data_summary(), ledger.study(), ledger.records()
    newer = data.replace(inputs=data.inputs.replace(versions={"torch": "9.9"}, base="another").model_dump())
    assert schedule.current(study, newer, records) == []
    (left,) = [f for f in check(Case(study, newer, [], records)) if f.id == "stale-left-out"]
    assert left.severity == "note"
    assert left.evidence.startswith(f"{len(records)} runs: base, torch ")
    assert "(now 9.9)" in left.evidence
    accepting = study.replace(accept_stale=True)
    taken = schedule.current(accepting, newer, records)
    assert [run.run_id for run in taken] == [run.run_id for run in records]
    assert schedule.next_runs(accepting, newer, taken, ()) == []
    (accepted,) = [f for f in check(Case(accepting, newer, taken)) if f.id == "stale-accepted"]
    assert (accepted.severity, accepted.evidence) == ("warns", left.evidence)


@pytest.mark.parametrize("name", ["data", "tokenizer", "general"])
def test_scores_of_other_data_are_never_taken(clean: Make, name: str) -> None:
    ledger = clean()
    other = ledger.data_summary()
    other = other.replace(inputs=other.inputs.replace(**{name: "another"}).model_dump())
    taken = schedule.current(ledger.study().replace(accept_stale=True), other, ledger.records())
    assert not [run for run in taken if run.spec.inputs.general]


def test_of_a_stale_run_and_one_of_today_the_latter_counts(clean: Make) -> None:
    ledger = clean()
    data, study = ledger.data_summary(), ledger.study().replace(accept_stale=True)
    older = [r.replace(spec=r.spec.replace(numerics=1).model_dump()) for r in ledger.records()]
    older = [r.replace(run_id=r.spec.run_id) for r in older]
    assert {r.run_id for r in older}.isdisjoint(r.run_id for r in ledger.records())
    for stored in ([*older, *ledger.records()], [*ledger.records(), *older]):
        assert {r.run_id for r in schedule.current(study, data, stored)} == {r.run_id for r in ledger.records()}


# --- a strong full arm


@pytest.mark.parametrize(("margin", "share"), [("0.3", "30%"), ("0.5", "10%")])
def test_a_margin_that_full_itself_is_within_early_warns_with_the_share_of_its_steps(
    clean: Make, margin: str, share: str
) -> None:
    """Full falls from 3.0 to 2.5 and 2.4 at steps 0, 50 and 100: within 0.3 of its best at step 30, 0.5 at step 10."""
    ledger = clean(study={"margin": margin})
    curve = [LossPoint(0, 3.0), LossPoint(50, 2.5), LossPoint(100, 2.4)]
    found = findings_with(ledger, lambda record: record, full_curve=curve)["loose-margin"]
    assert found.severity == "warns"
    assert f"after {share} of its steps" in found.sentence
    assert "loose-margin" not in findings_with(clean(), lambda record: record, full_curve=curve), "0.02 is reached late"


# --- all rules


def test_blocking_findings_come_first(clean: Make) -> None:
    study = {"looks": [2], "tuning": {"rates": 1}, "data": {"train": "builtin:stdlib", "duplicates": "keep"}}
    ledger = clean(study=study, data={"near_duplicates": 1})
    data: DataSummary = ledger.data_summary()
    resolved = resolve.resolve(ledger.study(), data)
    severities = [f.severity for f in check(Case(resolved, data, schedule.current(resolved, data, ledger.records())))]
    order = ["blocks", "warns", "note"]
    assert severities == sorted(severities, key=order.index)
    assert {"blocks", "warns"} <= set(severities)


def test_every_rule_is_listed_once() -> None:
    assert len(set(RULES)) == len(RULES)


def test_the_documents_table_names_every_finding_and_no_other() -> None:
    root = Path(__file__).parents[2]
    sources = "".join(path.read_text("utf-8") for path in (root / "src/tunewise/desk/fairness").glob("*.py"))
    of_rules = set(re.findall(r'"([a-z]+(?:-[a-z]+)+|headroom)"', sources)) - {"timed-out"}
    text = (root / "docs/reference/fairness-rules.md").read_text("utf-8")
    section = text.split("## All rules")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| ")][2:]
    assert {name.strip() for row in rows for name in row.split(",")} == of_rules - {"run-warning"}
