"""Selection of the best of several validation evaluations: checkpoints of a run, or trials of a search.

By NLL, or by a share of right rows: the accuracy of a classification, or the texts of `select_by`. Evaluations within
one paired standard error of the most accurate one are then tied, and NLL decides among them, so that a few rows of a
small validation set do not choose the learning rate.
"""

import math
from collections.abc import Mapping, Sequence

from tunewise.records.run import Evaluation


def selection_losses(found: Mapping[float, Evaluation | None]) -> dict[float, float | None]:
    """Losses that selection minimizes, one per evaluation compared; None stays None.

    NLL. If a share of right rows selects, the error rate, where tied evaluations take that of the most accurate, plus a
    trace of NLL.
    """
    evaluations = [evaluation for evaluation in found.values() if evaluation is not None]
    best = most_accurate(evaluations) if evaluations else None
    return {key: None if one is None or best is None else _loss(one, best) for key, one in found.items()}


def pooled(runs: Sequence[Evaluation]) -> Evaluation | None:
    """Mean of evaluations that differ only in the seed, validation rows concatenated; None for no evaluations."""
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

    The weights of all other evaluations are already deleted, so a rejected evaluation cannot be selected later.
    """
    last, best = evaluations[-1], most_accurate(evaluations)
    return _loss(last, best) < _loss(selected, best)


def most_accurate(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation that the others are compared with: the most accurate; among equals the one with the lowest NLL."""
    return min(evaluations, key=lambda one: one.selection_loss)


def is_tied(best: Evaluation, other: Evaluation) -> bool:
    """True if `other` is within one paired standard error of the accuracy of `best`, over the validation rows."""
    if best.right is None or other.right is None:
        return best == other  # NLL selects: no ties
    num_rows = len(best.right)
    assert len(other.right) == num_rows, "one study, one validation set"
    right, other_right = int(best.right, 2), int(other.right, 2)
    lost, won = (right & ~other_right).bit_count(), (other_right & ~right).bit_count()
    mean = (lost - won) / num_rows
    variance = ((lost + won) / num_rows - mean**2) / max(num_rows - 1, 1)
    return mean <= math.sqrt(variance)


def _loss(one: Evaluation, best: Evaluation) -> float:
    tied = one.replace(accuracy=best.accuracy) if is_tied(best, one) else one
    return tied.selection_loss
