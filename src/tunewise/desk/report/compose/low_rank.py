"""What a study says of the rank of the task: the change that full fine-tuning made, and its parts."""

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
from tunewise.desk.protocol.ranks import margin_on_valid
from tunewise.desk.report import wording
from tunewise.desk.report.views.capacity_view import LowRankView
from tunewise.desk.statistics.harm import mean_of
from tunewise.desk.statistics.metrics import metric_named, primary_metric
from tunewise.desk.study.state import StudyState
from tunewise.records import RunRecord, extracted_split
from tunewise.spec import FullMethod
from tunewise.text import numbers


@dataclass(frozen=True)
class _Cutting:
    """The confirmed runs of full out of which adapters were cut, and how far a loss on valid may go."""

    state: StudyState
    metric: str
    runs: Sequence[RunRecord]
    margin: float

    def cut(self, targets: str, rank: int | None) -> Shortfall:
        """An adapter cut out, beside full uncut."""
        scores = self.state.scores(self.runs, extracted_split("valid", targets, rank))
        full = self.state.scores(self.runs, "valid")
        return shortfall(metric_named(self.metric), mean_of(self.metric, scores), scores, full, self.margin)

    def trained(self, arm: str) -> Shortfall | None:
        """An arm beside full, of the seeds that both have; None: there are none."""
        of_full = {run.spec.seed: run for run in self.runs}
        runs = [r for r in self.state.confirmed.get(arm, []) if r.status == "done" and r.spec.seed in of_full]
        if not runs:
            return None
        scores = self.state.scores(runs, "valid")
        full = self.state.scores([of_full[run.spec.seed] for run in runs], "valid")
        return shortfall(metric_named(self.metric), mean_of(self.metric, scores), scores, full, self.margin)


def low_rank(state: StudyState) -> LowRankView | None:
    """What full fine-tuning changed, in figures and words; None while the study does not ask, or full is not confirmed.

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
    """The LoRA arm of this rank on these targets, a plain one before its variants."""
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
        f"What {found.arm} changed in the {len(found.modules)} linear modules ({seeds}) is "
        f"{_range([100 * size for size in sizes], '%')} of the weights before. Of its squared norm these ranks hold: "
        f"{held}. For 90 % of it a module needs {_range(spread, '')} directions, half of the modules at most "
        f"{spread[(len(spread) - 1) // 2]:.0f}. In {intruders} of the modules some of the tuned weight's 10 leading "
        "directions are like none that the base has (intruder dimensions, arXiv 2410.21228)."
    )


def _range(values: Sequence[float], unit: str) -> str:
    if not values:
        return numbers.MISSING
    return f"{values[0]:.3g}{unit} to {values[-1]:.3g}{unit}"


def _causes(found: LowRank) -> list[str]:
    return [_cause(one, found) for one in found.extracted if one.trained is not None]


def _cause(one: Extracted, found: LowRank) -> str:
    assert one.trained is not None, "asked of trained arms"
    trained, cut = (_signed(found.metric, part) for part in (one.trained, one.cut))
    margin = f"{found.margin * metric_named(found.metric).scale:.3g} {metric_named(found.metric).difference_unit}"
    begin = f"{one.arm}: trained it differs from {found.arm} by {trained} on valid, cut out of it by {cut}. "
    if one.trained.state != "beyond":
        is_within = one.trained.state == "within"
        return begin + (
            f"It stays within the margin ({margin}): there is nothing to explain."
            if is_within
            else f"Whether it falls short by more than the margin ({margin}) is open, so no cause is named."
        )
    if one.cause == "optimisation":
        return (
            f"{begin}The rank holds what {found.arm} learned to within the margin ({margin}), so it is not too small: "
            "training did not find it. Look at the learning rate, the number of steps, or the variant."
        )
    if one.cause == "rank":
        return (
            f"{begin}Both fall short by more than the margin ({margin}), the uncut change of these modules does not: "
            f"rank {one.rank} is too small for what {found.arm} does. {_beside(one, found)}"
        )
    if one.cause == "targets":
        return (
            f"{begin}Even the uncut change of these modules falls short by more than the margin ({margin}): what "
            f"{found.arm} learned lies partly in what the adapter leaves alone (other modules, embeddings, norms, "
            f"biases). {_beside(one, found)}"
        )
    return f"{begin}It falls short by more than the margin ({margin}); the intervals do not tell the cause."


def _beside(one: Extracted, found: LowRank) -> str:
    """An adapter need not imitate full: where the trained one loses less, that is said."""
    assert one.trained is not None, "asked of trained arms"
    higher = metric_named(found.metric).higher_is_better
    loses_less = one.trained.value > one.cut.value if higher else one.trained.value < one.cut.value
    if loses_less:
        return "Of the two the trained one loses less: it found another way than to imitate full fine-tuning."
    return "Of the two the one cut out loses less, so training lost something, too."


def _signed(metric: str, part: Shortfall) -> str:
    value = wording.difference(metric, part.difference.estimate)
    return f"{value} ({wording.signed_interval(metric, part.difference)})"
