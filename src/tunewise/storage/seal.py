"""Hashes that show whether a stored file is still as it was written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.spec import canonical_json
from tunewise.storage.disk import write_atomically
from tunewise.storage.files import file_hash, files_below, is_there, read_text

DATA_HASHES = "sha256.json"


SEAL = "\n# sha256: "  # precedes the hash of the text above it in study.yaml


CARD = "README.md"  # of a deliverable: replaces that of the run


def text_hash(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """JSON of plain data with its own hash, so that an altered number is noticed."""
    return json.dumps({**content, "sha256": text_hash(canonical_json(content))}, indent=1)


def unsealed(text: str) -> dict[str, Any] | None:
    """The data given to `sealed`; None if it was altered."""
    try:
        content = json.loads(text)
        return content if content.pop("sha256") == text_hash(canonical_json(content)) else None
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def holds(folder: Path, hashes: Mapping[str, str]) -> bool:
    """True if a folder holds exactly these files with these hashes, except the card of a deliverable."""
    files = {folder / name: expected for name, expected in but_card(hashes).items()}
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in hashes):
        return False  # a path in a file that somebody else may have written
    return all(is_there(path) and file_hash(path) == expected for path, expected in files.items())


def but_card(hashes: Mapping[str, str]) -> dict[str, str]:
    """The hashes without that of the card, which is rewritten."""
    return {name: expected for name, expected in hashes.items() if name != CARD}


def seal_data(folder: Path) -> None:
    """Store the hashes of the prepared data files, which marks them as complete."""
    hashes = {path.name: file_hash(path) for path in files_below(folder) if path.name not in (DATA_HASHES, "log.txt")}
    write_atomically(folder / DATA_HASHES, sealed(hashes))


def data_is_whole(folder: Path, names: Sequence[str] = ()) -> bool:
    """True if the prepared data files (all, or those named) match their stored hashes."""
    path = folder / DATA_HASHES
    hashes = unsealed(read_text(path)) if is_there(path) else None
    return hashes is not None and holds(folder, {name: hashes[name] for name in names or hashes})
