"""Print every sentence of the report, the terminal and the fairness findings, for review in one reading.

python scripts/print_wording.py > tests/desk/wording.txt     (what tests/desk/test_wording.py compares with)

Verdicts are composed from sample values. Findings and all other texts are read from the source, with a sample value in
place of a placeholder where SAMPLES has one, else with its name in angle brackets.
"""

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from tunewise.desk.report import sentences, wording
from tunewise.desk.report.compose.build import headline
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.power import Needed
from tunewise.desk.statistics.verdict import Lean, Outcome, Reason, Remark, Verdict
from tunewise.spec import CostName

DESK = Path(__file__).parent.parent / "src" / "tunewise" / "desk"
# where texts stand that a reader sees, in the order of the report
MODULES = (
    "report/search_words.py",
    "report/wording.py",
    "report/compose/build.py",
    "study/verdicts.py",
    "report/rows.py",
    "report/charts/charts.py",
    "report/charts/axes.py",
    "report/charts/cost.py",
    "report/charts/forest.py",
    "report/charts/rank_chart.py",
    "report/charts/rates.py",
    "report/compose/capacity.py",
    "report/compose/placements.py",
    "report/compose/low_rank.py",
    "report/compose/advice.py",
    "report/pages/card.py",
    "report/terminal/text.py",
    "report/terminal/listing.py",
    "report/terminal/check.py",
    "report/terminal/plan.py",
    "report/terminal/times.py",
    "report/across.py",
    "report/peft_results.py",
    "planning/budget.py",
    "study/declarations.py",
    "study/stale.py",
    "adapter/text.py",
    "adapter/inspect.py",
)
TEMPLATES = ("report.html.j2", "capacity.html.j2", "advice.html.j2")
# placeholder, as written in the source -> a sample value; the first pattern that matches the whole placeholder counts
SAMPLES = {
    r"listed\(\[.*\]\)|listed\(list\(.*\)\)|listed\(\w+\)": "lora-r8 and lora-r16",
    r"_were\(\w+\)": "were",
    r"verb": "adapt",
    r"(view|curve|found|one|row|case|verdict)?\.?arm|name|state\.full|case\.arm": "lora-r8",
    r"case\.study\.data\.max_length": "512",
    r"SLOW": "slower than machine.run_limit_seconds",
    r"MIN_SEEDS": "3",
    r"share:\.0%": "17%",
    r"len\(names\)": "2",
    r"lost_answer": "it has no verdict",
    r"margin": "0.02 nats per supervised token",
}
MIN_WORDS = 2


def main() -> None:
    """Print all texts, a section for each place where they stand."""
    for title, lines in sections():
        print(f"== {title}")
        print("\n".join(lines), end="\n\n")


def sections() -> Iterator[tuple[str, list[str]]]:
    """Title and lines of every section."""
    yield "verdicts", list(verdicts())
    yield "short phrases", list(phrases())
    for path in sorted((DESK / "fairness").glob("*.py")):
        if lines := texts(path):
            yield f"fairness/{path.name}", lines
    for module in MODULES:
        yield module, texts(DESK / module)
    for name in TEMPLATES:
        yield name, template_lines((DESK / "report" / "pages" / name).read_text(encoding="utf-8"))


# --- composed from sample values


def verdict(**changes: Any) -> Verdict:
    """An inconclusive verdict on lora-r16, `changes` apart."""
    content: dict[str, Any] = dict.fromkeys(Verdict.model_fields) | {
        "arm": "lora-r16",
        "against": "full",
        "metric": "nll",
        "difference": 0.034,
        "low": 0.0155,
        "high": 0.0508,
        "confidence": 0.975,
        "num_compared": 2,
        "margin": "0.02 nats per supervised token or 5% of full's gain, whichever is smaller",
        "gain": Estimate(estimate=0.6, low=0.55, high=0.65),
        "outcome": "undecided",
        "unbracketed": ("full", "lora-r16"),
        "headroom_of_arm": 0.011,
        "headroom_of_full": 0.004,
        "harmful_units": ("json", "email.parser", "socket", "ssl"),
        "beneficial_units": (),
        "effective_units": 53.0,
        "far_runs": {},
        "num_failed": 0,
        "failing_share_bound": 0.63,
        "smallest_margin_as_good": 0.0508,
        "num_seeds": 3,
        "num_units": 53,
        "num_rows": 300,
        "blocked_by": (),
        "diverged_runs": {},
        "dropped_seeds": (),
    }
    return Verdict.model_validate({**content, **changes})


OPEN = "worse than full, by how much is open"
STRADDLING = {"difference": 0.004, "low": -0.0112, "high": 0.019}


