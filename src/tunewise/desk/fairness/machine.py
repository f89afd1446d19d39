"""Rules about where the arms ran: libraries, hardware, and runs that disturbed each other."""

import itertools
from collections.abc import Iterator

from tunewise.desk.fairness.case import Case, unlike
from tunewise.desk.fairness.finding import WORDS, Finding, count
from tunewise.records import RunRecord

QUIET_SHARE = 0.1  # of the machine's CPU time, which other programs may take before costs stop to compare


def different_versions(case: Case) -> Iterator[Finding]:
    """Arms trained with different library versions."""
    if found := unlike(case, _versions):
        yield Finding(
            id="different-versions",
            severity="blocks",
            sentence="The arms ran with different library versions, which may be the difference that is measured.",
            evidence=found.evidence,
            arms=found.arms,
            forbids=WORDS,
        )


def _versions(run: RunRecord) -> str:
    versions = run.environment.versions if run.environment else {}
    return " ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def different_hardware(case: Case) -> Iterator[Finding]:
    """Arms trained on different machines: their costs do not compare."""
    if found := unlike(case, lambda run: run.environment.device_name if run.environment else "unknown"):
        yield Finding(
            id="different-hardware",
            severity="warns",
            sentence="The arms ran on different hardware: times and memory do not compare.",
            evidence=found.evidence,
        )


def overlapping_runs(case: Case) -> Iterator[Finding]:
    """Confirmed runs, whose times are reported, that shared their device with another run."""
    pairs = [(a, b) for a, b in itertools.combinations(_timed(case), 2) if _overlap(a, b) and _is_confirmed(a, b)]
    if pairs:
        names = " and ".join(f"{run.spec.arm} (seed {run.spec.seed})" for run in pairs[0])
        yield Finding(
            id="timed-runs-overlapped",
            severity="warns",
            sentence="Runs whose time is reported ran beside others on the same device: costs do not compare.",
            evidence=f"{count(len(pairs), 'pair')} of runs, the first: {names}",
        )


def busy_machine(case: Case) -> Iterator[Finding]:
    """Confirmed runs, whose times are reported, that had to share the processors with other programs."""
    shares = {arm: [run.usage.others_share for run in runs if run.usage] for arm, runs in case.trained().items()}
    most = {arm: max((share for share in of if share is not None), default=0.0) for arm, of in shares.items()}
    if max(most.values(), default=0.0) > QUIET_SHARE:
        yield Finding(
            id="busy-machine",
            severity="warns",
            sentence="Other programs used the machine while runs were timed: costs do not compare.",
            evidence="at most, of its processors' time: "
            + ", ".join(f"{arm} {share:.0%}" for arm, share in most.items()),
        )


def continued_runs(case: Case) -> Iterator[Finding]:
    """Confirmed runs that were interrupted: what they cost is not measured as in the others."""
    counts = {
        arm: sum(1 for run in runs if run.usage and run.usage.num_continued) for arm, runs in case.confirmed.items()
    }
    if any(counts.values()):
        yield Finding(
            id="runs-continued",
            severity="note",
            sentence="Runs were interrupted and continued: their seconds and peak memory are put together from parts.",
            evidence=", ".join(f"{arm}: {count(number, 'run')}" for arm, number in counts.items() if number),
        )


def _timed(case: Case) -> list[RunRecord]:
    return [run for run in case.records if run.usage and run.usage.started and run.usage.ended]


def _is_confirmed(a: RunRecord, b: RunRecord) -> bool:
    return any(run.spec.role == "confirm" and run.spec.learning_rate is not None for run in (a, b))


def _overlap(a: RunRecord, b: RunRecord) -> bool:
    device = [(run.environment.device_name, run.environment.system) if run.environment else None for run in (a, b)]
    assert a.usage is not None, "only timed runs are compared"
    assert b.usage is not None, "only timed runs are compared"
    begins, ends = (a.usage.started, b.usage.started), (a.usage.ended, b.usage.ended)
    return device[0] == device[1] and max(t for t in begins if t) < min(t for t in ends if t)


def micro_batches_halved(case: Case) -> Iterator[Finding]:
    """Confirmed runs with smaller micro-batches than asked for, which change no result but cost time."""
    halved = {
        arm: sorted({run.usage.micro_batch_tokens for run in runs if run.usage and run.usage.micro_batch_tokens})
        for arm, runs in case.confirmed.items()
    }
    if any(halved.values()):
        yield Finding(
            id="micro-batches-halved",
            severity="note",
            sentence="There was no memory for micro-batches as large as asked for; smaller ones give the same result "
            "within rounding and take other time and memory.",
            evidence="; ".join(
                f"{arm}: {', '.join(f'{n:,}' for n in sizes)} tokens" for arm, sizes in halved.items() if sizes
            ),
        )
