"""Files that ship with the product: the bundled base, studies, known models and GPUs."""

from pathlib import Path

ASSETS = Path(__file__).parent
