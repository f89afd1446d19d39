"""Rules about learning rates: were all arms tuned in the same way, and well enough?"""

from collections.abc import Iterator

from tunewise.desk.fairness.case import Case, unlike
from tunewise.desk.fairness.finding import WORDS, Finding, by_arm, listed
from tunewise.desk.protocol import trials
from tunewise.spec.quantities import HEADROOM_SHARE


def unequal_rule(case: Case) -> Iterator[Finding]:
    """An arm whose rates were set by hand, or that had more trials than the cap."""
    for arm, method in case.study.trained_arms.items():
        tried = trials.trials(case.records, arm)
        if method.rates is None and len(tried) <= case.study.tuning.cap:
            continue
        advice = "" if method.rates is None else f" Remove `rates` from {arm}."
        rates = ", ".join(f"{rate:g}" for rate in method.rates or [trial.rate for trial in tried])
        yield Finding(
            id="unequal-tuning-rule",
            severity="blocks",
            sentence=f"{arm} was tuned differently from the other arms, so its score reflects the tuning, not the "
            f"method.{advice}",
            evidence=f"rates {rates}; the rule is {case.study.tuning.rates} rates around a center, extended while the "
            f"best one is at an edge, {case.study.tuning.cap} at most",
            arms=(arm,),
            forbids=WORDS,
        )


def optimum_at_edge(case: Case) -> Iterator[Finding]:
    """Arms whose best learning rate was the lowest or highest one tried, so that a better one may exist."""
    rates = trials.selected_rates(case.study, case.records)
    edges = [arm for arm in case.confirmed if not trials.is_bracketed(case.study, case.records, arm)]
    tried = {arm: ", ".join(f"{trial.rate:g}" for trial in trials.trials(case.records, arm)) for arm in edges}
    if edges:
        yield Finding(
            id="optimum-at-edge",
            severity="blocks",
            sentence=f"The best learning rate of {listed(edges)} was the lowest or highest one tried, so a better one "
            "may exist outside that range. Widen the search (`tuning.rates`, `tuning.cap`).",
            evidence=by_arm(tried, lambda of_arm: f"tried {of_arm}")
            + "; chosen "
            + ", ".join(f"{rates[arm]:g}" for arm in edges),
            arms=tuple(edges),
            forbids=WORDS,
        )


def head_rate_at_edge(case: Case) -> Iterator[Finding]:
    """The rate of the new head, shared by every arm, was the lowest or highest one tried on the `head` arm."""
    head = case.study.head_arm
    if head is None or head not in case.confirmed or case.study.train.head_learning_rate is not None:
        return
    if trials.is_bracketed(case.study, case.records, head):
        return
    rate = trials.selected_rates(case.study, case.records)[head]
    yield Finding(
        id="head-rate-at-edge",
        severity="warns",
        sentence="The learning rate of the new head, the same in every arm, was the lowest or highest one tried.",
        evidence=f"{rate:g}, found on {head}",
    )


def too_much_headroom(case: Case) -> Iterator[Finding]:
    """Arms that a rate between those tried could improve by more than a quarter of the margin.

    The verdict itself withholds an outcome that this could reverse (desk/statistics/comparison.py).
    """
    margin = case.margin_in_loss()
    if margin is None:
        return
    gains = {
        arm: trials.headroom_left(case.study, case.records, arm) for arm in case.trained_arms() if arm in case.confirmed
    }
    large = {arm: gain for arm, gain in gains.items() if gain is not None and gain > HEADROOM_SHARE * margin}
    if large:
        yield Finding(
            id="headroom",
            severity="warns",
            sentence=f"A finer learning-rate search could improve {listed(list(large))} by more than a quarter of the "
            "margin. Verdicts that this could reverse are withheld.",
            evidence=f"estimated from a parabola through the best rates: {by_arm(large, lambda gain: f'{gain:.3g}')}; "
            f"margin {margin:.3g}",
            arms=tuple(large),
        )


def head_rate_differs(case: Case) -> Iterator[Finding]:
    """Arms that trained the new weights at different rates."""
    if found := unlike(case, lambda run: f"{run.spec.head_learning_rate}"):
        yield Finding(
            id="head-rate-differs",
            severity="blocks",
            sentence="The new head was trained at different learning rates in different arms.",
            evidence=found.evidence,
            arms=found.arms,
            forbids=WORDS,
        )


def shared_rate_untuned(case: Case) -> Iterator[Finding]:
    """LoRA arms with different effective alpha (scale x rank) that share one untuned rate.

    The best rate falls with alpha_eff, so such a comparison measures which arm the rate happens to suit.
    """
    alphas: dict[float, dict[str, float]] = {}
    for arm, method in case.study.lora_arms.items():
        rates = method.rates or ((method.learning_rate,) if case.study.tuning.rates == 1 else ())
        if len(rates) == 1 and rates[0] is not None:
            alphas.setdefault(rates[0], {})[arm] = method.scale * method.top_rank
    for rate, of_rate in alphas.items():
        if len({round(alpha, 9) for alpha in of_rate.values()}) > 1:
            yield Finding(
                id="shared-rate-untuned",
                severity="blocks",
                sentence="LoRA arms with different effective alpha share one learning rate that was not tuned for "
                "any of them. Let each arm search its own rate.",
                evidence=f"rate {rate:g}; alpha_eff " + ", ".join(f"{arm}: {a:g}" for arm, a in of_rate.items()),
                arms=tuple(of_rate),
                forbids=WORDS,
            )


def no_finished_rate(case: Case) -> Iterator[Finding]:
    """Arms of which every trial diverged or failed, so that they take no part."""
    rates = trials.selected_rates(case.study, case.records)
    for arm in case.study.arms:
        tried = trials.trials(case.records, arm)
        if tried and arm not in rates and trials.fits(case.records, arm):
            yield Finding(
                id="no-finished-rate",
                severity="warns",
                sentence=f"No learning-rate trial of {arm} finished, so it is excluded from the comparison.",
                evidence="tried " + ", ".join(f"{trial.rate:g}" for trial in tried),
            )


def unequal_trials(case: Case) -> Iterator[Finding]:
    """Arms whose searches took different numbers of trials under the same rule and cap."""
    arms = [arm for arm in case.trained_arms() if arm in case.confirmed]
    counts = {arm: len(trials.trials(case.records, arm)) for arm in arms}
    if len(set(counts.values())) > 1:
        yield Finding(
            id="unequal-trials",
            severity="note",
            sentence="The same tuning rule needed more learning-rate trials for some arms than for others.",
            evidence=", ".join(f"{arm}: {number}" for arm, number in counts.items()),
        )
