"""The documentation site: its navigation names every page, its links lead somewhere, and it needs no network."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "abbreviations.md")
HOOKS: dict[str, Any] = {"__file__": str(ROOT / "scripts" / "docs_hooks.py")}
exec((ROOT / "scripts" / "docs_hooks.py").read_text(encoding="utf-8"), HOOKS)


def settings() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return loaded


def pages_of(entry: object) -> list[str]:
    """The pages below one entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    members = entry.values() if isinstance(entry, dict) else entry
    assert not isinstance(members, str)
    return [page for member in members for page in pages_of(member)]  # type: ignore[attr-defined]


def anchors(path: Path) -> set[str]:
    """The ids of a page's headings, as Python-Markdown makes them, and those set by hand."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = set(re.findall(r"(?:\{#|id=\"|name=\")([\w-]+)", text))
    for heading in re.findall(r"^#+ (.+?)(?: *\{#[\w-]+\})?$", text, re.M):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


def test_the_navigation_names_every_page_once_and_no_other() -> None:
    named = pages_of(settings()["nav"])
    assert len(named) == len(set(named))
    assert sorted(named) == sorted([*PAGES, *HOOKS["ROOT_PAGES"].values()])


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        path = (DOCS / page).parent / target if target else DOCS / page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_the_site_fetches_nothing() -> None:
    read = settings()
    assert read["theme"]["font"] is False
    assert read["strict"] is True
    assert not {"extra_javascript", "extra_css"} & read.keys()


def test_a_link_that_leaves_the_docs_is_shown_as_the_path_of_its_file() -> None:
    shown = HOOKS["with_links"]("[the study](../../studies/e2e.yaml), [rules](../../SECURITY.md#r)", "how-to/cost.md")
    assert shown == "the study (`studies/e2e.yaml` in the repository), [rules](../about/security.md#r)"


def test_a_link_of_a_page_of_the_root_is_one_of_the_site() -> None:
    assert HOOKS["with_links"]("[a](docs/explanation/design.md#b)", "about/contributing.md") == (
        "[a](../explanation/design.md#b)"
    )


def test_code_is_left_alone() -> None:
    code = "`$a$ [x](y)`\n\n```sh\necho $HOME [x](y) $HOME\n```\n"
    assert HOOKS["with_links"](code, "index.md") == code
