"""Curves of the loss on valid: where a level is first reached, by which runs, after how many seconds."""

import pytest

from tunewise.desk.analysis.curves import (
    LossPoint,
    TimedCurve,
    first_crossing,
    mean_losses,
    share_of_training,
    step_at,
    to_quality,
)


def curve(*losses: float, every: int = 10) -> list[LossPoint]:
    return [LossPoint(every * i, loss) for i, loss in enumerate(losses)]


def test_a_level_is_reached_on_the_straight_line_between_two_measurements() -> None:
    assert step_at(curve(4.0, 3.0, 2.0, 2.5), 2.5) == pytest.approx(15)
    assert step_at(curve(4.0, 3.0, 2.0), 4.5) == 0, "from the beginning"
    assert step_at(curve(4.0, 3.0, 2.0), 1.9) is None
    assert first_crossing([3.0, 3.0], 3.0) == (0, 0.0)


def test_every_arm_is_timed_to_the_level_that_most_of_its_runs_reach() -> None:
    """The median best loss of the weak arm is 3.0. One of its three runs never gets there and comes last."""
    strong = [TimedCurve(curve(4.0, 3.0, 2.0), 0.5), TimedCurve(curve(4.0, 3.0, 2.0), 0.7)]
    weak = [TimedCurve(curve(4.0, 3.4, best), 0.1) for best in (2.8, 3.0, 3.2)]
    found = to_quality({"strong": strong, "weak": weak, "never measured": [TimedCurve([], None)]})
    assert set(found) == {"strong", "weak"}
    assert found["strong"].level == found["weak"].level == pytest.approx(3.0)
    assert (found["strong"].steps, found["strong"].seconds) == pytest.approx((10, 6))  # the median of 5 and 7 s
    assert found["weak"].steps == pytest.approx(20)  # of about 17, 20 and never
    assert (found["weak"].reached, found["weak"].runs) == (2, 3)


def test_a_run_that_was_never_evaluated_is_counted_as_one_that_does_not_reach_the_level() -> None:
    found = to_quality({"full": [TimedCurve(curve(3.0, 2.0), 1.0), TimedCurve([], None)]})
    assert (found["full"].reached, found["full"].runs) == (1, 2)


def test_without_times_there_are_steps_and_no_seconds() -> None:
    found = to_quality({"full": [TimedCurve(curve(3.0, 2.0), None)]})["full"]
    assert (found.steps, found.seconds) == (10, None)


def test_the_mean_curve_has_the_steps_that_every_run_has() -> None:
    short = curve(4.0, 2.0)
    assert mean_losses([curve(4.0, 3.0, 1.0), short]) == ((0, 4.0), (10, 2.5))
    assert mean_losses([]) == ()


def test_a_margin_is_told_as_the_share_of_training_that_it_forgives() -> None:
    """Losses 4, 3, 2, 2.2: within 0.5 of the best at 2.5, halfway from step 10 to step 20 of 30."""
    assert share_of_training(curve(4.0, 3.0, 2.0, 2.2), 0.5) == pytest.approx(15 / 30)
    assert share_of_training(curve(4.0, 3.0, 2.0, 2.2), 5.0) == 0, "a margin of all that there is to gain"
    assert share_of_training(curve(4.0), 0.5) is None
