"""Files that ship with the product: the bundled base, studies, known models and GPUs."""

from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent


def table(name: str) -> dict[Any, Any]:
    """The content of a YAML file of this folder, in the order of the file."""
    import yaml  # not where this package is imported for its path alone

    found: dict[Any, Any] = yaml.safe_load((ASSETS / name).read_text(encoding="utf-8"))
    return found
