"""Rules about the training of the arms: did each get the same, and did it end where it should?"""

from collections import Counter
from collections.abc import Callable, Iterator

from tunewise.desk.fairness.case import Case, unlike
from tunewise.desk.fairness.finding import WORDS, Finding, Severity, count, listed
from tunewise.records import RunRecord, Status
from tunewise.spec import Role

MIN_STORED_SHARE = 0.9  # of the weights with an intended update, median over steps 2 to 20


def different_training(case: Case) -> Iterator[Finding]:
    """Arms that took other steps, tokens, batches or epochs: more training is not a better method."""
    aspects: dict[str, Callable[[RunRecord], str]] = {
        "steps": lambda run: f"{run.num_steps}",
        "tokens": lambda run: f"{run.usage.num_tokens}" if run.usage else "unknown",
        "supervised tokens": lambda run: f"{run.usage.num_supervised_tokens}" if run.usage else "unknown",
        "batch size": lambda run: f"{run.spec.train.batch_size}",
        "epochs": lambda run: f"{run.spec.train.epochs}",
    }
    yield from _differing(case, aspects, "different-training", "Some arms were trained for longer, or on more.")


def different_regularisation(case: Case) -> Iterator[Finding]:
    """Arms with another weight decay or another clipping."""
    aspects: dict[str, Callable[[RunRecord], str]] = {
        "weight decay": lambda run: f"{run.spec.train.weight_decay:g}",
        "clipping": lambda run: f"{run.spec.train.clip_norm:g}",
    }
    sentence = "Some arms had another weight decay or gradient clipping."
    yield from _differing(case, aspects, "different-regularisation", sentence)


def different_precision(case: Case) -> Iterator[Finding]:
    """Arms whose learning weights, or whose arithmetic, have another precision."""
    aspects: dict[str, Callable[[RunRecord], str]] = {
        "precision": lambda run: run.spec.precision,
        "what learns": lambda run: " and ".join(run.tuned.learned_dtypes) if run.tuned else "unknown",
    }
    yield from _differing(case, aspects, "different-precision", "Some arms learned in another precision.")


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
    """The best checkpoint is the last one: the arm might gain from longer training."""
    for arm, runs in _evaluated(case).items():
        late = [run for run in runs if _best_step(run) == run.evaluations[-1].step]
        if 2 * len(late) > len(runs):
            yield Finding(
                id="still-improving",
                severity="warns",
                sentence=f"{arm} was still improving at the last evaluation; longer training may change the verdict.",
                evidence=f"{len(late)} of {count(len(runs), 'run')} best at the last step",
            )


def early_best(case: Case) -> Iterator[Finding]:
    """The best checkpoint comes before half of the steps: the arm overfits under this schedule."""
    for arm, runs in _evaluated(case).items():
        early = [run for run in runs if 2 * _best_step(run) < run.num_steps]
        if 2 * len(early) > len(runs):
            yield Finding(
                id="early-best",
                severity="warns",
                sentence=f"{arm} was best before half of its steps; the schedule is long for it.",
                evidence=f"{len(early)} of {count(len(runs), 'run')}",
            )


def _evaluated(case: Case) -> dict[str, list[RunRecord]]:
    """Confirmed runs that were evaluated while they trained, by arm."""
    found = {arm: [run for run in runs if run.evaluations] for arm, runs in case.confirmed.items()}
    return {arm: runs for arm, runs in found.items() if runs}


def _best_step(run: RunRecord) -> int:
    """The selected step; where the rule is `last`, the one with the lowest valid NLL."""
    if run.spec.checkpoint == "best" and run.selected_step is not None:
        return run.selected_step
    return min(run.evaluations, key=lambda evaluation: evaluation.nll).step


SLOW = "slower than machine.run_limit_seconds"
# (what was lost, how): id, severity, what to say
LOST_RUNS: dict[tuple[str, Status], tuple[str, Severity, str]] = {
    ("confirmation", "diverged"): (
        "confirmation-diverged",
        "warns",
        "Confirmation runs diverged; they are scored too.",
    ),
    ("confirmation", "failed"): (
        "confirmation-failed",
        "warns",
        "Runs failed; their seeds are left out of every arm.",
    ),
    ("confirmation", "timed-out"): (
        "confirmation-timed-out",
        "warns",
        f"Runs were {SLOW}; their seeds are left out of every arm.",
    ),
    ("trial", "diverged"): ("trials-diverged", "note", "Learning-rate trials diverged; they bound the search."),
    ("trial", "failed"): ("trials-failed", "warns", "Learning-rate trials failed; their rates were not compared."),
    ("trial", "timed-out"): (
        "trials-timed-out",
        "warns",
        f"Learning-rate trials were {SLOW}; their rates were not compared.",
    ),
    ("base", "failed"): ("base-failed", "warns", "The base could not be scored: gain and forgetting are not known."),
    ("base", "timed-out"): (
        "base-timed-out",
        "warns",
        f"Scoring the base was {SLOW}: gain and forgetting are not known.",
    ),
    ("base", "out-of-memory"): (
        "base-out-of-memory",
        "warns",
        "The base ran out of memory: gain and forgetting are not known.",
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
    """An arm that needs more memory than there is, so that nothing can be said of it on this machine."""
    for arm in case.study.arms:
        lost = next((r for r in case.records if r.spec.arm == arm and r.status == "out-of-memory"), None)
        if lost is None:
            continue
        unknown = "how any arm compares with it" if arm == case.full else "whether it is as good as full fine-tuning"
        memory = lost.spec.train.micro_batch_tokens
        yield Finding(
            id="out-of-memory",
            severity="warns",
            sentence=f"{arm} ran out of memory and takes no part: {unknown} is not known. Fewer tokens at a time "
            "(train.micro_batch_tokens) or a smaller model may fit.",
            evidence=f"{lost.message}; micro-batches of up to {memory:,} tokens",
            arms=(arm,),
        )


def updates_lost(case: Case) -> Iterator[Finding]:
    """Updates too small for the precision of the stored weights: the optimizer moves, the model does not."""
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
            sentence=f"Updates of {listed(low)} were lost to rounding: weights that should have moved did not.",
            evidence=", ".join(f"{arm}: {share:.1%} of the weights changed" for arm, share in shares.items()),
            arms=low,
            forbids=WORDS,
        )
