"""What could explain a difference between arms other than the arms: one small rule each.

A finding that `blocks` forbids a winner, one that `warns` is printed beside it, a `note` is only told.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewise.desk.power import MIN_SEEDS, MIN_UNITS
from tunewise.desk.schedule import confirmed, is_bracketed, selected_rates, trials
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import ExistingMethod, Frozen, StudySpec

Severity = Literal["blocks", "warns", "note"]

WANTED_UNITS = 30  # independent test units below which coverage suffers
MIN_LINEAR_SHARE = 0.5  # of the base's linear parameters


class Finding(Frozen):
    """One thing a reader must know before believing the verdict."""

    id: str
    severity: Severity
    sentence: str
    evidence: str  # the numbers behind the sentence


@dataclass(frozen=True)
class Case:
    """What the rules look at."""

    study: StudySpec  # resolved
    data: DataSummary
    records: Sequence[RunRecord]
    confirmed: Mapping[str, Sequence[RunRecord]]  # by arm, rising seeds

    def num_seeds(self) -> int:
        """Seeds on which every confirmed arm has a run."""
        return min((len(runs) for runs in self.confirmed.values()), default=0)


def check(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> tuple[Finding, ...]:
    """Every finding, the blocking ones first. `study` is resolved, `records` are the current ones of any role."""
    case = Case(study, data, records, confirmed(study, records))
    order: tuple[Severity, ...] = ("blocks", "warns", "note")
    return tuple(sorted((f for rule in RULES for f in rule(case)), key=lambda f: order.index(f.severity)))


def optimum_at_edge(case: Case) -> Iterator[Finding]:
    """The chosen learning rate has no worse neighbour on one side, so a better one may lie beyond."""
    rates = selected_rates(case.study, case.records)
    for arm in case.confirmed:
        if is_bracketed(case.study, case.records, arm):
            continue
        tried = ", ".join(f"{trial.rate:g}" for trial in trials(case.records, arm))
        yield Finding(
            id="optimum-at-edge",
            severity="blocks",
            sentence=f"The best learning rate of {arm} is at the edge of what was tried; a better one may lie beyond.",
            evidence=f"chosen {rates[arm]:g} of {tried}",
        )


def no_finished_rate(case: Case) -> Iterator[Finding]:
    """Every trial of an arm diverged or failed, so the arm takes no part."""
    rates = selected_rates(case.study, case.records)
    for arm in case.study.arms:
        tried = trials(case.records, arm)
        if tried and arm not in rates:
            yield Finding(
                id="no-finished-rate",
                severity="warns",
                sentence=f"No learning rate of {arm} trained to the end, so it takes no part in the comparison.",
                evidence="tried " + ", ".join(f"{trial.rate:g}" for trial in tried),
            )


def too_few_seeds(case: Case) -> Iterator[Finding]:
    """Fewer than 3 seeds say little about chance."""
    if 0 < case.num_seeds() < MIN_SEEDS:
        yield Finding(
            id="too-few-seeds",
            severity="warns",
            sentence=f"Fewer than {MIN_SEEDS} seeds: these runs only, no statement about other seeds.",
            evidence=_count(case.num_seeds(), "seed"),
        )


def few_units(case: Case) -> Iterator[Finding]:
    """Few independent test units: intervals are unreliable, under 10 useless."""
    test = case.data.split("test")
    if test.units >= WANTED_UNITS:
        return
    few = test.units < MIN_UNITS
    yield Finding(
        id="few-units",
        severity="blocks" if few else "warns",
        sentence="The test set has too few independent units "
        + ("for any verdict." if few else "for its intervals to be trusted fully."),
        evidence=f"{_count(test.units, 'unit')} in {_count(test.rows, 'row')}; wanted: {WANTED_UNITS} or more",
    )


def still_improving(case: Case) -> Iterator[Finding]:
    """The best checkpoint is the last one: the arm might gain from longer training."""
    for arm, runs in _trained(case).items():
        late = [run for run in runs if _best_step(run) == run.evaluations[-1].step]
        if 2 * len(late) > len(runs):
            yield Finding(
                id="still-improving",
                severity="warns",
                sentence=f"{arm} was still improving at the last evaluation; longer training may change the verdict.",
                evidence=f"{len(late)} of {_count(len(runs), 'run')} best at the last step",
            )


def early_best(case: Case) -> Iterator[Finding]:
    """The best checkpoint comes before half of the steps: the arm overfits under this schedule."""
    for arm, runs in _trained(case).items():
        early = [run for run in runs if 2 * _best_step(run) < run.num_steps]
        if 2 * len(early) > len(runs):
            yield Finding(
                id="early-best",
                severity="warns",
                sentence=f"{arm} was best before half of its steps; the schedule is long for it.",
                evidence=f"{len(early)} of {_count(len(runs), 'run')}",
            )


def leakage(case: Case) -> Iterator[Finding]:
    """Test inputs that were also trained on, kept or dropped, and near copies of them."""
    if case.study.data.duplicates == "keep":
        yield Finding(
            id="leakage-kept",
            severity="blocks",
            sentence="Test inputs that also stand in the training data were kept: what is measured may be memory.",
            evidence="data.duplicates: keep",
        )
    dropped = {s.split: s.duplicates_dropped for s in case.data.splits if s.duplicates_dropped}
    if dropped:
        yield Finding(
            id="duplicates-dropped",
            severity="note",
            sentence="Rows whose input stands in two splits were dropped from the training side.",
            evidence=", ".join(f"{_count(n, 'row')} of {split}" for split, n in dropped.items()),
        )
    if case.data.near_duplicates:
        yield Finding(
            id="near-duplicates",
            severity="warns",
            sentence="Some test inputs are nearly a training input.",
            evidence=f"{case.data.near_duplicates} of {_count(case.data.split('test').rows, 'test row')}",
        )


def truncated_rows(case: Case) -> Iterator[Finding]:
    """Rows that were cut to `data.max_length`."""
    cut = [s for s in case.data.splits if s.truncated_rows]
    if cut:
        yield Finding(
            id="truncated-rows",
            severity="warns",
            sentence=f"Examples longer than {case.study.data.max_length} tokens were cut.",
            evidence=", ".join(
                f"{_count(s.truncated_rows, 'row')} and {_count(s.truncated_tokens, 'token')} of {s.split}" for s in cut
            ),
        )


def runs_lost(case: Case) -> Iterator[Finding]:
    """Runs that diverged or failed, counted by arm."""
    sentences: dict[tuple[str, str], tuple[str, Severity, str]] = {
        ("confirm", "diverged"): ("confirmation-diverged", "warns", "Confirmation runs diverged; they are scored too."),
        ("confirm", "failed"): ("confirmation-failed", "warns", "Runs failed; their seeds are left out of every arm."),
        ("tune", "diverged"): ("trials-diverged", "note", "Learning-rate trials diverged; they bound the search."),
        ("tune", "failed"): ("trials-failed", "warns", "Learning-rate trials failed; their rates were not compared."),
    }
    for (role, status), (name, severity, sentence) in sentences.items():
        lost = Counter(r.spec.arm for r in case.records if r.spec.role == role and r.status == status)
        if lost:
            evidence = ", ".join(f"{arm}: {count}" for arm, count in sorted(lost.items()))
            yield Finding(id=name, severity=severity, sentence=sentence, evidence=evidence)


def different_versions(case: Case) -> Iterator[Finding]:
    """Arms trained with different library versions."""
    if seen := _differing(case, lambda run: _versions(run)):
        yield Finding(
            id="different-versions",
            severity="blocks",
            sentence="The arms ran with different library versions, which may be the difference that is measured.",
            evidence=seen,
        )


def different_hardware(case: Case) -> Iterator[Finding]:
    """Arms trained on different machines: their costs do not compare."""
    if seen := _differing(case, lambda run: run.environment.device_name if run.environment else "unknown"):
        yield Finding(
            id="different-hardware",
            severity="warns",
            sentence="The arms ran on different hardware: times and memory do not compare.",
            evidence=seen,
        )


def unequal_trials(case: Case) -> Iterator[Finding]:
    """The search of some arm took more trials than another's, by the same rule and cap."""
    arms = [arm for arm in case.confirmed if not isinstance(case.study.arms[arm], ExistingMethod)]
    counts = {arm: len(trials(case.records, arm)) for arm in arms}
    if len(set(counts.values())) > 1:
        yield Finding(
            id="unequal-trials",
            severity="note",
            sentence="The same tuning rule took more learning-rate trials in some arms than in others.",
            evidence=", ".join(f"{arm}: {count}" for arm, count in counts.items()),
        )


