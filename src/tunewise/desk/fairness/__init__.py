"""Fairness rules: what, other than the arms themselves, could explain a difference between them. One function each.

A finding that `blocks` withholds the verdicts it concerns, one that `warns` is printed with them, and a `note` is only
reported. Some rules run before the study, on what is declared and prepared; the others run on its records.
"""

from collections.abc import Iterable, Sequence

from tunewise.desk.fairness import data as data_rules
from tunewise.desk.fairness import elsewhere, invariance, machine, protocol, strength, training, tuning
from tunewise.desk.fairness.blocking import hold_back as hold_back
from tunewise.desk.fairness.case import Case as Case
from tunewise.desk.fairness.case import Rule
from tunewise.desk.fairness.finding import Finding as Finding
from tunewise.desk.fairness.finding import Severity
from tunewise.desk.fairness.finding import listed as listed
from tunewise.records import DataSummary, RunRecord
from tunewise.spec.resolved import ResolvedStudy

RULES_BEFORE: tuple[Rule, ...] = (
    tuning.unequal_rule,
    tuning.shared_rate_untuned,
    elsewhere.trained_elsewhere,
    elsewhere.seeds_not_paired,
    elsewhere.not_seeds,
    elsewhere.other_training,
    data_rules.leakage,
    data_rules.few_units,
    data_rules.truncated_rows,
    data_rules.resampled,
    protocol.too_few_seeds,
    protocol.remote_code,
    strength.narrow_targets,
    strength.quantized_base,
    training.scored_as_stored,
    invariance.same_training,
    invariance.start_alone,
)
RULES_ON_RECORDS: tuple[Rule, ...] = (
    tuning.optimum_at_edge,
    tuning.head_rate_at_edge,
    tuning.too_much_headroom,
    tuning.head_rate_differs,
    tuning.no_finished_rate,
    tuning.unequal_trials,
    elsewhere.same_rate,
    training.different_training,
    training.different_precision,
    training.different_regularisation,
    training.updates_lost,
    training.runs_lost,
    training.out_of_memory,
    training.still_improving,
    training.early_best,
    protocol.search_seeds_reused,
    protocol.test_scored_again,
    protocol.stale_runs,
    machine.different_versions,
    machine.different_hardware,
    machine.overlapping_runs,
    machine.unlike_company,
    machine.busy_machine,
    machine.continued_runs,
    machine.micro_batches_halved,
    strength.loose_margin,
)
RULES = RULES_BEFORE + RULES_ON_RECORDS


def check_before(study: ResolvedStudy, data: DataSummary) -> tuple[Finding, ...]:
    """Findings before anything is trained, the blocking ones first."""
    return _ordered(finding for rule in RULES_BEFORE for finding in rule(Case(study, data)))


def check(case: Case) -> tuple[Finding, ...]:
    """All findings on a study and its records, the blocking ones first."""
    return _ordered(finding for rule in RULES for finding in rule(case))


def run_warnings(records: Sequence[RunRecord]) -> tuple[Finding, ...]:
    """Warnings from the runs themselves, each sentence once."""
    arms: dict[str, list[str]] = {}
    for record in records:
        for warning in record.warnings:
            arms.setdefault(warning, []).append(record.spec.arm)
    return tuple(
        Finding(id="run-warning", severity="warns", sentence=text, evidence=f"in runs of {listed(sorted(set(of)))}")
        for text, of in arms.items()
    )


def _ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order: tuple[Severity, ...] = ("blocks", "warns", "note")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))
