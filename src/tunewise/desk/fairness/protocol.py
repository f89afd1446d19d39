"""Rules about the protocol: seeds, looks, and what was declared before a test score was seen."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tunewise.desk.fairness.case import Case
from tunewise.desk.fairness.finding import WORDS, Finding, count
from tunewise.desk.protocol.drafts import changed_since
from tunewise.desk.statistics.power import MIN_SEEDS
from tunewise.records import RunRecord


def too_few_seeds(case: Case) -> Iterator[Finding]:
    """Fewer than 3 seeds, too few to estimate the effect of chance."""
    if 0 < case.num_seeds() < MIN_SEEDS:
        yield Finding(
            id="too-few-seeds",
            severity="warns",
            sentence=f"The study has fewer than {MIN_SEEDS} seeds, so results hold for these runs only. Raise `looks`.",
            evidence=count(case.num_seeds(), "seed"),
        )


def remote_code(case: Case) -> Iterator[Finding]:
    """The model repository's own code ran on this machine."""
    if case.study.trust_remote_code:
        yield Finding(
            id="remote-code",
            severity="warns",
            sentence="Code from the model repository was allowed to run on this machine with your permissions.",
            evidence=f"trust_remote_code: true, {case.study.model}",
        )


def search_seeds_reused(case: Case) -> Iterator[Finding]:
    """A seed that selected a learning rate was also used to confirm it, which favors the selected rate."""
    searched = {run.spec.seed for run in case.records if run.spec.role == "tune"}
    reused: dict[str, list[int]] = {}
    for run in case.records:
        if run.spec.role == "confirm" and run.spec.seed in searched and run.spec.arm in case.trained_arms():
            reused.setdefault(run.spec.arm, []).append(run.spec.seed)
    if reused:
        yield Finding(
            id="search-seeds-reused",
            severity="blocks",
            sentence="Seeds used to choose the learning rate were used again to confirm it. Choose another `seed`.",
            evidence="; ".join(f"{arm}: {', '.join(map(str, of_arm))}" for arm, of_arm in reused.items()),
            arms=tuple(reused),
            forbids=WORDS,
        )


def test_scored_again(case: Case) -> Iterator[Finding]:
    """The same arm and seed scored on the same test data more than once, with other settings."""

    def scored(run: RunRecord) -> bool:
        return "test" in run.spec.score_splits and run.spec.inputs.data == case.data.inputs.data

    seen = [run for run in (*case.records, *case.stale) if run.spec.role == "confirm" and scored(run)]
    times = Counter((run.spec.arm, run.spec.seed) for run in {run.run_id: run for run in seen}.values())
    again = Counter(arm for (arm, _), number in times.items() if number > 1)
    if again:
        yield Finding(
            id="test-scored-again",
            severity="warns",
            sentence="Arms were already scored on this test data with other settings, so the choice of settings may "
            "overfit the test set.",
            evidence=", ".join(f"{arm}: {count(number, 'seed')}" for arm, number in sorted(again.items())),
        )


def stale_runs(case: Case) -> Iterator[Finding]:
    """Runs in the folder that today's study would not make: those accepted all the same, and those left out."""
    accepted = [(run, changes) for run in case.records if (changes := changed_since(run.spec, case.data))]
    if accepted:
        yield Finding(
            id="stale-accepted",
            severity="warns",
            sentence="The results include runs made under other conditions than today's. `accept_stale` allows them.",
            evidence=_by_changes(accepted),
        )
    if case.stale:
        left = [(run, changed_since(run.spec, case.data) or ("settings",)) for run in case.stale]
        yield Finding(
            id="stale-left-out",
            severity="note",
            sentence="The folder contains runs that this study would not make today. "
            "They are excluded from all results. --accept-stale includes those that differ only in base, libraries, "
            "threads or numerics.",
            evidence=_by_changes(left),
        )


def _by_changes(runs: Sequence[tuple[RunRecord, tuple[str, ...]]]) -> str:
    counts = Counter(changes for _, changes in runs)
    return "; ".join(f"{count(number, 'run')}: {', '.join(changes)}" for changes, number in counts.items())
