"""Words for the learning-rate searches of the arms."""

from tunewise.desk.analysis.rate_ratio import MIN_RATES, MIN_SEARCH_SEEDS
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report.views.view import ArmView, Report
from tunewise.desk.report.wording import figure
from tunewise.desk.statistics.intervals import Estimate
from tunewise.text.numbers import rate


def search(arm: ArmView, metric: str) -> tuple[str, ...]:
    """How the learning rate was found by this metric, line by line."""
    if not arm.learning_rate_curve:
        return ()
    tried = len(arm.learning_rate_curve)
    is_tried = any(point.selected for point in arm.learning_rate_curve)
    lines = [f"best of {tried} tried" if is_tried else f"lowest point of the curve of {tried} trials"]
    if arm.bracket is None:
        return (*lines, "the lowest or highest one")
    lines.append(f"between {rate(arm.bracket[0])} and {rate(arm.bracket[1])}")
    if arm.headroom is not None:
        lines.append(f"headroom {_small(metric, arm.headroom)}")
    return tuple(lines)


def rate_ratios(report: Report) -> str:
    """Best learning rate of every other arm as a multiple of full's with its 95% interval, or why there is none."""
    others = [arm for arm in report.tuned_arms() if arm.name != report.study.full_arm and arm.learning_rate_curve]
    estimated = [f"{arm.name} {_times(arm.rate_ratio)}" for arm in others if arm.rate_ratio]
    missing = [arm.name for arm in others if not arm.rate_ratio]
    begin = f"Best learning rate as a multiple of {report.study.full_arm}'s: " + (
        "; ".join(estimated) or "not estimated"
    )
    if estimated:
        begin += " (if the best rate of every search seed is between those tried)"
    if not missing:
        return f"{begin}."
    of = "" if not estimated else f"; not estimated: {', '.join(missing)}"
    needs = f"{MIN_SEARCH_SEEDS} search seeds and {MIN_RATES} rates near the best one in both arms"
    return f"{begin}{of} (an estimate needs {needs})."


def _times(found: Estimate) -> str:
    return f"{found.estimate:.3g} ({found.low:.3g} to {found.high:.3g})"


def _small(metric: str, value: float) -> str:
    """A value of a metric, or 'under 0.0001' if it would be shown as 0."""
    least = 10.0 ** -metric_named(metric).decimals
    return figure(metric, value) if value * metric_named(metric).scale >= least else f"under {least:g}"
