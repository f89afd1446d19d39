"""Text from outside reaches every output safely, on every terminal; what cannot be printed is said in one message."""

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.csv as csv
import pytest
from safetensors.numpy import save_file

import tunewise
from tunewise.cli.app import main
from tunewise.cli.terminal import Terminal
from tunewise.desk.report.export import FORMULA
from tunewise.text.output import escaped
from tunewise.text.safe import CONTROLS

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b\u202eevil\u2066 [bold]x[red]"
ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")
NAMES = (f"base_model.model.h.0.{HOSTILE}", "base_model.model.h.1.attn")


class Said(NamedTuple):
    """What a command wrote."""

    status: int
    out: str
    error: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Runs a command in this process, its streams in an encoding."""

    def run(*arguments: str, encoding: str = "utf-8") -> Said:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
        monkeypatch.setattr(sys, "argv", ["tunewise", *arguments])
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, error = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
        monkeypatch.undo()
        return Said(status, out, error)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter whose names give orders to a terminal."""
    root = tmp_path_factory.mktemp("hostile")
    tensors = {}
    for name in NAMES:
        tensors[f"{name}.lora_A.weight"] = np.ones((2, 4), np.float32)
        tensors[f"{name}.lora_B.weight"] = np.ones((4, 2), np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": HOSTILE,
        "r": 2,
        "lora_alpha": 4,
    }
    for folder in (root / "adapter", root / f"adapter {HOSTILE}"):
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return root


COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("adapter", "inspect", "{adapter}"),
    "inspect, json": ("adapter", "inspect", "{adapter}", "--json"),
    "inspect, a chart": ("adapter", "inspect", "{adapter}", "--svg", "{new}.svg"),
    "shrink": ("adapter", "shrink", "{adapter}", "--out", "{new}", "--rank", "1"),
    "shrink, json": ("adapter", "shrink", "{hostile}", "--out", "{new}", "--rank", "1", "--json"),
    "diff": ("adapter", "diff", "{adapter}", "{hostile}"),
    "diff, json": ("adapter", "diff", "{adapter}", "{hostile}", "--json"),
    "list of nothing": ("list", HOSTILE),
    "report of nothing": ("report", HOSTILE),
    "generate of nothing": ("generate", HOSTILE, "--prompt", HOSTILE),
    "a study that is not there": ("compare", HOSTILE),
    "an option that is not known": ("report", f"--{HOSTILE}"),
    "a command that is not known": (HOSTILE,),
    "an arm": ("plan", "--arm", f"{HOSTILE}=lora"),
    "a card": ("plan", "--gpu", HOSTILE),
    "a key": ("plan", "--set", f"{HOSTILE}=1"),
    "a new study file": ("init", "--model", "tiny", "--to", f"{{new}}{HOSTILE}.yaml"),
    "the version": ("--version",),
    "help": ("compare", "--help"),
}


def _texts(content: object) -> list[str]:
    if isinstance(content, dict):
        return [text for value in content.values() for text in _texts(value)]
    if isinstance(content, list):
        return [text for value in content for text in _texts(value)]
    return [content] if isinstance(content, str) else []


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_law_50_no_command_hands_an_order_to_the_terminal(
    command: str, encoding: str, place: Path, tmp_path: Path, call: Callable[..., Said]
) -> None:
    known = {
        "{adapter}": str(place / "adapter"),
        "{hostile}": str(place / f"adapter {HOSTILE}"),
        "{new}": str(tmp_path / "new"),
    }
    words = list(COMMANDS[command])
    for name, value in known.items():
        words = [word.replace(name, value) for word in words]
    said = call(*words, encoding=encoding)
    assert said.status in (0, 2), said.error
    assert "Traceback" not in said.error
    assert said.out + said.error
    assert not CONTROLS.search(said.out + said.error)
    if "--json" in words:
        assert NAMES[0].removeprefix("base_model.model.") in "\n".join(_texts(json.loads(said.out)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_law_50_json_has_the_same_values_in_every_encoding(encoding: str) -> None:
    text = json.dumps({f"key {HOSTILE} ü−😀": [HOSTILE, "ü…😀"]}, ensure_ascii=False)
    written = escaped(text, encoding)
    written.encode(encoding)
    assert not CONTROLS.search(written)
    assert json.loads(written) == json.loads(text)


def test_law_50_all_text_goes_out_by_one_function() -> None:
    root = Path(tunewise.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        if path == root / "text" / "output.py" or path.is_relative_to(
            root / "lab"
        ):  # of the lab nothing reaches a terminal
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "sys.stdout.write") or re.fullmatch(r"(typer|click)\.(s?echo|secho)", called):
                found.append(f"{path.name}:{called}")
    assert found == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full, of Linux")
@pytest.mark.parametrize("words", [("--version",), ("--help",), ("adapter", "inspect", "{adapter}")])
def test_law_50_a_full_disk_behind_the_output_is_one_message(words: tuple[str, ...], place: Path) -> None:
    given = [word.replace("{adapter}", str(place / "adapter")) for word in words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tunewise", *given], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write to standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("columns", ["0", "00", "-1", "²", "9" * 30, "x", ""])
def test_law_50_a_width_that_no_terminal_has_does_not_count(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    terminal = Terminal(file=io.StringIO())
    assert 1 <= terminal.width < 10_000
    terminal.print("said")
    assert terminal.file.getvalue() == "said\n"  # type: ignore[attr-defined]


def test_law_50_a_closed_output_is_no_fault(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["tunewise", "adapter", "inspect", str(place / "adapter")])
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    main()


@pytest.mark.parametrize("sign", FORMULA)
def test_law_50_a_cell_of_the_records_is_text_for_a_spreadsheet(sign: str, tmp_path: Path) -> None:
    import pyarrow as pa

    from tunewise.desk.report.export import as_text

    table = pa.table({"study": [f"{sign}HYPERLINK(1)", "a=b", None], "test_nll": [-1.5, 2.0, None]})
    csv.write_csv(as_text(table), tmp_path / "runs.csv")
    read = csv.read_csv(tmp_path / "runs.csv", parse_options=csv.ParseOptions(newlines_in_values=True))
    assert read["study"].to_pylist() == [f"'{sign}HYPERLINK(1)", "a=b", ""]
    assert read["test_nll"].to_pylist() == [-1.5, 2.0, None], "numbers stay numbers"
