"""A page with a study's worst texts in it, in a real browser: nothing of them runs."""

import io
import re
from pathlib import Path
from typing import Any

import pytest

from browser import NEEDS_BROWSER, RUN, dom, is_owned
from tunewise.cli.terminal import Terminal
from tunewise.desk.report.charts.charts import figures
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import to_html
from tunewise.desk.report.terminal.check import Checked, print_check
from tunewise.desk.report.terminal.listing import print_listing
from tunewise.records import RunRecord
from tunewise.storage.ledger import Ledger
from tunewise.text.safe import CONTROLS

HOSTILE = (
    f'</pre></style></title></svg><script>{RUN}</script><img src=x onerror="{RUN}"><svg onload="{RUN}"></svg>'
    f"<a href=\"javascript:{RUN}\">x</a>'\"><iframe srcdoc='<script>parent.{RUN}</script>'></iframe>"
    "\x1b[2J\u202e{{ 7*7 }}"
)


def hostile(record: RunRecord) -> RunRecord:
    samples = [{"example": HOSTILE, "prompt": HOSTILE, "output": HOSTILE, "reference": HOSTILE} for _ in record.samples]
    environment = record.environment
    assert environment is not None
    named = environment.replace(device_name=HOSTILE, system=HOSTILE)
    return record.replace(samples=samples, warnings=[HOSTILE], environment=named.model_dump())


def page_of(make_study: Any) -> str:
    splits = [
        {**split, "source": HOSTILE}
        for split in make_study(max_runs=0).data_summary().model_dump(mode="json")["splits"]
    ]
    data = {"example_prompt": HOSTILE, "example_supervised": HOSTILE, "notes": [HOSTILE], "splits": splits}
    ledger = make_study(change=hostile, data=data, study={"model": CONTROLS.sub("", HOSTILE)})
    report = build_report(ledger)
    return to_html(report, figures(report))


PAGES: list[str] = []  # one: a study of all its runs takes seconds


@pytest.fixture
def page(make_study: Any) -> str:
    if not PAGES:
        PAGES.append(page_of(make_study))
    return PAGES[0]


@NEEDS_BROWSER
@pytest.mark.slow
def test_nothing_in_a_report_runs_in_a_browser(page: str, tmp_path: Path) -> None:
    assert page.count("&lt;script&gt;") > 10, "the texts are there"
    shown = dom(page, tmp_path)
    assert not is_owned(shown)
    assert "<script" not in shown
    assert "<iframe" not in shown
    assert "{{ 7*7 }}" in shown


@NEEDS_BROWSER
@pytest.mark.slow
def test_even_text_that_was_not_escaped_would_run_nothing_and_only_because_of_the_policy(
    page: str, tmp_path: Path
) -> None:
    broken = page.replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", '"').replace("&#39;", "'")
    assert not is_owned(dom(broken, tmp_path))
    without = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", broken)
    assert without != broken
    assert is_owned(dom(without, tmp_path)), "the trap works"


def test_the_page_allows_no_script_and_no_address(page: str) -> None:
    policy = re.search(r"Content-Security-Policy\" content=\"([^\"]*)\"", page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert "script-src" not in policy[1]
    assert page.index("Content-Security-Policy") < page.index("<title>"), "before the first text of others"


@pytest.mark.parametrize(("device", "words"), [("cpu", "bit for bit"), ("cuda", "not guaranteed bit for bit")])
def test_the_report_says_what_is_the_same_made_again(make_study: Any, device: str, words: str) -> None:
    report = build_report(make_study(max_runs=4, data={"device": device}))
    shown = to_html(report, ())
    assert words in shown
    assert "Times and memory " in shown


def test_names_of_models_and_folders_are_no_markup_in_the_terminal(make_study: Any, tmp_path: Path) -> None:
    ledger = make_study(max_runs=1, study={"model": "/models/[/red]x"})
    root = tmp_path / "all["  # with the name below it a tag of rich's
    root.mkdir()
    ledger = Ledger(ledger.folder.rename(root / "blue]study"))
    terminal = Terminal(file=io.StringIO(), width=1000, record=True)
    print_check(Checked(ledger.study(), ledger.data_summary(), None), terminal)
    print_listing(root, terminal)
    written = terminal.export_text()
    assert "model [/red]x" in written
    assert "[/blue]study" in written
