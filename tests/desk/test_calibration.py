"""Verdicts are true as often as they claim: a small, seeded `make calibrate` with limits 1.5 points wider."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from tunewise.desk.statistics.intervals import two_way_interval

SLACK = 0.015
NUM_STUDIES = 2000
SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
calibrate = importlib.import_module("calibrate")
cells = importlib.import_module("calibrate_cells")
calibrate_judged = importlib.import_module("calibrate_judged")
calibrate_looks = importlib.import_module("calibrate_looks")
SMALL = [cell for cell in cells.cells() if cell.num_units <= 300 and "500" not in cell.name]


def misses(rows: list) -> list[str]:
    return [f"{r.cell}: {r.what} {r.measured:.4f}, limit {r.limit}" for r in rows if not r.holds(SLACK)]


@pytest.mark.parametrize("cell", SMALL, ids=lambda cell: cell.name)
def test_coverage_errors_and_power_hold_their_limits(cell):
    rows = list(calibrate.measure(cell, np.random.default_rng(7), NUM_STUDIES if cell.kind == "normal" else 500))
    assert len(rows) >= 8
    assert not misses(rows)


def test_of_six_arms_at_the_margin_and_in_the_whole_schedule_wrong_words_are_rare():
    rng = np.random.default_rng(8)
    rows = [*calibrate.many_arms((0.7, 0.2, 0.1), rng, 500), *calibrate.whole_schedule(rng, 300, "")]
    assert not misses(rows)
    uncorrected = next(row for row in rows if row.what.startswith("without Holm"))
    assert uncorrected.measured > 0.06  # so that the test would see it if Holm did nothing


def test_selection_by_noisy_texts_makes_no_wrong_words():
    """A search that sees 200 texts, right or wrong, is inconclusive more often, and not wrong more often."""
    rng = np.random.default_rng(9)
    rows = list(calibrate.whole_schedule(rng, 150, calibrate.SELECTED_BY_TEXTS))
    assert not misses(rows)
    score = calibrate.by_texts(rng)
    shares = [score(0.1).accuracy for _ in range(200)]
    assert abs(np.mean(shares) - 0.5) < 0.05
    assert 0.01 < np.std(shares) < 0.04, "noise of the size of the margin or more"


@pytest.mark.slow
def test_looks_that_stop_early_save_runs_and_err_as_seldom_unless_ended_arms_give_up_their_level():
    fixed, _, adaptive, broken = calibrate_looks.designs(np.random.default_rng(2), 600)
    assert adaptive.resolved.runs < 0.87 * fixed.resolved.runs
    assert adaptive.unresolved.runs < 0.8 * fixed.unresolved.runs
    assert adaptive.resolved.decided > fixed.resolved.decided - 0.02
    assert adaptive.unresolved.decided > fixed.unresolved.decided - 0.02
    assert not misses(list(calibrate.of_designs([fixed, adaptive])))
    assert max(adaptive.wrong.values()) < max(fixed.wrong.values()) + 0.005
    assert max(broken.wrong.values()) > max(adaptive.wrong.values()) + 0.005, "the test would see it"


@pytest.mark.slow
def test_two_metrics_of_two_arms_share_one_error():
    shared, apart = (
        calibrate_looks.two_metrics(np.random.default_rng(5), 200, one_family=is_one) for is_one in (True, False)
    )
    assert not misses(list(calibrate.of_two_metrics(shared)))
    assert max(apart.values()) > max(shared.values()) + 0.005, "the test would see it"


def test_seeds_apart_fixed_checkpoints_and_means_over_tasks_hold_their_limits():
    questions = calibrate_judged.questions()
    small = [question for question in questions if question.num_cells < 3000]
    rows = [row for q in small for row in calibrate_judged.measure(q, np.random.default_rng(3), 400)]
    assert len(rows) >= 50
    assert not misses(rows)
    page = (SCRIPTS.parent / "docs" / calibrate_judged.PAGE).read_text(encoding="utf-8")
    assert "**missed**" not in page
    assert all(f"**{question.name}**" in page for question in questions)


def test_the_fast_way_over_many_studies_is_the_products_own_interval():
    for cell in cells.cells():
        tables = cell.draw(np.random.default_rng(9), 3, 5, 5, 0.0)
        found = calibrate.fit(tables)
        for study in range(3):
            expected = two_way_interval(tables[study])
            if expected.standard_error is None:
                continue
            ends = tuple(end[study] for end in found.ends())
            assert ends == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_limit_that_is_missed_is_seen():
    row = calibrate.Row("cell", "coverage", 0.91, 0.935, is_least=True)
    assert not row.holds()
    assert not row.holds(SLACK)
    assert row.holds(0.03)
    assert not calibrate.Row("cell", "as good", 0.08, 0.055).holds(SLACK)


def test_the_pages_were_written_by_the_script_and_miss_no_limit():
    page, appendix = ((SCRIPTS.parent / "docs" / name).read_text(encoding="utf-8") for name in calibrate.PAGES.values())
    assert ", 0 of them beyond their limit; 20,000 studies of each normal cell, 4,000 of each other" in appendix
    assert "**missed**" not in appendix
    for cell in cells.cells():
        assert f"**{cell.name}**" in appendix
    count = appendix.count("| ≥") + appendix.count("| ≤") + appendix.count("| none |")
    assert f"Of {count} checks on simulated studies, none exceeds its limit." in page


def test_the_pages_have_every_line_of_their_templates():
    pages = {**calibrate.PAGES, "replicate_template.md": "explanation/replication.md"}
    for template, name in pages.items():
        page = (SCRIPTS.parent / "docs" / name).read_text(encoding="utf-8").splitlines()
        lines = (SCRIPTS / template).read_text(encoding="utf-8").splitlines()
        missing = [line for line in lines if "{" not in line and line not in page]
        assert not missing, f"{name} is older than scripts/{template}: run make calibrate, make replicate"
