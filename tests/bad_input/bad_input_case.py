"""A case of bad (or odd, but good) input: what it is, the command it is given to, and what that must say."""

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import tunewise.commands.compare
import tunewise.commands.plan
from fake_executor import FakeExecutor
from tunewise.cli.app import main
from tunewise.errors import TunewiseError
from tunewise.executors.base import Job, PrepareJob
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import StudySpec

TINY_CONTEXT = 512
PAIRS = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(60)]
LABELS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]
PAIR = b'{"prompt": "p", "completion": "c"}\n'
MISTAKE = 2  # the exit status


def lines(*rows: Any) -> bytes:
    """A JSON Lines file; a text stands for itself."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


@dataclass(frozen=True)
class Case:
    """One command and the files it reads."""

    what: str  # the input, in words
    arguments: tuple[str, ...]  # of the command line
    words: tuple[str, ...]  # of the message, in this order
    files: dict[str, bytes] = field(default_factory=dict)
    is_taken: bool = False  # odd, but good


def data(what: str, name: str, content: bytes, *words: str, **settings: Any) -> Case:
    """Training data that is refused; `settings` are keys of the study, dots written as double underscores."""
    sets = [f"--set={key.replace('__', '.')}={json.dumps(value)}" for key, value in settings.items()]
    arguments = ("check", "--model", "tiny", "--data", name, "--set=forgetting.tokens=0", *sets)
    return Case(what, arguments, words, {name: content})


def rows(what: str, content: list[Any], *words: str, **settings: Any) -> Case:
    """Rows of a JSON Lines file that are refused."""
    return data(what, "t.jsonl", lines(*content), *words, **settings)


def taken(case: Case) -> Case:
    """The same, but it is good."""
    return Case(case.what, case.arguments, case.words, case.files, is_taken=True)


SOUND = "data: {train: t.jsonl}\narms: {full: {method: full}}\n"


def study(what: str, text: str | bytes, *words: str) -> Case:
    """A study file that is refused."""
    content = text if isinstance(text, bytes) else text.encode()
    return Case(what, ("compare", "study.yaml"), words, {"study.yaml": content, "t.jsonl": lines(*PAIRS)})


def key(what: str, text: str, *words: str) -> Case:
    """A sound study with one thing in it that is not."""
    return study(what, SOUND + text, *words)


def command(what: str, arguments: str, *words: str, **files: bytes) -> Case:
    """A command line that is refused; files are named with a double underscore for the dot."""
    return Case(what, tuple(arguments.split()), words, {name.replace("__", "."): text for name, text in files.items()})


class TakenError(Exception):
    """The input was good: what became of it."""


@cache
def tiny_tokenizer() -> Any:
    """The bundled base's tokenizer."""
    from tunewise.lab.models.load import load_config, load_tokenizer

    return load_tokenizer("tiny", load_config("tiny", None, False), False)


def executor_without_model(held: object) -> FakeExecutor:
    """Stands for the local executor."""
    return FakeExecutor(without_model)


def without_model(job: Job) -> Iterator[Event]:
    """Prepares the data as a job does, but for the weights, and stops there; nothing is planned without a model."""
    if not isinstance(job, PrepareJob):
        raise TunewiseError("no model")
    yield events.Prepared(key=_prepared(job.study, job.root))


def _prepared(study: StudySpec, root: Path) -> str:
    from tunewise.lab.data.prepare import data_key, prepare_examples
    from tunewise.lab.prepare import prepare

    if study.model != "tiny" or any(arm.method == "existing" for arm in study.arms.values()):
        return prepare(study, root)
    root.mkdir(parents=True, exist_ok=True)
    data_key(study, "")
    tokenizer = tiny_tokenizer()
    summary = prepare_examples(study, tokenizer, TINY_CONTEXT, root / "prepared", (tokenizer.eos_token_id,))
    read = ", ".join(f"{split.rows} {split.split}" for split in summary.splits)
    notes = "".join(f" {note}" for note in summary.notes if "left out" in note)
    example = f"{summary.example_prompt[:60]!r} -> {summary.example_supervised[:60]!r}"
    raise TakenError(f"{summary.task}, rows: {read}; the first: {example}.{notes}")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    message: str


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Runs what follows in `folder`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """As in the command: some libraries warn of what this processor has and they lack."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def outcome(case: Case) -> Outcome:
    """What the command said, in this process; the names of temporary folders are left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for file, content in case.files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        said = io.StringIO()
        with (
            inside(folder),
            mock.patch.object(sys, "argv", ["tunewise", *case.arguments]),
            mock.patch.object(tunewise.commands.compare, "LocalExecutor", executor_without_model),
            mock.patch.object(tunewise.commands.plan, "LocalExecutor", executor_without_model),
            without_warnings(),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
        ):
            code = _code_of_main(said)
        assert not list(folder.rglob("owned")), "nothing that was read was run"
        text = said.getvalue().replace(f"{folder}/", "").replace(str(folder), "FOLDER")
    return Outcome(code, text.removeprefix("error: ").strip())


def _code_of_main(said: io.StringIO) -> int:
    try:
        main()
    except TakenError as what_became:
        said.write(str(what_became))
        return 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0
