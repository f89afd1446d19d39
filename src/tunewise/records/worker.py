"""What a worker says of itself before it makes its first run. Plain data, never torch."""

from importlib.metadata import version

from tunewise.spec import NUMERICS, Frozen

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "tunewise")


class Worker(Frozen):
    """The process that does jobs at a place, and its machine."""

    host: str
    process: int
    python: str
    versions: dict[str, str]  # as `versions` returns them
    num_gpus: int  # that torch sees
    clock: float  # seconds since 1970, when it answered
    nonce: str  # read from the study folder; empty: the file is not there


def versions() -> dict[str, str]:
    """Full versions of all that determines numbers, without loading it."""
    return {library: version(library) for library in LIBRARIES} | {"numerics": str(NUMERICS)}
