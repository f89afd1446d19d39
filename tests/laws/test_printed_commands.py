"""Law 35: every command that is printed for the user runs as printed and does what it says."""

import ast
import html
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_studies import FolderOf, do_here, executor_here, rows_of
from typer.testing import CliRunner

import tunewise
from fake_executor import FakeExecutor
from tunewise.cli import app
from tunewise.executors.base import Job, RunJob
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, read_examples
from tunewise.lab.evaluate.score import score, summarise
from tunewise.records.events import Event
from tunewise.spec import StudySpec
from tunewise.storage.ledger import Ledger, file_hash

ROOT = Path(__file__).parents[2]
FILE_ENDINGS = ("json", "jsonl", "parquet", "csv", "yaml", "py", "md")
PACKAGE = Path(tunewise.__file__).parent
ARMS = {"full": {"method": "full", "learning_rate": 1e-3}, "lora": {"method": "lora", "learning_rate": 1e-2}}


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are given in; its name needs quotation marks. The lab's jobs run in this process."""
    folder = tmp_path / "it's: a folder #1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tunewise.commands.compare.LocalExecutor", executor_here)
    monkeypatch.setattr("tunewise.commands.plan.LocalExecutor", executor_here)
    return folder


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Gives a command as it is printed, as a shell would read it; what it says is returned."""

    def command(line: str, code: int = 0) -> str:
        program, *arguments = shlex.split(line)
        assert program == "tunewise"
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        ended: object = 0
        try:
            app.main()
        except SystemExit as error:
            ended = error.code
        said = capsys.readouterr()
        assert ended == code, said.out + said.err
        return said.out + said.err

    return command


Give = Callable[..., str]


def write_rows(folder: Path, task: str = "sft") -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows_of(task))
    (folder / "my rows.jsonl").write_text(text, encoding="utf-8")
    return "my rows.jsonl"


def next_command(said: str) -> str:
    return said.rpartition("\nnext: ")[2].strip()


def write_study(folder: Path, model: Path | str, task: str = "sft") -> str:
    content = {
        "model": str(model),
        "data": {"train": write_rows(folder, task)},
        "arms": ARMS,
        "train": {"epochs": 1, "batch_size": 8, "evaluations": 1},
        "tuning": {"rates": 1, "cap": 1},
        "looks": [2],
        "forgetting": {"tokens": 0},
        "samples": {"count": 1, "max_new_tokens": 3},
        "machine": {"precision": "fp32", "threads": 1},
    }
    (folder / "my study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return "tunewise compare 'my study.yaml'"


def contents(folder: Path) -> dict[str, str]:
    """run id -> the hash of its scores."""
    return {path.parent.name: file_hash(path) for path in folder.glob("runs/*/scores.parquet")}


@pytest.mark.slow
def test_law_35_the_next_steps_of_init_and_check_run_as_printed(at: Path, give: Give, folder_of: FolderOf) -> None:
    """Law 35: `init` says how to check, `check` says how to run, each with the names and options that were given; at
    the end of that road stands a finished study."""
    rows, model = write_rows(at), folder_of("llama")
    said = give(shlex.join(["tunewise", "init", "--model", str(model), "--data", rows, "--to", "a study: mine.yaml"]))
    comment = re.search(r"`(tunewise .*)` shows", Path("a study: mine.yaml").read_text(encoding="utf-8"))
    assert comment is not None
    assert comment[1] == next_command(said)
    options = "--set looks=[1] --set 'arms.more={method: lora, rank: 2}' --set 'tuning={rates: 1, cap: 1}'"
    said = give(f"{next_command(said)} {options} --out 'here please'")
    assert "lora-r8" in said
    assert list(contents(Path("here please"))) == []
    give(next_command(said))
    ledger = Ledger.open(Path("here please"))
    assert set(ledger.study().arms) == {"full", "lora-r8", "lora-r16-all", "more"}
    assert ledger.study().looks == (1,)
    assert (ledger.folder / "report.html").is_file()


def test_law_35_init_needs_no_option_and_refuses_data_that_is_not_there(at: Path, give: Give) -> None:
    """Law 35: the README's `init` runs without --to; what it writes can be checked, so its data is there."""
    assert "wrote study.yaml" in give("tunewise init")
    assert Path("study.yaml").is_file()
    assert "no such file: nosuch.csv" in give("tunewise init --data nosuch.csv --to other.yaml", 2)
    assert not Path("other.yaml").exists()


@pytest.mark.slow
def test_law_35_the_command_of_the_report_makes_the_study_again(at: Path, give: Give, folder_of: FolderOf) -> None:
    """Law 35: the command under 'make it again' makes the same runs with the same scores, in a folder beside the first,
    which it leaves alone."""
    give(write_study(at, folder_of("llama")) + " --out 'my runs'")
    folder = at / "my runs"
    before = {path: file_hash(path) for path in folder.rglob("*") if path.is_file()}
    page = (folder / "report.html").read_text(encoding="utf-8")
    commands = [html.unescape(text) for text in re.findall(r'<pre class="command">(tunewise.*)</pre>', page)]
    assert len(commands) == 1
    give(commands[0])
    again = at / "my runs-again"
    assert contents(again) == contents(folder)
    assert len(contents(again)) == 7
    assert {path: file_hash(path) for path in folder.rglob("*") if path.is_file()} == before


