"""Rules about the strength of the test: does the adapter cover the model, and is the margin too wide?"""

from collections.abc import Iterator

from tunewise.desk.fairness.case import Case
from tunewise.desk.fairness.finding import WORDS, Finding, by_arm, listed
from tunewise.spec import BASES

MIN_LINEAR_SHARE = 0.5  # of the weights of the base's body
TIGHT_MARGIN_SHARE = 0.5  # of full's steps; within the margin of its best before that, the margin is wide


def loose_margin(case: Case) -> Iterator[Finding]:
    """Full fine-tuning came within the margin of its own best before half of its steps: the margin is wide."""
    share = case.full_within_margin_after()
    if share is None or share >= TIGHT_MARGIN_SHARE:
        return
    yield Finding(
        id="loose-margin",
        severity="warns",
        sentence=f"The margin is wide: full fine-tuning came within it of its own best after {share:.0%} of its steps. "
        "Consider a smaller `margin` in a new study.",
        evidence=f"mean validation curve; margin {case.margin_in_loss():.3g}",
    )


def narrow_targets(case: Case) -> Iterator[Finding]:
    """The adapter covers no module, or less than half of the body's weights, where LoRA is known to fall behind.

    Source of the latter: Schulman et al. 2025, "LoRA Without Regret".
    """
    narrow: dict[str, float] = {}
    for arm in case.trained_arms():
        tuned = case.tuned(arm)
        if tuned is None:
            continue
        if tuned.num_target_modules == 0 or tuned.trainable_parameters == 0:
            yield Finding(
                id="nothing-adapted",
                severity="blocks",
                sentence=f"The targets of {arm} match no module, so it trains nothing of the base. Change `targets`.",
                evidence=f"{tuned.num_target_modules} target modules, {tuned.trainable_parameters:,} trainable "
                "parameters",
                arms=(arm,),
                forbids=WORDS,
            )
        elif tuned.linear_share is not None and tuned.linear_share < MIN_LINEAR_SHARE:
            narrow[arm] = tuned.linear_share
    if narrow:
        verb = "adapts" if len(narrow) == 1 else "adapt"
        yield Finding(
            id="narrow-targets",
            severity="warns",
            sentence=f"{listed(list(narrow))} {verb} less than half of the body's weights. "
            "`targets: all-linear` often does better. It does not cover convolutions or image towers.",
            evidence=by_arm(narrow, lambda share: f"{share:.0%} covered"),
        )


def quantized_base(case: Case) -> Iterator[Finding]:
    """Arms that start from a base in 4 bits: their difference from the others includes what its rounding costs."""
    stored = {name: arm.base for name, arm in case.study.lora_arms.items() if arm.base}
    if not stored:
        return
    names, bases = list(stored), sorted({BASES[kind] for kind in stored.values()})
    verb = "starts" if len(names) == 1 else "start"
    yield Finding(
        id="quantized-base",
        severity="note",
        sentence=f"{listed(names)} {verb} from a base whose linear weights are rounded to 4 bits, so any difference "
        f"from the other arms includes the cost of that. The scores of {listed(bases)} show it before training.",
        evidence=by_arm(stored, str) + "; all other arms: whole",
    )
