"""The blocks of the pages in docs/learn/: code, and the output that each page shows below it.

python tests/learn.py    # run all blocks and write what they print into the pages
"""

import contextlib
import io
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "learn").glob("*.md"))
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```\n(?:\n\1```text\n(.*?)^\1```\n)?", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    code: str
    shown: str | None  # the output on the page; None: it shows none


def blocks_of(path: Path) -> list[Block]:
    """Blocks from top to bottom, those of the solutions among them."""
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [Block(textwrap.dedent(code), textwrap.dedent(shown) or None) for _, code, shown in found]


def run(path: Path) -> list[str]:
    """What each block prints; the blocks of a page are one program."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    for block in blocks_of(path):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(block.code, path.name, "exec"), names)
        printed.append(said.getvalue())
    return printed


if __name__ == "__main__":
    for page in PAGES:
        outputs = iter(run(page))

        def renewed(match: re.Match[str], outputs: Any = outputs) -> str:
            indent, code, shown = match.groups()
            said = textwrap.indent(next(outputs), indent)
            block = f"{indent}```python\n{code}{indent}```\n"
            return block + (f"\n{indent}```text\n{said}{indent}```\n" if shown else "")

        page.write_text(BLOCK.sub(renewed, page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")
