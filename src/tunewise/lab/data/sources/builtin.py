"""Text that comes with tunewise or the running Python: examples and documents without a download.

`builtin:stdlib` holds the signatures of the standard library's functions and their docstrings, read from the source
files (nothing is imported); `builtin:pydoc-topics` holds the help topics of `pydoc`,
`builtin:tickets` the rows of tickets.py.
"""

import ast
import inspect
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunewise.errors import DataError
from tunewise.lab.data.sources.tickets import tickets

# Tests and demonstrations are not the library; lib2to3 contains Python 2; idlelib and turtledemo are programs.
SKIPPED_FOLDERS = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"})
MAX_CHARACTERS = 300  # of prompt and completion together: short enough to train on within seconds

Function = ast.FunctionDef | ast.AsyncFunctionDef


def stdlib_pairs(library: Path | None = None) -> Iterator[dict[str, Any]]:
    """Rows {"prompt": signature, "completion": docstring, "module": dotted name}, each pair once, in a fixed order.

    `library` is the folder of the sources; None: that of the running Python. Raises DataError if it has none.
    """
    library = library or Path(sysconfig.get_paths()["stdlib"])
    seen: set[tuple[str, str]] = set()
    for path in _source_files(library):
        module = _module_name(path.relative_to(library))
        for prompt, completion in _documented_functions(path):
            if (prompt, completion) in seen:
                continue
            seen.add((prompt, completion))
            yield {"prompt": prompt, "completion": completion, "module": module}
    if not seen:
        raise DataError(
            f"builtin:stdlib: this Python has no sources of the standard library in {library}. "
            "Use a Python from python.org, your system or conda, or set data.train to a file."
        )


def pydoc_topics() -> Iterator[dict[str, Any]]:
    """Rows {"text": a help topic of pydoc, "topic": its name}. Raises DataError if this Python has none."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "builtin:pydoc-topics: this Python has no pydoc_data. Set forgetting.text to a text file, "
            "or set forgetting.tokens: 0."
        ) from error
    for name, text in sorted(topics.items()):
        yield {"text": text, "topic": name}


BUILTINS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "stdlib": stdlib_pairs,
    "pydoc-topics": pydoc_topics,
    "tickets": tickets,
}


def _source_files(library: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(library):
        below[:] = sorted(set(below) - SKIPPED_FOLDERS)  # not entered: there may be many third-party packages
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _documented_functions(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the library do not concern the user
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates in the library that are not valid Python
        return
    for node in tree.body:
        for function, owner in _functions(node):
            docstring = inspect.cleandoc(ast.get_docstring(function, clean=False) or "").strip()
            if not 0 < len(docstring) < MAX_CHARACTERS:
                continue
            signature = _signature(function, owner)
            if len(signature) + len(docstring) < MAX_CHARACTERS:
                yield signature, docstring


def _functions(node: ast.stmt) -> Iterator[tuple[Function, str]]:
    if isinstance(node, Function):
        yield node, ""
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, Function):
                yield member, f"{node.name}."


def _signature(function: Function, owner: str) -> str:
    """Signature such as 'def name(x, y=0) -> int:', with the class before a method's name: 'def Path.exists(self):'."""
    keyword = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{keyword} {owner}{function.name}({ast.unparse(function.args)}){returns}:"
