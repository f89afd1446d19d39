"""Law 40: no code from the current folder, whatever its files are called and however a process is started."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from small_studies import rows_of

from lab_fixtures import small_model
from tunewise.executors.local import client, server
from tunewise.inputs import import_path

MODULE = [sys.executable, "-m", "tunewise"]
PROGRAM = [sys.executable, "-P", "-c", "from tunewise.__main__ import main; main()"]  # as the script `tunewise` does
LEFT = "ran-"  # the beginning of the file that a planted module leaves
PLANTED = """
import posix
posix.close(posix.open({mark!r}, posix.O_CREAT | posix.O_WRONLY))
raise SystemExit("code of the current folder was run: {name}")
"""
COMMANDS = (
    ["check", "study.yaml", "--no-probe"],
    ["compare", "study.yaml"],
    ["report", "runs/s"],
    ["list"],
    ["generate", "runs/s", "--prompt", "w4"],
    ["plan", "study.yaml", "--no-probe"],
    ["init", "--to", "other.yaml"],
    ["adapter", "inspect", "runs/s/best/lora"],
    ["adapter", "verify", "runs/s/best/lora"],
)


def loaded_by_python(start: Sequence[str], folder: Path) -> set[str]:
    """What Python itself imports before the first line of a module that it is given by -m: nobody can change that."""
    (folder / "only.py").write_text("import sys; print(*sys.modules)", encoding="utf-8")
    if "-P" in start:
        return set()
    said = subprocess.run([*start[:2], "only"], cwd=folder, capture_output=True, text=True, check=True)
    return set(said.stdout.split())


def plant(folder: Path, start: Sequence[str]) -> None:
    """A module for every name that Python or an installed package has; each leaves a file where it is run."""
    names = {name for name in (*sys.stdlib_module_names, *packages_distributions()) if name.isidentifier()}
    for name in {*names, "sitecustomize", "usercustomize"} - {"tunewise", *loaded_by_python(start, folder)}:
        code = PLANTED.format(mark=str(folder / f"{LEFT}{name}"), name=name)
        (folder / f"{name}.py").write_text(code, encoding="utf-8")


def write_study(folder: Path) -> None:
    small_model("llama", folder / "model")
    rows = "".join(json.dumps(row) + "\n" for row in rows_of("sft"))
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    study = {
        "name": "s",
        "model": "./model",
        "data": {"train": "train.jsonl"},
        "arms": {"lora": {"method": "lora", "rank": 2, "learning_rate": 1e-2}},
        "train": {"max_steps": 2, "batch_size": 4, "evaluations": 1},
        "tuning": {"rates": 1, "cap": 1},
        "looks": [1],
        "forgetting": {"tokens": 0},
        "samples": {"count": 0},
        "machine": {"threads": 1, "precision": "fp32"},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("start", [MODULE, PROGRAM], ids=["module", "program"])
def test_law_40_no_command_runs_a_file_of_the_current_folder(start: list[str], tmp_path: Path) -> None:
    """Law 40: every command does its work in a folder with a file for every name that it could import."""
    write_study(tmp_path)
    plant(tmp_path, start)
    commands = COMMANDS if start is PROGRAM else COMMANDS[:1]
    for arguments in commands:
        done = subprocess.run([*start, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (arguments, list(tmp_path.glob(f"{LEFT}*"))) == (arguments, [])
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)


def test_law_40_an_empty_entry_of_pythonpath_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 40: PYTHONPATH=:/mine means the current folder, too; the rest of it stays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    given = {"PYTHONPATH": os.pathsep.join(["", "mine", ".", str(tmp_path)]), "HOME": "x"}
    safe = import_path.safe_environment(given)
    assert safe == {"PYTHONPATH": "mine", "PYTHONSAFEPATH": "1", "HOME": "x"}
    assert import_path.safe_environment({})["PYTHONPATH"] == ""
    monkeypatch.setenv("PYTHONPATH", given["PYTHONPATH"])
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/elsewhere", str(tmp_path / "mine")])
    import_path.leave_out_current_folder()
    assert sys.path == ["/elsewhere", str(tmp_path / "mine")]


def test_law_40_every_start_of_a_process_of_ours_leaves_the_current_folder_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 40: the server, and the fresh process of a system where forking is not safe."""
    seen: list[list[str]] = []

    def start(command: list[str], **options: object) -> object:
        seen.append(command)
        raise OSError("started")

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(OSError, match="started"):
        client._start((), {})
    monkeypatch.setattr(subprocess, "run", start)
    with pytest.raises(OSError, match="started"):
        server._in_fresh_process("{}")
    assert [command[:2] for command in seen] == [[sys.executable, "-P"]] * 2