def test_law_35_the_same_command_continues_after_an_interruption(
    at: Path, give: Give, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 35: an interrupted command can be run again; it resumes, and repeats no finished run."""
    made: list[str] = []

    def interrupted(job: Job) -> Iterator[Event]:
        if isinstance(job, RunJob):
            if len(made) == 4:
                made.append("Ctrl-C")
                raise KeyboardInterrupt
            made.append(job.folder.name)
        yield from do_here(job)

    monkeypatch.setattr("tunewise.commands.compare.LocalExecutor", lambda held: FakeExecutor(interrupted))
    command = write_study(at, folder_of("llama"))
    assert "run the same command again" in give(command, 130)
    give(command)
    runs = [run for run in made if run != "Ctrl-C"]
    assert made[4] == "Ctrl-C"
    assert len(runs) == len(set(runs)) == 7
    assert contents(at / "runs" / "my-study").keys() == set(runs)


CARDS = [("llama", "sft"), ("tiny", "sft"), ("bert", "classify"), ("llama", "classify")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), CARDS)
def test_law_35_the_code_of_the_model_card_loads_the_model_of_its_figures(
    name: str, task: str, at: Path, give: Give, folder_of: FolderOf
) -> None:
    """Law 35: what the card's code loads, with plain transformers and peft, has the loss on test that the card states,
    names the classes of the data, and comes with the tokenizer and the form of the prompts."""
    give(write_study(at, "tiny" if name == "tiny" else folder_of(name), task))
    ledger = Ledger.open(at / "runs" / "my-study")
    summary = ledger.data_summary()
    test = read_examples(ledger.data_folder(summary.key) / "test.parquet")
    for arm in ledger.study().arms:
        card = (ledger.best_folder(arm) / "README.md").read_text(encoding="utf-8")
        loaded: dict[str, Any] = {}
        exec(card.split("```python\n")[1].split("```")[0], loaded)  # noqa: S102
        found = summarise(score(loaded["model"].eval(), test, Batching(512, 0), Compute("cpu", "fp32")), 0)
        stated = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", card, re.M))
        assert found.nll == pytest.approx(float(next(v for k, v in stated.items() if "NLL" in k)), rel=1e-4), arm
        if task == "classify":
            assert tuple(loaded["model"].config.id2label.values()) == summary.labels
            text = test[0].prompt
        else:
            template, separator = map(ast.literal_eval, re.findall(r"`('.*?')`", card))
            text = template.format(prompt=rows_of(task)[row_of(test[0].prompt)]["prompt"]) + separator
            assert text == test[0].prompt
        ids = loaded["tokenizer"](text).input_ids
        assert ids == list(test[0].input_ids[: len(ids)]), "the tokenizer reads a prompt as it was read in training"


def row_of(prompt: str) -> int:
    """Which of the forty rows a rendered prompt is."""
    return next(i for i, row in enumerate(rows_of("sft")) if prompt.startswith(row["prompt"] + "\n"))


# --- what is printed elsewhere: messages, help, documents, comments of studies


def strings_of(path: Path) -> Iterator[str]:
    """The texts in a Python file, X standing for what is put into them; docstrings only where they are a command's."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        is_shown = node not in statements or path.name == "cli/app.py"
        if is_shown and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def written_texts() -> Iterator[tuple[str, str]]:
    """Where, and what: all that the package, its documents and its studies write.

    But the roadmap, which is of what is to come, and bad input, which is wrong on purpose.
    """
    for path in PACKAGE.rglob("*.py"):
        yield from ((path.name, text) for text in strings_of(path))
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *PACKAGE.rglob("*.j2")]
    for path in (*documents, *ROOT.glob("studies/*.yaml"), *PACKAGE.rglob("*.yaml")):
        if path.name not in ("roadmap.md", "bad-input.md"):
            yield path.name, path.read_text(encoding="utf-8")


def printed_commands() -> set[tuple[str, str]]:
    """Where, and the command: between backticks, on a line of its own in a shell block, or in a comment of a study."""
    found = set()
    for place, text in written_texts():
        blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)) if place.endswith(".md") else ""
        lines = re.findall(r"^(tunewise .*)", blocks, re.M)
        lines += re.findall(r"^# (tunewise .*)", text, re.M) if place.endswith(".yaml") else []
        lines += re.findall(r"`(tunewise [^`]+)`", text)
        found |= {(place, line.partition("  #")[0].strip()) for line in lines}
    return found


@pytest.mark.slow
def test_law_35_every_command_in_messages_and_documents_is_one_that_the_program_takes() -> None:
    """Law 35: command and options exist, wherever they are written; with `--help` they are read, and nothing runs."""
    commands = printed_commands()
    assert len(commands) > 30
    for place, line in sorted(commands):
        result = CliRunner().invoke(app.app, [*shlex.split(line)[1:], "--help"])
        assert result.exit_code == 0, f"{place}: {line}: {result.output}"


def test_law_35_every_key_of_a_study_that_a_message_names_is_one() -> None:
    """Law 35: `data.duplicates`, `train.epochs`: a section and a key of it, wherever a message says to set them."""
    annotations = {name: field.annotation for name, field in StudySpec.model_fields.items()}
    sections = {name: set(kind.model_fields) for name, kind in annotations.items() if hasattr(kind, "model_fields")}
    sections["data"].add("sets")  # StudySpec.sets, written as a key of data
    pattern = re.compile(rf"(?<![\w./{{])({'|'.join(sections)})\.([a-z_]+)(?![\w(./}}])")
    named = set()
    for place, text in written_texts():
        for section, key in pattern.findall(text):
            if key not in FILE_ENDINGS:
                named.add(f"{section}.{key}")
                assert key in sections[section], f"{place}: {section}.{key}"
    assert len(named) > 10, named


def test_law_35_every_extra_that_a_message_tells_to_install_is_one() -> None:
    """Law 35: `pip install 'tunewise[metrics]'` names extras that the package has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {extra for _, text in written_texts() for extra in re.findall(r"tunewise\[(\w+)\]", text)}
    assert named
    assert named <= set(extras)
