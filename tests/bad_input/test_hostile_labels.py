"""Class labels that are markup, code or orders to a terminal: shown wherever labels are shown, and obeyed nowhere."""

import ast
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import NEEDS_BROWSER, RUN, dom, is_owned
from lab_fixtures import _one_thread, _quiet, small_model
from laws.small_studies import SmallStudy, small_study
from tunewise.cli.app import app
from tunewise.cli.terminal import Terminal
from tunewise.commands.deliver import deliver
from tunewise.desk.report.charts.charts import figures
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import to_html
from tunewise.desk.report.terminal.check import Checked, print_check
from tunewise.desk.report.terminal.text import print_report
from tunewise.text.safe import CONTROLS, pictured

__all__ = ["_one_thread", "_quiet"]
ORDERS = "\x1b[2J\x1b]0;owned\x07 \u202eevil\u2066 [bold]x[/red]"  # to a terminal, to rich, and to turn what is written
LABELS = (
    f"</td></pre><script>{RUN}</script>{ORDERS}",
    f'\'"><img src=x onerror="{RUN}">{{{{ 7*7 }}}}{ORDERS}',
    f"first\n```\n<script>second</script>{ORDERS}",
)
ARMS = {"full": {"method": "full", "learning_rate": 1e-3}, "lora": {"method": "lora", "rank": 2, "learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """A study of two arms that tell these classes apart."""
    root = tmp_path_factory.mktemp("labels")
    small_model("bert", root / "model")
    rows = [{"text": f"w{4 + n} w{20 + n % 3} w{30 + n % 7}", "label": LABELS[n % len(LABELS)]} for n in range(40)]
    changes = {"looks": [1], "samples": {"count": 8}, "train": {"max_steps": 2, "batch_size": 4, "evaluations": 1}}
    made = small_study(root, root / "model", "classify", ARMS, rows=rows, **changes).finish()
    deliver(made.ledger, made.study, made.records())
    assert set(made.data.labels) == set(LABELS)
    return made


class Parsed(HTMLParser):
    """What a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note its name and those of its attributes."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.text += data


@pytest.fixture(scope="module")
def page(finished: SmallStudy) -> str:
    report = build_report(finished.ledger)
    return to_html(report, figures(report))


def test_the_page_shows_them_as_text(page: str) -> None:
    parsed = Parsed(page)
    assert not {"script", "img", "iframe"} & parsed.tags
    assert not {name for name in parsed.attributes if name.startswith("on")}
    assert all(pictured(label) in parsed.text for label in LABELS)
    assert not CONTROLS.search(page)


@NEEDS_BROWSER
@pytest.mark.slow
def test_nothing_of_them_runs_in_a_browser(page: str, tmp_path: Path) -> None:
    shown = dom(page, tmp_path)
    assert not is_owned(shown)
    assert "<script" not in shown
    assert "{{ 7*7 }}" in shown


def test_the_terminal_shows_them_and_obeys_none(finished: SmallStudy, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(file=io.StringIO(), width=300, record=True)
    print_report(build_report(finished.ledger), terminal, finished.ledger.folder)
    print_check(Checked(finished.study, finished.data, None), terminal)
    written = terminal.export_text()
    assert "[bold]x[/red]" in written
    assert not CONTROLS.search(written)
    for prompt in ("w4 w20 w30", "w9 w21"):
        app(["generate", str(finished.ledger.folder), "--prompt", prompt], standalone_mode=False)
    said = capsys.readouterr().out
    assert said.count("[bold]x[/red]") == 2 * len(finished.study.arms)
    assert not CONTROLS.search(said)


@pytest.mark.parametrize("arm", ["full", "lora"])
def test_the_card_of_a_model_holds_them_as_one_python_text_each(finished: SmallStudy, arm: str) -> None:
    card = (finished.ledger.best_folder(arm) / "README.md").read_text(encoding="utf-8")
    assert not CONTROLS.search(card)
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    outside = card.replace(code, "")
    assert "script" not in outside
    names = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    if arm == "lora":
        assert set(LABELS) <= set(names), "which class is which stands in the code alone"
