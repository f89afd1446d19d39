"""The generated pages of docs/reference/ are those of today's code, and every public name has an example that runs."""

import re
import runpy
from pathlib import Path
from typing import Any, get_args

import pytest

import tunewise as tw
from tunewise.desk.statistics.verdict import Outcome, Reason
from tunewise.records.run import Status
from tunewise.spec import StudySpec
from tunewise.spec.methods import METHOD_SPECS
from tunewise.spec.metrics import TEXT_METRICS
from tunewise.spec.tasks import TASKS
from tunewise.spec.words import Role

ROOT = Path(__file__).parents[1]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))
REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", SCRIPT["PAGES"])
def test_a_generated_page_is_what_the_code_says_today(name: str) -> None:
    written = (REFERENCE / name).read_text(encoding="utf-8")
    assert written == SCRIPT["PAGES"][name]().rstrip() + "\n", f"docs/reference/{name} is old: run `make reference`"


@pytest.mark.parametrize("name", tw.__all__)
def test_every_public_name_is_in_an_example_that_is_run(name: str) -> None:
    page = (REFERENCE / "python-api.md").read_text(encoding="utf-8")
    examples = "".join(re.findall(r"^```python\n(.*?)^```", page, re.S | re.M))  # tests/test_readme.py runs them
    assert re.search(rf"\btw\.{name}\b", examples)


def test_every_key_and_field_has_a_meaning() -> None:
    for name in ("study.md", "report-json.md", "scores.md", "cli.md"):
        for row in (REFERENCE / name).read_text(encoding="utf-8").splitlines():
            if row.startswith("| `"):
                cells = re.split(r"(?<!\\)\|", row)[1:-1]
                assert all(cell.strip() for cell in cells[:3]), f"{name}: {row}"


def test_a_field_without_a_meaning_is_an_error() -> None:
    class Unexplained(tw.Limits):
        nothing_says_what: int = 0

    with pytest.raises(KeyError):
        SCRIPT["meaning"](Unexplained, "nothing_says_what")


METRICS = {name for task in TASKS.values() for name in (*task.reported, *task.judged)} | set(TEXT_METRICS)
VARIANTS = get_args(tw.LoraMethod.model_fields["variant"].annotation)
WRITTEN_BY_HAND = {
    "reference/run-states.md": {*get_args(Status), *get_args(Role)},
    "reference/metrics.md": METRICS,
    "reference/models.md": {*METHOD_SPECS, *VARIANTS},
    "how-to/inconclusive.md": {*get_args(Reason)},
    "reference/report-json.md": {*get_args(Outcome)},
}


@pytest.mark.parametrize("page", WRITTEN_BY_HAND)
def test_a_page_names_every_value_that_the_code_has(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`\n]+)`", text))
    assert named >= WRITTEN_BY_HAND[page], WRITTEN_BY_HAND[page] - named


def test_the_page_on_exit_codes_names_those_of_the_command_line() -> None:
    codes = re.findall(r"^\| (\d+) \|", (REFERENCE / "exit-codes.md").read_text(encoding="utf-8"), re.M)
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/tunewise/cli").glob("*.py"))
    used = set(re.findall(r"(?:Exit\(|sys\.exit\(|INTERRUPTED = |UNFINISHED = |BROKEN = |CLOSED = )(\d+)", source))
    assert set(codes) >= used | {"0", "1", "2"}


def test_the_page_on_cost_counts_runs_with_todays_defaults() -> None:
    """Base; for two arms the first rates and both half-steps to the cap, and both looks."""
    study = StudySpec(name="a", data=tw.DataSpec(train="builtin:stdlib"), arms={"full": tw.FullMethod()})
    least = 1 + 2 * (study.tuning.rates + 2 * study.tuning.half_steps + study.looks[0])
    most = 1 + 2 * (study.tuning.cap + study.looks[-1])
    for page in (ROOT / "docs/how-to/cost.md", ROOT / "README.md"):
        assert f"{least} to {most}" in page.read_text(encoding="utf-8")


def test_the_readmes_findings_are_those_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Findings so far")[2].partition("\n## ")[0]
    kept = set(re.findall(r"\| (\d+%) \|$", readme, re.M))
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert kept
    assert kept <= set(re.findall(r"\d+%", results))


def test_the_demo_installs_no_development_package() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition(".demo/.installed:")[2].partition("\n\n")[0]
    assert "install" in recipe
    assert "[dev]" not in recipe
