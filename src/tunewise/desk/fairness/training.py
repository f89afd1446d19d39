"""Rules about training: did every arm get the same amount, and did it stop at the right point?"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator

from tunewise.desk.fairness.case import Case, unlike
from tunewise.desk.fairness.finding import WORDS, Finding, Severity, by_arm, count, listed
from tunewise.records import RunRecord, Status
from tunewise.spec import Role

MIN_STORED_SHARE = 0.9  # of the weights with a nonzero update, median over steps 2 to 20


def different_training(case: Case) -> Iterator[Finding]:
    """Arms that differ in steps, tokens, batch size or epochs: more training is not a better method."""
    aspects: dict[str, Callable[[RunRecord], str]] = {
        "steps": lambda run: f"{run.num_steps}",
        "tokens": lambda run: f"{run.usage.num_tokens}" if run.usage else "unknown",
        "supervised tokens": lambda run: f"{run.usage.num_supervised_tokens}" if run.usage else "unknown",
        "batch size": lambda run: f"{run.spec.train.batch_size}",
        "epochs": lambda run: f"{run.spec.train.epochs}",
    }
    yield from _differing(
        case, aspects, "different-training", "Some arms were trained for longer or on more data than others."
    )


def different_regularisation(case: Case) -> Iterator[Finding]:
    """Arms that differ in weight decay or gradient clipping."""
    aspects: dict[str, Callable[[RunRecord], str]] = {
        "weight decay": lambda run: f"{run.spec.train.weight_decay:g}",
        "clipping": lambda run: f"{run.spec.train.clip_norm:g}",
    }
    sentence = "The arms differ in weight decay or gradient clipping."
    yield from _differing(case, aspects, "different-regularisation", sentence)


def different_precision(case: Case) -> Iterator[Finding]:
    """Arms that differ in the precision of their trainable weights or of their arithmetic."""
    aspects: dict[str, Callable[[RunRecord], str]] = {
        "precision": lambda run: run.spec.precision,
        "trainable weights": lambda run: " and ".join(run.tuned.learned_dtypes) if run.tuned else "unknown",
    }
    yield from _differing(case, aspects, "different-precision", "The arms were trained in different precisions.")


def scored_as_stored(case: Case) -> Iterator[Finding]:
    """Confirmed runs are scored in the precision of training."""
    if case.study.machine.scoring == "stored" and case.data.precision != "fp32":
        yield Finding(
            id="scored-as-stored",
            severity="note",
            sentence=f"Scores are computed in {case.data.precision}, as in training (`machine.scoring: stored`), so "
            "they include its rounding. Intervals do not count it; with `exact` there is none.",
            evidence="machine.scoring: stored",
        )


def _differing(
    case: Case, aspects: dict[str, Callable[[RunRecord], str]], name: str, sentence: str
) -> Iterator[Finding]:
    found = {aspect: differing for aspect, value in aspects.items() if (differing := unlike(case, value))}
    if found:
        yield Finding(
            id=name,
            severity="blocks",
            sentence=sentence,
            evidence="; ".join(f"{aspect}: {differing.evidence}" for aspect, differing in found.items()),
            arms=tuple(dict.fromkeys(arm for differing in found.values() for arm in differing.arms)),
            forbids=WORDS,
        )


def still_improving(case: Case) -> Iterator[Finding]:
    """Arms whose best checkpoint is the last one, so that longer training might help."""
    late = _most_runs(case, lambda run: _best_step(run) == run.evaluations[-1].step)
    if late:
        yield Finding(
            id="still-improving",
            severity="warns",
            sentence=f"{listed(list(late))} {_were(late)} still improving at the last evaluation, so longer training "
            "may change the verdict. Raise `train.epochs` or `train.max_steps`.",
            evidence=by_arm(late, lambda runs: f"best at the last step in {runs}"),
        )


def early_best(case: Case) -> Iterator[Finding]:
    """Arms whose best checkpoint comes before half of the steps, so that they overfit under this schedule."""
    early = _most_runs(case, lambda run: 2 * _best_step(run) < run.num_steps)
    if early:
        yield Finding(
            id="early-best",
            severity="warns",
            sentence=f"{listed(list(early))} {_were(early)} best before half of the steps, so training may be too "
            "long. Lower `train.epochs` or `train.max_steps`.",
            evidence=by_arm(early, lambda runs: f"in {runs}"),
        )


def _most_runs(case: Case, is_found: Callable[[RunRecord], bool]) -> dict[str, str]:
    """'3 of 5 runs' by arm, of the arms in which more than half of the runs are found."""
    found = {arm: (sum(map(is_found, runs)), len(runs)) for arm, runs in _evaluated(case).items()}
    return {arm: f"{number} of {count(of, 'run')}" for arm, (number, of) in found.items() if 2 * number > of}


def _were(arms: Collection[str]) -> str:
    return "was" if len(arms) == 1 else "were"


def _evaluated(case: Case) -> dict[str, list[RunRecord]]:
    """Confirmed runs that were evaluated while they trained, by arm."""
    found = {arm: [run for run in runs if run.evaluations] for arm, runs in case.confirmed.items()}
    return {arm: runs for arm, runs in found.items() if runs}


def _best_step(run: RunRecord) -> int:
    """The selected step; with the rule `last`, the one with the lowest validation NLL."""
    if run.spec.checkpoint == "best" and run.selected_step is not None:
        return run.selected_step
    return min(run.evaluations, key=lambda evaluation: evaluation.nll).step


SLOW = "slower than machine.run_limit_seconds"
# (what was lost, how): id, severity, sentence
LOST_RUNS: dict[tuple[str, Status], tuple[str, Severity, str]] = {
    ("confirmation", "diverged"): (
        "confirmation-diverged",
        "warns",
        "Some confirmation runs diverged. They count as scored.",
    ),
    ("confirmation", "failed"): (
        "confirmation-failed",
        "warns",
        "Some confirmation runs failed. Their seeds are left out of every arm.",
    ),
    ("confirmation", "timed-out"): (
        "confirmation-timed-out",
        "warns",
        f"Some confirmation runs were {SLOW}. Their seeds are left out of every arm.",
    ),
    ("trial", "diverged"): (
        "trials-diverged",
        "note",
        "Some learning-rate trials diverged. They limit the search.",
    ),
    ("trial", "failed"): ("trials-failed", "warns", "Some learning-rate trials failed. Their rates were not compared."),
    ("trial", "timed-out"): (
        "trials-timed-out",
        "warns",
        f"Some learning-rate trials were {SLOW}. Their rates were not compared.",
    ),
    ("base", "failed"): ("base-failed", "warns", "The base could not be scored, so gain and forgetting are not known."),
    ("base", "timed-out"): (
        "base-timed-out",
        "warns",
        f"Scoring the base was {SLOW}, so gain and forgetting are not known.",
    ),
    ("base", "out-of-memory"): (
        "base-out-of-memory",
        "warns",
        "The base ran out of memory, so gain and forgetting are not known.",
    ),
}
KINDS: dict[Role, str] = {"confirm": "confirmation", "tune": "trial", "short": "trial", "base": "base"}


def runs_lost(case: Case) -> Iterator[Finding]:
    """Runs that diverged, failed or were too slow, counted by arm."""
    for (kind, status), (name, severity, sentence) in LOST_RUNS.items():
        lost = [r for r in case.records if KINDS[r.spec.role] == kind and r.status == status]
        if not lost:
            continue
        evidence = ", ".join(f"{arm}: {number}" for arm, number in sorted(Counter(r.spec.arm for r in lost).items()))
        if kind == "confirmation":
            evidence += "; seeds " + ", ".join(map(str, sorted({r.spec.seed for r in lost})))
        if status == "failed":
            evidence += f"; {lost[0].message} (runs/{lost[0].run_id}/log.txt)"
        yield Finding(id=name, severity=severity, sentence=sentence, evidence=evidence)


def out_of_memory(case: Case) -> Iterator[Finding]:
    """Arms that need more memory than this machine has, so that they take no part."""
    for arm in case.study.arms:
        lost = next((r for r in case.records if r.spec.arm == arm and r.status == "out-of-memory"), None)
        if lost is None:
            continue
        lost_answer = "no arm can be compared with it" if arm == case.full else "it has no verdict"
        memory = lost.spec.train.micro_batch_tokens
        yield Finding(
            id="out-of-memory",
            severity="warns",
            sentence=f"{arm} ran out of memory and is excluded, so {lost_answer}. "
            "Lower `train.micro_batch_tokens` or choose a smaller model.",
            evidence=f"{lost.message}; micro-batches of up to {memory:,} tokens",
            arms=(arm,),
        )


def updates_lost(case: Case) -> Iterator[Finding]:
    """Updates too small for the precision of the stored weights, so that rounding discards them."""
    shares = {
        arm: min(found)
        for arm, runs in case.trained().items()
        if (found := [run.updates_kept for run in runs if run.updates_kept is not None])
    }
    low = tuple(arm for arm, share in shares.items() if share < MIN_STORED_SHARE)
    if low:
        yield Finding(
            id="updates-lost",
            severity="blocks",
            sentence=f"Updates of {listed(low)} were lost to rounding, so weights did not change as they should. "
            "Train in a higher precision.",
            evidence=", ".join(f"{arm}: {share:.1%} of the weights changed" for arm, share in shares.items()),
            arms=low,
            forbids=WORDS,
        )
