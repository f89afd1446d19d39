"""Which of several evaluations on valid is the best one: of the checkpoints of a run, of the trials of a search.

By NLL; for a classification by accuracy, where those within one paired standard error of the most accurate count as
tied, and the NLL decides among them: a few rows of a small valid set should not choose between learning rates.
"""

import math
from collections.abc import Mapping, Sequence

from tunewise.records.run import Evaluation


def selection_losses(found: Mapping[float, Evaluation | None]) -> dict[float, float | None]:
    """What selection minimises, of evaluations that are compared with each other; None stays None.

    NLL; for a classification the error rate, of tied ones that of the most accurate, and a trace of NLL.
    """
    evaluations = [evaluation for evaluation in found.values() if evaluation is not None]
    best = most_accurate(evaluations) if evaluations else None
    return {key: None if one is None or best is None else _loss(one, best) for key, one in found.items()}


def pooled(runs: Sequence[Evaluation]) -> Evaluation | None:
    """The mean of evaluations of runs that differ in their seed alone, rows of valid side by side; of none: None."""
    if len(runs) < 2:
        return runs[0] if runs else None
    accuracies = [run.accuracy for run in runs if run.accuracy is not None]
    return Evaluation(
        step=runs[0].step,
        nll=sum(run.nll for run in runs) / len(runs),
        accuracy=sum(accuracies) / len(runs) if accuracies else None,
        right="".join(run.right for run in runs if run.right) or None,
    )


def takes_over(evaluations: Sequence[Evaluation], selected: Evaluation) -> bool:
    """True if the last of a run's `evaluations` is better than `selected`, an earlier one.

    The weights of other evaluations are gone by then: one that was passed over does not come back.
    """
    last, best = evaluations[-1], most_accurate(evaluations)
    return _loss(last, best) < _loss(selected, best)


def most_accurate(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The one that the others are compared with: the most accurate, of equals the one with the lowest NLL."""
    return min(evaluations, key=lambda one: one.selection_loss)


def is_tied(best: Evaluation, other: Evaluation) -> bool:
    """True if `other` is within one paired standard error of the accuracy of `best`, over the rows of valid."""
    if best.right is None or other.right is None:
        return best == other  # no classification: nothing is tied
    num_rows = len(best.right)
    assert len(other.right) == num_rows, "one study, one valid set"
    right, other_right = int(best.right, 2), int(other.right, 2)
    lost, won = (right & ~other_right).bit_count(), (other_right & ~right).bit_count()
    mean = (lost - won) / num_rows
    variance = ((lost + won) / num_rows - mean**2) / max(num_rows - 1, 1)
    return mean <= math.sqrt(variance)


def _loss(one: Evaluation, best: Evaluation) -> float:
    tied = one.replace(accuracy=best.accuracy) if is_tied(best, one) else one
    return tied.selection_loss
