"""Files that the product ships: the bundled base, studies, configurations of well-known models."""

from pathlib import Path

ASSETS = Path(__file__).parent
