"""Search for bytes that break a reader of data or of study files, for a given time.

PYTHONPATH=src python scripts/fuzz_readers.py --minutes 10

Half of the time goes to hypothesis, which mutates good files, and half to atheris, which follows code branches
(`pip install atheris`; not a dependency). Without atheris, hypothesis gets all of the time. Inputs that break a reader
are printed and added to tests/bad_input/found_by_fuzzing.json, which the tests run.
"""

import argparse
import base64
import contextlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests" / "bad_input"
sys.path.insert(0, str(TESTS))
FOUND = TESTS / "found_by_fuzzing.json"
BATCH = 500  # examples per target between two checks of the clock


def keep(target: str, content: bytes, error: BaseException) -> None:
    """Add an input that broke a reader to the examples of the tests, once."""
    words = re.sub(r"(0x)?[0-9a-f]*\d[0-9a-f]*", "N", str(error).splitlines()[0])[:80]
    why = f"{target}: {type(error).__name__}: {words}"
    known = json.loads(FOUND.read_text(encoding="utf-8"))
    if why not in {case["why"] for case in known}:
        known.append({"why": why, "target": target, "content": base64.b64encode(content).decode()})
        FOUND.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(f"FOUND {why}\n{content[:300]!r}", flush=True)
        traceback.print_exception(error, limit=-4)


def with_hypothesis(seconds: float, seed: int) -> None:
    """Mutate good files at random, with a fresh seed for every batch."""
    from fuzzing import TARGETS

    done: Counter[str] = Counter()
    draws = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for target in TARGETS:
            done[target] += _batch(target, draws.randrange(2**32))
    print(f"hypothesis: {sum(done.values()):,} inputs in {seconds:.0f} s: {dict(done)}", flush=True)


def _batch(target: str, seed: int) -> int:
    """Number of inputs given to a target; the smallest input that broke it is kept."""
    import hypothesis
    from fuzzing import TARGETS, contents

    given: list[bytes] = []
    failed: list[tuple[bytes, Exception]] = []

    def holds(content: bytes) -> None:
        given.append(content)
        if target == ".parquet" and aborts(TARGETS[target][1], content):
            return
        try:
            TARGETS[target][1](content)
        except Exception as error:
            failed.append((content, error))
            raise

    quiet = hypothesis.settings(
        max_examples=BATCH, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    try:
        hypothesis.seed(seed)(quiet(hypothesis.given(content=contents(target))(holds)))()
    except Exception:
        if not failed:
            raise
        keep(target, *failed[-1])
    return len(given)


def aborts(check: Callable[[bytes], None], content: bytes) -> bool:
    """True if Arrow ends the process on these bytes, tried in a child. In a study only the worker ends (law 48)."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            check(content)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def with_atheris(seconds: float, seed: int) -> None:
    """Fuzz by code branches in a process that ends on its own."""
    import atheris

    with atheris.instrument_imports(include=["tunewise", "yaml", "json", "csv"]):
        from fuzzing import TARGETS
    names = list(TARGETS)
    corpus = Path(tempfile.mkdtemp(prefix="corpus"))
    for number, (start, _) in enumerate(TARGETS.values()):
        (corpus / str(number)).write_bytes(bytes([number]) + start)

    def one(data: bytes) -> None:
        if not data:
            return
        target = names[data[0] % len(names)]
        try:
            TARGETS[target][1](data[1:])
        except Exception as error:
            keep(target, data[1:], error)

    options = [f"-max_total_time={seconds:.0f}", f"-seed={seed}", "-max_len=4096", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def main() -> None:
    """Fuzz, and exit with 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--only", choices=["hypothesis", "atheris"])
    asked = parser.parse_args()
    before = FOUND.read_text(encoding="utf-8")
    seconds = 60 * asked.minutes
    if asked.only == "atheris":
        with_atheris(seconds, asked.seed)
        return
    print(f"seed {asked.seed}", flush=True)
    has_atheris = importlib.util.find_spec("atheris") is not None and asked.only is None
    with_hypothesis(seconds / 2 if has_atheris else seconds, asked.seed)
    if has_atheris:
        command = [sys.executable, __file__, "--only", "atheris", "--minutes", str(asked.minutes / 2)]
        subprocess.run([*command, "--seed", str(asked.seed)], check=False)
    else:
        print("atheris: not installed")
    sys.exit(FOUND.read_text(encoding="utf-8") != before)


if __name__ == "__main__":
    main()
