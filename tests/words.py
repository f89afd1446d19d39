"""Where the text that people read breaks the project's rules for words. `python tests/words.py` prints every place.

The rules, with their reasons, are in tests/phrases.yaml. Read are README and the other documents at the root, docs,
the command line's help, templates, study files, and every string and docstring of the package.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tunewise"
HISTORY = ("LOG.md",)  # of its time, never rewritten
IDENTIFIERS = re.compile(r"different-regularisation")  # ids of findings keep the spelling of stored reports


@dataclass(frozen=True)
class Rule:
    """One thing not to write: where it is found, what to write instead, and why."""

    find: re.Pattern[str]
    instead: str
    why: str


@dataclass(frozen=True)
class Offender:
    """One place that breaks a rule."""

    path: str
    line: int
    found: str
    rule: Rule

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: '{self.found}' -> {self.rule.instead} ({self.rule.why})"


@cache
def word_list() -> dict[str, object]:
    """tests/phrases.yaml."""
    loaded: dict[str, object] = yaml.safe_load((ROOT / "tests" / "phrases.yaml").read_text(encoding="utf-8"))
    return loaded


@cache
def rules() -> tuple[Rule, ...]:
    """Terms, phrases and spelling, compiled."""
    words = word_list()
    found = [Rule(re.compile(row["find"], re.I), row["term"], row["why"]) for row in words["terms"]]
    found += [Rule(re.compile(row["find"], re.I), row["instead"], row["why"]) for row in words["phrases"]]
    for british, american in words["spelling"].items():
        found.append(Rule(re.compile(rf"\b(?:re|un|de|pre|mis)?{british}", re.I), american, "American spelling"))
    return tuple(found)


def offenders_in(path: str, text: str, first_line: int = 1) -> Iterator[Offender]:
    """Every place in the prose `text` that breaks a rule; `first_line` is the line of its file it begins at."""
    text = IDENTIFIERS.sub(lambda match: " " * len(match[0]), text)
    flat = text.replace("\n", " ")
    for rule in rules():
        for match in rule.find.finditer(flat):
            line = first_line + text.count("\n", 0, match.start())
            yield Offender(path, line, match[0], rule)


def _blank(match: re.Match[str]) -> str:
    """A cut that keeps every line where it is."""
    return re.sub(r"[^\n]", " ", match[0])


def prose_of_markdown(text: str) -> str:
    """The document without code, links' targets and HTML; every line stays where it is."""
    for pattern in (
        r"\A---\n.*?\n---\n",
        r"<!--.*?-->",
        r"^( *)(```+|~~~+).*?^\1\2[^\n]*$",
        r"(`+)(?!`).+?(?<!`)\1(?!`)",
        r"(?<=\])\([^)\s]*\)",
        r"https?://[^\s)>]+",
        r"<[^>\n]+>",
    ):
        text = re.sub(pattern, _blank, text, flags=re.S | re.M)
    return text


def documents() -> list[Path]:
    """All Markdown of the project, the appendices that scripts write included."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")]
    found += [*(ROOT / "scripts").glob("*.md"), *PACKAGE.rglob("*.md")]
    return sorted(path for path in found if path.name not in HISTORY)


def texts_of_module(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring and of each string that is more than a word; code font is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if re.search(r"[A-Za-z]\s+[A-Za-z]", text):
            yield node.lineno, prose_of_markdown(text)


def written() -> Iterator[tuple[str, int, str]]:
    """Path, line and prose of all that people read."""
    for path in documents():
        yield str(path.relative_to(ROOT)), 1, prose_of_markdown(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in texts_of_module(path):
            yield str(path.relative_to(ROOT)), line, text
    for path in sorted(PACKAGE.rglob("*.j2")):
        code = r"\{[{%#].*?[}%#]\}|<(style|script)\b.*?</\1>"
        text = re.sub(code, _blank, path.read_text(encoding="utf-8"), flags=re.S)
        yield str(path.relative_to(ROOT)), 1, prose_of_markdown(text)
    for path in sorted([*(ROOT / "studies").glob("*.yaml"), *PACKAGE.rglob("*.yaml")]):
        comments = (line.partition("#")[2] for line in path.read_text(encoding="utf-8").split("\n"))
        yield str(path.relative_to(ROOT)), 1, prose_of_markdown("\n".join(comments))


def offenders() -> list[Offender]:
    """Every place that breaks a rule, file by file."""
    return [offender for path, line, text in written() for offender in offenders_in(path, text, line)]


if __name__ == "__main__":
    found = [offender for offender in offenders() if not sys.argv[1:] or offender.path.startswith(tuple(sys.argv[1:]))]
    print("\n".join(str(offender) for offender in found) or "no offenders")
    sys.exit(1 if found else 0)
