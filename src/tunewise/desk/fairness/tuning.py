"""Rules about learning rates: were all arms tuned alike, and well enough?"""

from collections.abc import Iterator

from tunewise.desk.fairness.case import Case, unlike
from tunewise.desk.fairness.finding import WORDS, Finding, count
from tunewise.desk.protocol import trials
from tunewise.desk.protocol.search import headroom
from tunewise.desk.statistics.comparison import HEADROOM_SHARE


def unequal_rule(case: Case) -> Iterator[Finding]:
    """An arm's rates were given by hand, so it was not searched like the others, or there were more than the cap."""
    for arm, method in case.study.trained_arms.items():
        tried = trials.trials(case.records, arm)
        if method.rates is None and len(tried) <= case.study.tuning.cap:
            continue
        rates = ", ".join(f"{rate:g}" for rate in method.rates or [trial.rate for trial in tried])
        yield Finding(
            id="unequal-tuning-rule",
            severity="blocks",
            sentence=f"{arm} was not tuned by the rule of the other arms; its result says how it was tuned, not how "
            "good it can be.",
            evidence=f"rates {rates}; the rule: {case.study.tuning.rates} rates around a centre, extended while the "
            f"best is at an edge, at most {case.study.tuning.cap}",
            arms=(arm,),
            forbids=WORDS,
        )


def optimum_at_edge(case: Case) -> Iterator[Finding]:
    """The chosen learning rate has no worse neighbour on one side, so a better one may lie beyond."""
    rates = trials.selected_rates(case.study, case.records)
    for arm in case.confirmed:
        if trials.is_bracketed(case.study, case.records, arm):
            continue
        tried = ", ".join(f"{trial.rate:g}" for trial in trials.trials(case.records, arm))
        yield Finding(
            id="optimum-at-edge",
            severity="blocks",
            sentence=f"The best learning rate of {arm} is at the edge of what was tried; a better one may lie beyond.",
            evidence=f"chosen {rates[arm]:g} of {tried}",
            arms=(arm,),
            forbids=WORDS,
        )


def head_rate_at_edge(case: Case) -> Iterator[Finding]:
    """The rate of the new head, which every arm shares, is at the edge of those tried on the `head` arm."""
    head = case.study.head_arm
    if head is None or head not in case.confirmed or case.study.train.head_learning_rate is not None:
        return
    if trials.is_bracketed(case.study, case.records, head):
        return
    rate = trials.selected_rates(case.study, case.records)[head]
    yield Finding(
        id="head-rate-at-edge",
        severity="warns",
        sentence="The learning rate of the new head, the same in every arm, is at the edge of what was tried.",
        evidence=f"{rate:g}, found on {head}",
    )


def too_much_headroom(case: Case) -> Iterator[Finding]:
    """Between the rates tried an arm may be better by more than a quarter of the margin.

    The verdict itself does not say a word that this could turn (desk/statistics/comparison.py).
    """
    margin = case.margin_in_loss()
    if margin is None:
        return
    for arm in case.trained_arms():
        found = headroom(trials.measured_losses(trials.trials(case.records, arm)))
        if arm not in case.confirmed or found is None or found <= HEADROOM_SHARE * margin:
            continue
        yield Finding(
            id="headroom",
            severity="warns",
            sentence=f"{arm} may gain more by finer tuning of its learning rate than a quarter of the margin; no word "
            "that this could turn is said.",
            evidence=f"{found:.3g} below its best loss, by the parabola through its best rates; margin {margin:.3g}",
            arms=(arm,),
        )


def head_rate_differs(case: Case) -> Iterator[Finding]:
    """New weights learned at another rate in one arm than in another."""
    if found := unlike(case, lambda run: f"{run.spec.head_learning_rate}"):
        yield Finding(
            id="head-rate-differs",
            severity="blocks",
            sentence="The new head learned at different rates in different arms.",
            evidence=found.evidence,
            arms=found.arms,
            forbids=WORDS,
        )


def shared_rate_untuned(case: Case) -> Iterator[Finding]:
    """LoRA arms of different effective alpha (scale x rank) that ran at one rate which was tuned for neither.

    The best rate falls with alpha_eff, so such a comparison measures which arm the rate happens to fit.
    """
    alphas: dict[float, dict[str, float]] = {}
    for arm, method in case.study.lora_arms.items():
        rates = method.rates or ((method.learning_rate,) if case.study.tuning.rates == 1 else ())
        if len(rates) == 1 and rates[0] is not None:
            alphas.setdefault(rates[0], {})[arm] = method.scale * method.top_rank
    for rate, by_arm in alphas.items():
        if len({round(alpha, 9) for alpha in by_arm.values()}) > 1:
            yield Finding(
                id="shared-rate-untuned",
                severity="blocks",
                sentence="LoRA arms of different effective alpha share one learning rate that was tuned for none.",
                evidence=f"rate {rate:g}; alpha_eff " + ", ".join(f"{arm}: {a:g}" for arm, a in by_arm.items()),
                arms=tuple(by_arm),
                forbids=WORDS,
            )


def no_finished_rate(case: Case) -> Iterator[Finding]:
    """Every trial of an arm diverged or failed, so the arm takes no part."""
    rates = trials.selected_rates(case.study, case.records)
    for arm in case.study.arms:
        tried = trials.trials(case.records, arm)
        if tried and arm not in rates and trials.fits(case.records, arm):
            yield Finding(
                id="no-finished-rate",
                severity="warns",
                sentence=f"No learning rate of {arm} trained to the end, so it takes no part in the comparison.",
                evidence="tried " + ", ".join(f"{trial.rate:g}" for trial in tried),
            )


def unequal_trials(case: Case) -> Iterator[Finding]:
    """The search of some arm took more trials than another's, by the same rule and cap."""
    arms = [arm for arm in case.trained_arms() if arm in case.confirmed]
    counts = {arm: len(trials.trials(case.records, arm)) for arm in arms}
    if len(set(counts.values())) > 1:
        yield Finding(
            id="unequal-trials",
            severity="note",
            sentence="The same tuning rule took more learning-rate trials in some arms than in others.",
            evidence=", ".join(f"{arm}: {number}" for arm, number in counts.items()),
        )


def trained_elsewhere(case: Case) -> Iterator[Finding]:
    """An arm that was trained by others, under rules that nobody here can check."""
    others = [arm for arm in case.study.arms if arm not in case.trained_arms()]
    if others:
        yield Finding(
            id="trained-elsewhere",
            severity="warns",
            sentence="Arms trained elsewhere are scored as they are: how they were tuned, and on what, is not known.",
            evidence=count(len(others), "arm") + ": " + ", ".join(others),
        )
