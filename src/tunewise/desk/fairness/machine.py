"""Rules about where the arms ran: libraries, hardware, and runs that disturbed each other."""

import itertools
from collections.abc import Iterator

from tunewise.desk.fairness.case import Case, unlike
from tunewise.desk.fairness.finding import WORDS, Finding, count
from tunewise.records import RunRecord

QUIET_SHARE = 0.1  # of the CPU time; above it the times of runs are no longer comparable


def different_versions(case: Case) -> Iterator[Finding]:
    """Arms trained with different library versions."""
    if found := unlike(case, _versions):
        yield Finding(
            id="different-versions",
            severity="blocks",
            sentence="The arms ran with different library versions, which may explain the difference between them. "
            "Rerun the study in one environment.",
            evidence=found.evidence,
            arms=found.arms,
            forbids=WORDS,
        )


def _versions(run: RunRecord) -> str:
    versions = run.environment.versions if run.environment else {}
    return " ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def different_hardware(case: Case) -> Iterator[Finding]:
    """Arms trained on different machines, so their costs are not comparable."""
    if found := unlike(case, lambda run: run.environment.device_name if run.environment else "unknown"):
        yield Finding(
            id="different-hardware",
            severity="warns",
            sentence="The arms ran on different hardware, so times and memory are not comparable.",
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
            sentence="Timed runs overlapped with other runs on the same device, so times are not comparable.",
            evidence=f"{count(len(pairs), 'overlapping pair')}, for example {names}",
        )


def busy_machine(case: Case) -> Iterator[Finding]:
    """Confirmed runs, whose times are reported, that had to share the processors with other programs."""
    shares = {arm: [run.usage.others_share for run in runs if run.usage] for arm, runs in case.trained().items()}
    most = {arm: max((share for share in of if share is not None), default=0.0) for arm, of in shares.items()}
    if max(most.values(), default=0.0) > QUIET_SHARE:
        yield Finding(
            id="busy-machine",
            severity="warns",
            sentence="Other programs were running during timed runs, so times are not comparable.",
            evidence="largest share of CPU time that other programs used: "
            + ", ".join(f"{arm} {share:.0%}" for arm, share in most.items()),
        )


def continued_runs(case: Case) -> Iterator[Finding]:
    """Confirmed runs that were interrupted, so their costs are measured differently."""
    counts = {
        arm: sum(1 for run in runs if run.usage and run.usage.num_continued) for arm, runs in case.confirmed.items()
    }
    if any(counts.values()):
        yield Finding(
            id="runs-continued",
            severity="note",
            sentence="Some runs were interrupted and resumed, so their time and peak memory are combined from "
            "several parts.",
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
    """Confirmed runs with smaller micro-batches than requested, which affect time but not results."""
    halved = {
        arm: sorted({run.usage.micro_batch_tokens for run in runs if run.usage and run.usage.micro_batch_tokens})
        for arm, runs in case.confirmed.items()
    }
    if any(halved.values()):
        yield Finding(
            id="micro-batches-halved",
            severity="note",
            sentence="Memory was too small for the requested micro-batches, so smaller ones were used. "
            "Results are the same up to rounding; time and memory differ.",
            evidence="; ".join(
                f"{arm}: {', '.join(f'{n:,}' for n in sizes)} tokens" for arm, sizes in halved.items() if sizes
            ),
        )
