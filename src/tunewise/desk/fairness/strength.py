"""Rules about the strength of the arms: does the adapter reach the model, and is full as good as others made it?"""

from collections.abc import Iterator
from typing import NamedTuple

from tunewise.desk.fairness.finding import WORDS, Case, Finding
from tunewise.desk.schedule import selected_evaluation

MIN_LINEAR_SHARE = 0.5  # of the weights of the base's body
TIGHT_MARGIN_SHARE = 0.5  # of full's steps, before which it should not be within the margin of its best


class Published(NamedTuple):
    """The best figure of full fine-tuning that we can cite for a model on a data set."""

    model: str  # the last part of its name
    dataset: str  # letters and digits of its name
    valid_rows: int  # of the split that the figure is of, by which a part of it is told apart
    accuracy: float
    source: str


# On GLUE's own validation splits: Liu et al. 2019 (arXiv 1907.11692) as in table 2 of Hu et al. 2021 (2106.09685).
LIU = "Liu et al. 2019, arXiv 1907.11692"
PUBLISHED = (
    Published("roberta-base", "sst2", 872, 0.948, LIU),
    Published("roberta-base", "mrpc", 408, 0.902, LIU),
    Published("roberta-base", "qnli", 5463, 0.928, LIU),
    Published("roberta-base", "qqp", 40430, 0.919, LIU),
    Published("roberta-base", "rte", 277, 0.787, LIU),
)


def full_beside_published(case: Case) -> Iterator[Finding]:
    """Full's validation accuracy beside the best published figure, where one is known."""
    known = _published(case)
    runs = case.trained().get(case.full or "", [])
    found = [evaluation.accuracy for run in runs if (evaluation := selected_evaluation(run))]
    accuracies = [accuracy for accuracy in found if accuracy is not None]
    if known is None or not accuracies:
        return
    mean = sum(accuracies) / len(accuracies)
    weak = mean < known.accuracy
    yield Finding(
        id="full-below-published" if weak else "full-beside-published",
        severity="warns" if weak else "note",
        sentence="Full fine-tuning stays below the best published figure for this model and data; a weak full arm "
        "flatters the others."
        if weak
        else "Full fine-tuning reaches the best published figure for this model and data.",
        evidence=f"accuracy on valid {mean:.1%}; published {known.accuracy:.1%} ({known.source})",
    )


def _published(case: Case) -> Published | None:
    model = case.study.model.rstrip("/").rpartition("/")[2].lower()
    source = "".join(letter for letter in case.data.split("valid").source.lower() if letter.isalnum())
    rows = case.data.split("valid").rows
    return next((p for p in PUBLISHED if (p.model, p.valid_rows) == (model, rows) and p.dataset in source), None)


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
