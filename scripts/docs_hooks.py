"""What the documentation site needs beyond Markdown: formulas, pages from the root, links that leave docs/.

MkDocs calls the functions that begin with `on_` (mkdocs.yml names this file). Formulas become MathML, which browsers
draw without a script, so the site needs no network.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# pages that live at the root of the repository, where GitHub and package indexes look for them
ROOT_PAGES = {"CHANGELOG.md": "about/changelog.md", "CONTRIBUTING.md": "about/contributing.md"}
ROOT_PAGES |= {"SECURITY.md": "about/security.md"}
PLACE = "formula{}set-aside"
SET_ASIDE: dict[str, list[str]] = {}  # address of a page -> its formulas
CODE = re.compile(r"(^( *)(```+|~~~+).*?^\2\3[^\n]*$|(`+)(?!`).+?(?<!`)\4(?!`))", re.S | re.M)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])", re.S)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root."""
    from mkdocs.structure.files import File

    for name, address in ROOT_PAGES.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that the site can follow; its formulas are set aside, so that Markdown does not read them."""
    address = page.file.src_uri
    text, SET_ASIDE[address] = without_formulas(with_links(markdown, address))
    return text


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """The page with its formulas as MathML."""
    for number, formula in enumerate(SET_ASIDE.pop(page.file.src_uri, [])):
        html = html.replace(PLACE.format(number), formula)
    return html


def with_links(markdown: str, address: str) -> str:
    """Links as seen from `address`: to pages of the root by their place in the site, to other files as their path."""
    at_root = next((name for name, place in ROOT_PAGES.items() if place == address), None)
    origin = posixpath.dirname(at_root if at_root else f"docs/{address}")

    def replaced(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(origin, target))
        place = path.removeprefix("docs/") if path.startswith("docs/") else ROOT_PAGES.get(path)
        if place is None:
            return f"{text} (`{path}` in the repository)" if text.strip("`") != path else text
        return f"{mark}[{text}]({posixpath.relpath(place, posixpath.dirname(address) or '.')}{anchor or ''})"

    return _outside_code(markdown, lambda part: LINK.sub(replaced, part))


def without_formulas(markdown: str) -> tuple[str, list[str]]:
    """The text with a mark in the place of each `$...$` and `$$...$$`, and these formulas as MathML."""
    found: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        from latex2mathml.converter import convert

        display = "block" if match[1] else "inline"
        found.append(str(convert((match[1] or match[2]).strip(), display=display)))
        return PLACE.format(len(found) - 1)

    return _outside_code(markdown, lambda part: FORMULA.sub(replaced, part)), found


def _outside_code(markdown: str, change: Any) -> str:
    """The text with `change` made to all that is not code."""
    parts, end = [], 0
    for match in CODE.finditer(markdown):
        parts += [change(markdown[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(markdown[end:])])
