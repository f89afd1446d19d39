"""What terminals obey is written out, what is secret is left out, and what names a file is no text."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tunewise.cli.progress import StudyProgress
from tunewise.cli.terminal import Terminal
from tunewise.errors import SpecError
from tunewise.executors.base import RunJob
from tunewise.executors.local import server
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec.reading import parse_study
from tunewise.text.safe import CONTROLS, check_source, pictured, printable, redacted

CLEAR = "\x1b[2J\x1b]0;owned\x07"  # clears a terminal, and renames its window
TURNED = "\u202eevil\u2066"
TOKEN = "hf_" + "a1B2" * 8


@given(st.text(st.characters(codec=None)))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_what_is_printed_holds_no_control_characters_and_says_the_rest_as_it_is(text: str) -> None:
    assert not CONTROLS.search(printable(text))
    assert not CONTROLS.search(pictured(text))
    assert len(pictured(text)) == len(text), "tables stay straight"
    if not CONTROLS.search(text):
        assert printable(text) == pictured(text) == text


def test_the_terminal_shows_escapes_of_others_and_obeys_its_own() -> None:
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=True, width=80, color_system="standard")
    table = Table("arm")
    table.add_row(Text(f"cell {CLEAR}", style="bold red"))
    for shown in (Text(f"text {CLEAR}{TURNED}"), table, Panel(Text(CLEAR)), f"plain {CLEAR}"):
        terminal.print(shown)
    written = file.getvalue()
    assert "\x1b[2J" not in written
    assert "\x1b]0;" not in written
    assert "\x07" not in written
    assert "\u202e" not in written
    assert "\x1b[1;31m" in written, "rich's own colours are left"
    assert "\u241b[2J" in written, "what was there is shown"


@pytest.mark.parametrize("message", ["[/red][bold]x", "[link=http://x]y[/link]", CLEAR])
def test_the_message_of_a_run_that_failed_is_no_markup(message: str) -> None:
    file = io.StringIO()
    progress = StudyProgress(Terminal(file=file, width=100))
    progress.on(events.Crashed(message=message, log="log.txt"))
    assert pictured(message).rstrip("\u2407") in file.getvalue()  # rich leaves BEL out
    assert not CONTROLS.search(file.getvalue())


SECRETS = {
    "HF_TOKEN": "abcdefgh12345678",
    "MY_API_KEY": "k" * 20,
    "DB_PASSWORD": "hunter2hunter2",
    "HOME": "/home/me",
}


def test_secrets_of_the_environment_and_tokens_are_left_out() -> None:
    text = "at /home/me: abcdefgh12345678, hunter2hunter2, {}, https://me:pw1@host/x, {}".format("k" * 20, TOKEN)
    hidden = redacted(text, SECRETS)
    assert hidden == "at /home/me: [hidden], [hidden], [hidden], https://[hidden]@host/x, [hidden]"
    for name, value in (("HF_TOKEN_PATH", "/home/me/token"), ("TOKENIZERS_PARALLELISM", "falsefalse")):
        assert redacted(f"{name}={value}", {name: value}) == f"{name}={value}", "a path, or no secret's name"
    assert redacted("HF_TOKEN is 1", {"HF_TOKEN": "1"}) == "HF_TOKEN is 1", "what says nothing is no secret"


def test_what_a_job_reports_and_logs_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sent: list[Event] = []

    def fail(request: object) -> None:
        raise RuntimeError(f"401 for https://hub/x?token={SECRETS['HF_TOKEN']} and {TOKEN}")

    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    monkeypatch.setattr(server, "send", sent.append)
    monkeypatch.setitem(server.JOBS, "run", fail)
    monkeypatch.setattr("os.dup2", lambda *of: None)
    job = RunJob(folder=tmp_path, data=tmp_path, checkpoint_seconds=1, limit_seconds=None, max_tokens=1)
    assert server.do(job) == 1
    said = (
        "".join(event.model_dump_json() for event in sent)
        + capfd.readouterr().err
        + (tmp_path / "log.txt").read_text(encoding="utf-8")
    )
    assert "401 for" in said
    assert SECRETS["HF_TOKEN"] not in said
    assert TOKEN not in said


@pytest.mark.parametrize("key", ["model", "data.train", "data.chat_template", "forgetting.text", "arms.old.path"])
def test_no_token_gets_into_a_study_and_so_into_its_folder(key: str) -> None:
    content = {
        "name": "s",
        "model": "tiny",
        "data": {"train": "t.jsonl"},
        "arms": {"full": {"method": "full"}, "old": {"method": "existing", "path": "x"}},
        "forgetting": {},
    }
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]  # type: ignore[assignment]
    inner[last] = f"me/{TOKEN}"
    with pytest.raises(SpecError, match="access token") as caught:
        parse_study(content, "s.yaml")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\0b", "a\x1b[2J", "x" * 256, "a/" * 3000, "a\u202eb"])
def test_names_that_name_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a file"):
        check_source(name)


@pytest.mark.parametrize("name", ["tiny", "owner/name-1.5b", "a b/c.jsonl", "/abs/Ünï/雪.csv", "builtin:stdlib"])
def test_usual_names_of_sources_are_taken(name: str) -> None:
    assert check_source(name) == name