def verdicts() -> Iterator[str]:
    """A sentence for every outcome, remark, reason and lean; headlines; what would settle a question."""
    found = [
        verdict(outcome="better", difference=-0.034, low=-0.0508, high=-0.0155),
        verdict(outcome="as good", **STRADDLING),
        verdict(outcome="as good", remark="equivalent", **STRADDLING),
        verdict(
            outcome="as good", remark="measurably worse, within the margin", difference=0.01, low=0.005, high=0.015
        ),
        verdict(outcome="worse", num_compared=1, confidence=0.95, margin="0.02 nats per supervised token"),
        verdict(outcome="worse", metric="accuracy", difference=-0.031, low=-0.04, high=-0.02),
        verdict(reason="interval", remark=OPEN),
        verdict(reason="interval", remark=OPEN, margin="0.02 nats per supervised token"),
        verdict(reason="interval", **STRADDLING),
        *(verdict(reason="seeds", num_seeds=2, lean=lean) for lean in get_args(Lean)),
        *(verdict(reason=reason) for reason in get_args(Reason) if reason not in ("interval", "seeds", "blocked")),
        verdict(reason="blocked", blocked_by=("optimum-at-edge", "leakage-kept")),
        verdict(outcome="worse", diverged_runs={"lora-r16": 1, "full": 2}, dropped_seeds=(2, 4)),
        verdict(outcome="worse", dropped_seeds=(2,), low=None, high=None),
    ]
    yield from (sentences.sentence(one) for one in found)
    yield from (sentences.second_sentence(one) for one in (found[1], found[8], found[-3]))
    yield headline([verdict(arm="a", outcome="better"), verdict(arm="b", outcome="as good"), verdict(arm="c")], ["d"])
    yield headline([verdict(arm="a", outcome="worse"), verdict(arm="b", blocked_by=("optimum-at-edge",))])
    needs = [
        Needed(kind="seeds", likely=5, fewest=4, most=None, beside=53),
        Needed(kind="units", likely=2300, fewest=1900, most=None, beside=5),
        Needed(kind="units", likely=2300, fewest=1900, most=9000, beside=5),
        Needed(kind="units", likely=None, fewest=1900, most=None, beside=5),
    ]
    yield from map(sentences.what_would_decide, needs)
    yield sentences.what_would_decide_all([("lora-r8", needs[0])])
    yield sentences.what_would_decide_all(list(zip(("a", "b", "c"), (needs[0], needs[2], needs[3]), strict=True)))


def phrases() -> Iterator[str]:
    """What the report shows for the values of report.json, and sentences that take a number."""
    tables = ((Outcome, wording.OUTCOMES), (Reason, wording.REASONS), (Remark, wording.REMARKS))
    for values, shown in tables:
        yield from (f"{value} -> {shown[value]}" for value in get_args(values))
    yield from (wording.recommendation("lora-r8", cost) for cost in get_args(CostName))
    yield wording.sized(verdict(outcome="worse"))
    yield wording.sized_estimate("nll", Estimate(estimate=0.004, low=-0.0112, high=0.019))
    yield from map(wording.sign_meaning, ("nll", "accuracy"))
    yield from map(wording.looks, ((5,), (5, 10), (3, 5, 10)))
    yield wording.within_margin(0.17)
    yield from (wording.reproducible(device, 2) for device in ("cpu", "cuda"))
    yield from (reason for name in ("accuracy", "macro_f1") if (reason := wording.centre(name)))
    yield wording.cited(["0123abcd", "1234bcde", "2345cdef", "3456def0"])


# --- read from the source


def texts(path: Path) -> list[str]:
    """Every text of a module that is a phrase: no docstring, no key, no single word."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = {id(node) for skipped in _not_shown(tree) for node in ast.walk(skipped)}
    found = [text for node in _outermost(tree, silent) if (text := _text(node)) and _is_phrase(text)]
    return list(dict.fromkeys(itertools.chain.from_iterable(_lines(text) for text in found)))


def _not_shown(tree: ast.Module) -> Iterator[ast.AST]:
    """Docstrings, and messages of assert."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node
        if isinstance(node, ast.Assert):
            yield node


def _outermost(node: ast.AST, silent: set[int]) -> Iterator[ast.expr]:
    """Texts in the order of the source, those within placeholders of another after it."""
    for child in ast.iter_child_nodes(node):
        if id(child) in silent:
            continue
        if isinstance(child, ast.JoinedStr):
            yield child
            for part in child.values:
                if isinstance(part, ast.FormattedValue):
                    yield from _outermost(part, silent)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child
        else:
            yield from _outermost(child, silent)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr), "a text is one or the other"
    return "".join(_part(part) for part in node.values)


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue), "a text is made of both"
    spec = _text(part.format_spec) if part.format_spec else ""
    written = ast.unparse(part.value) + (f":{spec}" if spec else "")
    return next((value for pattern, value in SAMPLES.items() if re.fullmatch(pattern, written)), f"<{written}>")


def _is_phrase(text: str) -> bool:
    """Whether a text has words that are not names of placeholders."""
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^<>]*>", "", text))
    return len(words) >= MIN_WORDS and " " in text.strip()


def template_lines(template: str) -> list[str]:
    """The texts of a page's template, its markup and style taken away."""
    body = template.partition("<body>")[2] or template
    parts = re.split(
        r"</?(?:p|h\d|li|th|td|tr|table|div|figure|span|summary|small|dl|ul|article|section)\b[^>]*>", body
    )
    plain = (re.sub(r"\{[%#].*?[%#]\}|<[^>]+>", " ", part, flags=re.DOTALL) for part in parts)
    lines = (line for part in plain for line in _lines(re.sub(r"\{\{\s*(.*?)\s*\}\}", r"<\1>", part)))
    return list(dict.fromkeys(line for line in lines if re.search(r"[A-Za-z]{2,}", re.sub(r"<.*>", "", line))))


def _lines(text: str) -> Sequence[str]:
    return [squeezed for line in text.splitlines() if (squeezed := " ".join(line.split()))]


if __name__ == "__main__":
    main()
