"""Files that the product ships: the bundled base, studies, known models and graphics cards."""

from pathlib import Path

ASSETS = Path(__file__).parent
