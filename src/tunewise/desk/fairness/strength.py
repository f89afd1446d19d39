"""Rules about the strength of the arms: does the adapter reach the model, and does the margin forgive too much?"""

from collections.abc import Iterator

from tunewise.desk.fairness.case import Case
from tunewise.desk.fairness.finding import WORDS, Finding

MIN_LINEAR_SHARE = 0.5  # of the weights of the base's body
TIGHT_MARGIN_SHARE = 0.5  # of full's steps, before which it should not be within the margin of its best


def loose_margin(case: Case) -> Iterator[Finding]:
    """Full itself came within the margin of its best before half of its steps: so wide a margin forgives much."""
    share = case.full_within_margin_after()
    if share is None or share >= TIGHT_MARGIN_SHARE:
        return
    yield Finding(
        id="loose-margin",
        severity="warns",
        sentence=f"The margin is wide: full fine-tuning itself was that close to its best after {share:.0%} of its "
        "steps.",
        evidence=f"mean curve on valid; margin {case.margin_in_loss():.3g}",
    )


def narrow_targets(case: Case) -> Iterator[Finding]:
    """The adapter sits on nothing, or on under half of the body's weights, where LoRA is known to lose.

    Source of the latter: Schulman et al. 2025, "LoRA Without Regret".
    """
    for arm in case.trained_arms():
        tuned = case.tuned(arm)
        if tuned is None:
            continue
        if tuned.num_target_modules == 0 or tuned.trainable_parameters == 0:
            yield Finding(
                id="nothing-adapted",
                severity="blocks",
                sentence=f"The targets of {arm} match no module: nothing of the base is adapted.",
                evidence=f"{tuned.num_target_modules} target modules, {tuned.trainable_parameters:,} parameters learn",
                arms=(arm,),
                forbids=WORDS,
            )
        elif tuned.linear_share is not None and tuned.linear_share < MIN_LINEAR_SHARE:
            yield Finding(
                id="narrow-targets",
                severity="warns",
                sentence=f"{arm} adapts under half of the body's weights. `targets: all-linear` often does better, but "
                "reaches no experts that are held as one tensor, no convolutions and no towers for images.",
                evidence=f"{tuned.linear_share:.0%} covered",
            )