def narrow_targets(case: Case) -> Iterator[Finding]:
    """The adapter sits on under half of the linear parameters, where LoRA is known to lose (Schulman et al. 2025)."""
    for arm, runs in case.confirmed.items():
        share = runs[0].tuned.linear_share if runs and runs[0].tuned else None
        if share is not None and share < MIN_LINEAR_SHARE:
            yield Finding(
                id="narrow-targets",
                severity="warns",
                sentence=f"{arm} adapts under half of the linear parameters; `targets: all-linear` often does better.",
                evidence=f"{share:.0%} covered",
            )


RULES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    optimum_at_edge,
    leakage,
    different_versions,
    few_units,
    too_few_seeds,
    no_finished_rate,
    runs_lost,
    still_improving,
    early_best,
    narrow_targets,
    truncated_rows,
    different_hardware,
    unequal_trials,
)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _trained(case: Case) -> dict[str, list[RunRecord]]:
    """Confirmed runs that were evaluated while they trained, by arm."""
    found = {arm: [run for run in runs if run.evaluations] for arm, runs in case.confirmed.items()}
    return {arm: runs for arm, runs in found.items() if runs}


def _best_step(run: RunRecord) -> int:
    """The selected step; where the rule is `last`, the one with the lowest valid NLL."""
    if run.spec.checkpoint == "best" and run.selected_step is not None:
        return run.selected_step
    return min(run.evaluations, key=lambda evaluation: evaluation.nll).step


def _versions(run: RunRecord) -> str:
    versions = run.environment.versions if run.environment else {}
    return " ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _differing(case: Case, value: Callable[[RunRecord], str]) -> str:
    """Each arm's values where they are not the same in every arm; empty where they are."""
    seen = {arm: sorted({value(run) for run in runs}) for arm, runs in case.confirmed.items()}
    if len({tuple(values) for values in seen.values()}) < 2:
        return ""
    return "; ".join(f"{arm}: {' / '.join(values)}" for arm, values in seen.items())
