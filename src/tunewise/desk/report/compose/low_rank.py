"""The low-rank analysis of a study: how well adapters extracted from full fine-tuning perform."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.desk.analysis.low_rank import (
    Extracted,
    LowRank,
    Shortfall,
    cause,
    module_changes,
    read_spectrum,
    shortfall,
    whole_energies,
)
from tunewise.desk.metrics.metrics import metric_named, primary_metric
from tunewise.desk.protocol.ranks import margin_on_valid
from tunewise.desk.report import wording
from tunewise.desk.report.views.capacity_view import LowRankView
from tunewise.desk.statistics.harm import mean_of
from tunewise.desk.study.state import StudyState
from tunewise.records import RunRecord, extracted_split
from tunewise.spec import FullMethod
from tunewise.text import numbers


@dataclass(frozen=True)
class _Cutting:
    """Confirmed runs of full from which adapters were extracted, with the margin on `valid`."""

    state: StudyState
    metric: str
    runs: Sequence[RunRecord]
    margin: float

    def cut(self, targets: str, rank: int | None) -> Shortfall:
        """An extracted adapter compared with full."""
        scores = self.state.scores(self.runs, extracted_split("valid", targets, rank))
        full = self.state.scores(self.runs, "valid")
        return shortfall(metric_named(self.metric), mean_of(self.metric, scores), scores, full, self.margin)

    def trained(self, arm: str) -> Shortfall | None:
        """An arm compared with full on the seeds that both have; None: there are none."""
        of_full = {run.spec.seed: run for run in self.runs}
        runs = [r for r in self.state.confirmed.get(arm, []) if r.status == "done" and r.spec.seed in of_full]
        if not runs:
            return None
        scores = self.state.scores(runs, "valid")
        full = self.state.scores([of_full[run.spec.seed] for run in runs], "valid")
        return shortfall(metric_named(self.metric), mean_of(self.metric, scores), scores, full, self.margin)


def low_rank(state: StudyState) -> LowRankView | None:
    """The change made by full fine-tuning, in numbers and words; None if not requested or full is not confirmed.

    Raises StudyError for files that are damaged.
    """
    method = state.study.arms.get(state.full or "")
    if method is None or method.method != "full" or not method.extract or state.full is None:
        return None
    runs = [run for run in state.confirmed.get(state.full, []) if run.status == "done"]
    if not runs:
        return None
    metric = primary_metric(state.data.task)  # what rates and checkpoints are selected by
    full = state.scores(runs, "valid")
    reference = state.confirmed.get(state.study.reference_arm) or ([state.base] if state.base else [])
    margin = margin_on_valid(state.study, metric, full, state.scores(reference, "valid"))
    cutting = _Cutting(state, metric, runs, margin)
    ranks = sorted({rank for of in method.extract.values() for rank in of})
    spectra = [read_spectrum(state.files.ledger.spectrum_path(run.run_id)) for run in runs]
    found = LowRank(
        arm=state.full,
        metric=metric,
        value=mean_of(metric, full),
        margin=margin,
        num_seeds=len(runs),
        num_units=len(set(full[0].units)),
        energies=whole_energies(spectra, ranks),
        modules=module_changes(spectra, ranks),
        extracted=tuple(one for targets in method.extract for one in _extracted(cutting, targets, method)),
    )
    return LowRankView(**dict(found), words=_words(found), causes=tuple(_causes(found)))


def _extracted(cutting: _Cutting, targets: str, method: FullMethod) -> list[Extracted]:
    whole = cutting.cut(targets, None)
    found = []
    for rank in method.extract[targets]:
        cut, arm = cutting.cut(targets, rank), _trained_at(cutting.state, targets, rank)
        trained = cutting.trained(arm) if arm else None
        why = cause(trained, cut, whole) if trained else None
        found.append(Extracted(targets=targets, rank=rank, cut=cut, arm=arm, trained=trained, cause=why))
    return [*found, Extracted(targets=targets, rank=None, cut=whole, arm=None, trained=None, cause=None)]


def _trained_at(state: StudyState, targets: str, rank: int) -> str | None:
    """The LoRA arm with this rank and these targets, plain LoRA before its variants."""
    arms = [
        (method.variant != "plain", name)
        for name, method in state.study.lora_arms.items()
        if (method.rank, method.targets) == (rank, targets)
    ]
    return min(arms)[1] if arms else None


# --- in words


def _words(found: LowRank) -> str:
    spread = sorted(module.energy_rank for module in found.modules)
    sizes = sorted(module.relative_size for module in found.modules if module.relative_size is not None)
    intruders = sum(module.intruders > 0 for module in found.modules)
    held = "; ".join(f"rank {rank} {numbers.share(energy)}" for rank, energy in found.energies.items())
    seeds = "one seed" if found.num_seeds == 1 else f"{found.num_seeds} seeds"
    return (
        f"In the {len(found.modules)} linear modules ({seeds}), {found.arm} changed the weights by "
        f"{_range([100 * size for size in sizes], '%')} of their norm. Share of the squared norm of this change by "
        f"rank: {held}. A module needs {_range(spread, '')} directions for 90% of it; half of the modules need at most "
        f"{spread[(len(spread) - 1) // 2]:.0f}. {intruders} of the modules have intruder dimensions: some of their 10 "
        "leading directions after tuning resemble none of the base's (arXiv 2410.21228)."
    )


def _range(values: Sequence[float], unit: str) -> str:
    if not values:
        return numbers.MISSING
    return f"{values[0]:.3g}{unit} to {values[-1]:.3g}{unit}"


def _causes(found: LowRank) -> list[str]:
    return [_cause(one, found) for one in found.extracted if one.trained is not None]


def _cause(one: Extracted, found: LowRank) -> str:
    assert one.trained is not None, "asked of trained arms"
    # signed: nothing here is a verdict, so no text calls it better or worse
    trained, cut = (_signed(found.metric, part) for part in (one.trained, one.cut))
    margin = f"{found.margin * metric_named(found.metric).scale:.3g} {metric_named(found.metric).difference_unit}"
    begin = (
        f"{one.arm}: compared with {found.arm} on the validation set, the trained adapter differs by {trained} and the "
        f"extracted one by {cut}. "
    )
    if one.trained.state != "beyond":
        is_within = one.trained.state == "within"
        return begin + (
            f"The trained adapter stays within the margin ({margin}), so there is no loss to explain."
            if is_within
            else f"We cannot tell whether the loss of the trained adapter exceeds the margin ({margin}), so no cause "
            "is given."
        )
    if one.cause == "optimisation":
        return (
            f"{begin}An adapter of this rank can represent what {found.arm} learned to within the margin ({margin}). "
            "The rank is not too low; training did not find that solution. Check the learning rate, the number of "
            "steps, or the variant."
        )
    if one.cause == "rank":
        return (
            f"{begin}Both lose more than the margin ({margin}); the full change of these modules does not. "
            f"Rank {one.rank} is too low to represent what {found.arm} learned. {_compared(one, found)}"
        )
    if one.cause == "targets":
        return (
            f"{begin}Even the full change of these modules loses more than the margin ({margin}). Part of what "
            f"{found.arm} learned is in weights that the adapter does not train: other modules, embeddings, norms or "
            f"biases. {_compared(one, found)}"
        )
    return f"{begin}The trained adapter loses more than the margin ({margin}); the intervals do not show the cause."


def _compared(one: Extracted, found: LowRank) -> str:
    """A sentence on which of the two loses less; a trained adapter need not approximate full."""
    assert one.trained is not None, "asked of trained arms"
    higher = metric_named(found.metric).higher_is_better
    loses_less = one.trained.value > one.cut.value if higher else one.trained.value < one.cut.value
    if loses_less:
        return (
            "The trained adapter loses less than the extracted one, so it does not approximate the full update; it "
            "found a different solution."
        )
    return "The extracted adapter loses less than the trained one, so training lost quality as well."


def _signed(metric: str, part: Shortfall) -> str:
    value = wording.difference(metric, part.difference.estimate)
    return f"{value} ({wording.signed_interval(metric, part.difference)})"
