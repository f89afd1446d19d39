"""Rules about where the arms ran: libraries, hardware, and runs that disturbed each other."""

from collections.abc import Iterator

from tunewise.desk.analysis.company import company, is_same_device, is_same_machine, overlapping, same_company
from tunewise.desk.fairness.case import Case, unlike
from tunewise.desk.fairness.finding import WORDS, Finding, by_arm, count
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
    """Confirmed runs, whose times are reported, that shared the machine with another run."""
    pairs = [(a, b) for a, b in overlapping(case.records) if _is_confirmed(a, b) and is_same_machine(a, b)]
    if not pairs:
        return
    on_one_device = [pair for pair in pairs if is_same_device(*pair)]
    shown = on_one_device or pairs
    names = " and ".join(f"{run.spec.arm} (seed {run.spec.seed})" for run in shown[0])
    shared = "their GPU or processor" if on_one_device else "the machine, each on its own GPU,"
    yield Finding(
        id="timed-runs-overlapped",
        severity="warns" if on_one_device else "note",
        sentence=f"Timed runs shared {shared} with other runs, which may have slowed them. Times are compared only "
        "between runs with as many others beside them.",
        evidence=f"{count(len(shown), 'overlapping pair')}, for example {names}",
    )


def unlike_company(case: Case) -> Iterator[Finding]:
    """Arms of which no confirmed runs had as many other runs beside them, so that their times are not comparable."""
    runs = case.trained()
    if len(runs) > 1 and not any(same_company(runs, case.records).values()):
        numbers = {arm: sorted({company(run, case.records) for run in of_arm}) for arm, of_arm in runs.items()}
        yield Finding(
            id="times-not-comparable",
            severity="warns",
            sentence="No timed runs of all arms had the same number of other runs beside them, so times are not shown. "
            "With machine.exclusive_timing: true, timed runs are made one at a time.",
            evidence="other runs at the same time: " + by_arm(numbers, lambda of: " or ".join(map(str, of))),
        )


def busy_machine(case: Case) -> Iterator[Finding]:
    """Confirmed runs, whose times are reported, that had to share the processors with other programs."""
    shares = {
        arm: [run.usage.others_share for run in runs if run.usage and not company(run, case.records)]
        for arm, runs in case.trained().items()
    }
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


def _is_confirmed(a: RunRecord, b: RunRecord) -> bool:
    return any(run.spec.role == "confirm" and run.spec.learning_rate is not None for run in (a, b))


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
