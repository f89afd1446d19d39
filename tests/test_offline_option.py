"""Every command that loads a model or a data set can be told to make no network call."""

import os

import pytest
from typer.testing import CliRunner

from tunewise.cli.app import app
from tunewise.cli.options import OFFLINE

# the rest of each command line ends in a message before anything is loaded
LOADING = {
    "quickstart": "--set x",
    "compare": "absent.yaml",
    "train": "absent.yaml",
    "check": "absent.yaml",
    "plan": "absent.yaml",
    "generate": "absent",
    "judge": "--model tiny --data absent --full absent --arm lora=absent",
    "worker": "absent.json",
    "adapter merge": "absent --out absent --onto nf4",
    "adapter verify": "absent --set x",
}
READING = ("report", "list", "init", "explain", "learn", "adapter inspect", "adapter shrink", "adapter diff")


@pytest.mark.parametrize("command", LOADING)
def test_offline_is_set_before_anything_is_loaded_and_for_the_workers(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OFFLINE:
        monkeypatch.setenv(name, "")  # so that it is taken back after the test
    CliRunner().invoke(app, [*command.split(), *LOADING[command].split()])
    assert {os.environ[name] for name in OFFLINE} == {""}
    CliRunner().invoke(app, [*command.split(), *LOADING[command].split(), "--offline"])
    assert {name: os.environ[name] for name in OFFLINE} == OFFLINE


def test_every_command_loads_or_only_reads_what_lies_here() -> None:
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    assert groups.keys() == {"adapter"}
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    below = [f"adapter {c.name or c.callback.__name__}" for c in groups["adapter"].registered_commands if c.callback]
    assert {*names, *below} == {*LOADING, *READING}
