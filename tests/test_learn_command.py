"""`tunewise learn`: right and wrong answers to every exercise, what is kept, and what is refused."""

import json
import math
import os
import runpy
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from desk.conftest import data_summary, write_study
from test_site import anchors
from tunewise.adapter.file import Factors, LoraAdapter, write_adapter
from tunewise.cli.app import app
from tunewise.commands.learn.answers import ANSWERS
from tunewise.commands.learn.skills import skill, skills, wrong_parts
from tunewise.errors import StudyError, UserError
from tunewise.storage import learned as progress

LEARN = Path(__file__).parents[1] / "docs" / "learn"
OWN = {7, 8, 10, 15}  # skills whose answer is in the learner's own files

# Worked out by hand or by other code than the one that checks: note 01's counts, the note's blocks, pencil and paper.
RIGHT = {
    1: "4 16 10",
    2: "4 64 48 4",
    3: "294,912",
    4: "a 0",
    6: "2.08 8 3",
    11: "1 1.0078125",
    13: "better, as-good, inconclusive, worse",
    14: "18.4 1.05 2.10",
}
WRONG = {
    1: "4 12 10",
    2: "4 64 48 5",
    3: "294913",
    4: "B 0",
    6: "2.08 8 2",
    11: "1.003 1.0078125",
    13: "better as-good worse worse",
    14: "17.4 1.05 2.10",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "tunewise" / "learn.json"


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["learn", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def refused(number: int, answer: str) -> str:
    with pytest.raises(UserError) as error:
        wrong_parts(skill(number), answer)
    return str(error.value)


# --- answers


def test_every_skill_has_an_exercise_with_a_page_and_a_way_to_check_it() -> None:
    assert list(skills()) == list(ANSWERS) == list(range(1, 16))
    assert {*RIGHT, *OWN, 5, 9, 12} == set(skills())
    for one in skills().values():
        page, _, anchor = one.read.partition("#")
        assert (LEARN / page).is_file()
        assert not anchor or anchor in anchors(LEARN / page)
        assert one.task.endswith((".", "?"))


@pytest.mark.parametrize("number", RIGHT)
def test_the_right_answer_is_right_and_another_is_not(number: int) -> None:
    assert wrong_parts(skill(number), RIGHT[number]) == ()
    assert len(wrong_parts(skill(number), WRONG[number])) == 1


def test_the_tokens_of_a_ticket_are_those_of_the_notes_block() -> None:
    page = (LEARN / "02-task-and-baseline.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:3]]
    names: dict[str, Any] = {}
    exec("".join(blocks).replace("rows[0]", "rows[100]"), names)
    right = f"{len(names['prompt'])} {len(names['answer'])}"
    assert wrong_parts(skill(5), right) == ()
    assert wrong_parts(skill(5), f"{len(names['prompt'])} 1") == ("supervised tokens",)


def test_a_layer_written_by_hand_ends_where_the_exercise_does() -> None:
    """Gradients by the chain rule: dL/dy = 2 y, dL/dB = s dL/dy (A x)^T, dL/dA = s B^T dL/dy x^T."""
    W, A, B = (np.fromfunction(entry, shape) for entry, shape in (
        (lambda i, j: (i + j) / 10, (3, 4)),
        (lambda i, j: (i - j) / 10, (2, 4)),
        (lambda i, j: (i + 1) * (j + 1) / 10, (3, 2)),
    ))  # fmt: skip
    x, scale = np.array([1.0, 2, 3, 4]), 8 / 2
    y = W @ x + scale * B @ A @ x
    A2, B2 = A - 1e-3 * scale * B.T @ np.outer(2 * y, x), B - 1e-3 * scale * np.outer(2 * y, A @ x)
    loss = ((W @ x + scale * B2 @ A2 @ x) ** 2).sum()
    assert wrong_parts(skill(9), f"{y.sum():.4f} {loss:.4f}") == ()
    assert wrong_parts(skill(9), f"{y.sum():.4f} {(y**2).sum():.4f}") == ("loss after one step",)


def test_the_interval_is_that_of_note_04() -> None:
    values = np.array([0.010, 0.014, 0.006, 0.012])
    reach = 3.182 * values.std(ddof=1) / math.sqrt(4)  # t with 3 degrees of freedom, from a table
    assert wrong_parts(skill(12), f"{values.mean() - reach:.4f} {values.mean() + reach:.4f}") == ()
    assert wrong_parts(skill(12), f"{values.mean() - reach:.4f} 0.0138") == ("upper end",)


@pytest.mark.parametrize("answer", ["'4 16 10", "4 16", "4 16 10 2", ""])
def test_an_answer_of_another_form_is_refused_with_its_form(answer: str) -> None:
    assert "quotation" in refused(1, answer) or "GB on disk, GB in training, models" in refused(1, answer)


@pytest.mark.parametrize("answer", ["nan nan nan", "inf 1e400 10", "four 16 10"])
def test_what_is_no_number_is_not_right(answer: str) -> None:
    assert wrong_parts(skill(1), answer)


# --- the learner's own files


def test_the_chosen_rate_is_read_from_the_learners_own_study(tmp_path: Path) -> None:
    study = write_study(tmp_path / "a study").folder
    report = ANSWERS[7]([str(study), "lora-r8", "", ""])
    rate, word = report[2:]
    assert wrong_parts(skill(7), f"'{study}' lora-r8 {rate} {word}") == ()
    assert wrong_parts(skill(7), f"'{study}' lora-r8 {float(rate) * 3} {word}") == ("chosen learning rate",)
    assert len(wrong_parts(skill(7), f"'{study}' lora-r8 {rate} perhaps")) == 1
    assert "Did you mean 'lora-r8'" in refused(7, f"'{study}' lroa-r8 1 yes")
    assert "no study in" in refused(7, f"{tmp_path}/nowhere lora 1 yes")


def test_a_verdict_counts_only_in_a_study_of_ones_own_data(tmp_path: Path) -> None:
    splits = [{**split, "source": "mine.jsonl"} for split in data_summary().model_dump()["splits"]]
    own = write_study(tmp_path / "own", data={"splits": splits}).folder
    word = str(ANSWERS[15]([str(own), "lora-r8", ""])[2])
    assert wrong_parts(skill(15), f"{own} lora-r8 {word.replace(' ', '-')}") == ()
    assert wrong_parts(skill(15), f"{own} lora-r8 '{word} not'") == ("verdict",)
    begun = write_study(tmp_path / "begun", data={"splits": splits}, max_runs=2).folder
    assert "has no verdicts" in refused(15, f"{begun} lora-r8 worse")
    bundled = write_study(tmp_path / "bundled").folder
    assert "data of your own" in refused(15, f"{bundled} lora-r8 worse")


def adapter(folder: Path, *, trained: bool = False, **config: Any) -> Path:
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["a", "b"], **config}
    A, B = np.ones((2, 4)), np.zeros((3, 2)) + trained
    write_adapter(LoraAdapter(settings, {name: Factors(B, A, 4.0) for name in ("m.a", "m.b")}, {}), folder)
    return folder


def test_an_adapter_saved_before_training_is_read(tmp_path: Path) -> None:
    assert wrong_parts(skill(8), f"{adapter(tmp_path / 'fresh')} 4 2") == ()
    assert wrong_parts(skill(8), f"{tmp_path / 'fresh'} 8 3") == ("scale", "adapted modules")
    assert "is not zero" in refused(8, f"{adapter(tmp_path / 'late', trained=True)} 4 2")
    tiny = adapter(
        tmp_path / "tiny", base_model_name_or_path=str(progress.__file__).split("storage")[0] + "assets/tiny"
    )
    assert "Take another model" in refused(8, f"{tiny} 4 2")
    assert f"{tmp_path}" in refused(8, f"{tmp_path} 4 2")


def results(folder: Path, method: str, nll: float, losses: tuple[float, ...] = (2.0, 1.0)) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"method": method, "nll": nll, "losses": losses}))
    (folder / "model.safetensors").touch()
    return folder


def test_two_results_of_the_script_are_compared_by_what_they_hold(tmp_path: Path) -> None:
    full, lora = results(tmp_path / "full", "full", 1.0), adapter(tmp_path / "lora", trained=True)
    results(lora, "LoRA r=2", 1.5)
    assert wrong_parts(skill(10), f"{full} {lora} full 28") == ()  # two modules of 2 x (4 + 3)
    assert wrong_parts(skill(10), f"{full} {lora} lora 29") == ("full or lora", "trainable parameters of LoRA")
    assert "of the method 'LoRA r=2'" in refused(10, f"{lora} {full} full 28")
    assert "did not fall" in refused(10, f"{results(tmp_path / 'flat', 'full', 1.0, (1.0, 1.0))} {lora} full 28")
    assert "no result.json" in refused(10, f"{tmp_path} {lora} full 28")
    huge = '{"nll": 1%s, "losses": [2, 1], "method": "full"}' % ("0" * 400)  # a whole number that no float holds
    for damaged in ("[]", "{", "[" * 100_000, '{"nll": "x"}', '{"nll": 1, "losses": [], "method": "full"}', huge):
        (full / "result.json").write_text(damaged)
        assert "is not a result of the example script" in refused(10, f"{full} {lora} full 28")


# --- the command


def test_without_a_terminal_it_shows_the_next_exercise_and_how_to_answer(home: Path) -> None:
    code, text = said()
    assert code == 0
    assert "Skill 1:" in text
    assert "next: tunewise learn --skill 1 --answer 'GB_ON_DISK GB_IN_TRAINING MODELS'" in text
    assert not home.exists()


def test_a_right_answer_is_kept_and_the_next_exercise_follows(home: Path) -> None:
    assert said("--skill", "6", "--answer", "2.079 8 3") == (0, "right: skill 6 is shown.\n")
    assert list(json.loads(home.read_text())) == ["6"]
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    for number in range(1, 6):
        progress.keep(number)
    assert "Skill 7:" in said()[1]
    assert "✓  6  convert probability" in said("--list")[1]
    assert "6 of 15 shown" in said("--list")[1]
    assert said("--reset")[0] == 0
    assert not home.exists()
    assert said("--reset")[0] == 0
    assert "Skill 1:" in said()[1]


def test_a_wrong_answer_ends_with_3_names_the_part_and_is_not_kept(home: Path) -> None:
    code, text = said("--skill", "6", "--answer", "2.079 9 3")
    assert code == 3
    assert text.startswith("not yet: perplexity. Read docs/learn/02")
    assert not home.exists()


def test_in_a_terminal_it_asks_until_the_answer_is_right(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for number in set(skills()) - {6, 13}:
        progress.keep(number)
    given = iter(["2 8", "2 8 3", "2.08 8 3", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(given))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        "tunewise.cli.learn.sys", type("Sys", (), {"stdin": type("In", (), {"isatty": lambda self: True})()})
    )
    text = said()[1]
    assert text.count("Skill 6:") == 1
    assert "has 3 parts" in text
    assert "not yet: NLL" in text
    assert text.index("right: skill 6") < text.index("Skill 13:")
    assert "13" not in json.loads(home.read_text())


def test_after_the_last_skill_it_says_so() -> None:
    for number in skills():
        progress.keep(number)
    assert "All fifteen skills are shown" in said()[1]


# --- the file


@pytest.mark.parametrize("content", ["{", "[1]", '{"x": "2026-11-30"}', '{"1": "soon"}', "[" * 50_000, " " * 70_000])
def test_a_damaged_file_is_refused_and_reset_removes_it(home: Path, content: str) -> None:
    home.parent.mkdir(parents=True)
    home.write_text(content)
    with pytest.raises(StudyError, match="damaged. `tunewise learn --reset`"):
        progress.learned()
    with pytest.raises(StudyError, match="damaged"):
        progress.keep(1)
    assert home.read_text() == content
    progress.forget()
    assert progress.learned() == {}


def link(path: Path, to: Path) -> None:
    path.symlink_to(to)


def pipe(path: Path, to: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, to: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("what", [link, os.link, pipe, folder])
def test_nothing_is_read_written_or_removed_through_what_is_not_our_file(home: Path, tmp_path: Path, what: Any) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text('{"1": "2026-11-30"}')
    home.parent.mkdir(parents=True)
    what(*((thesis, home) if what is os.link else (home, thesis)))
    for act in (progress.learned, progress.forget, lambda: progress.keep(2)):
        with pytest.raises(StudyError, match="progress is not kept in .*XDG_STATE_HOME"):
            act()
    assert thesis.read_text() == '{"1": "2026-11-30"}'
    assert os.path.lexists(home)


def test_a_linked_or_foreign_folder_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    home.parent.parent.mkdir()
    home.parent.symlink_to(tmp_path / "other")
    with pytest.raises(StudyError, match="progress is not kept in"):
        progress.keep(1)
    assert not list((tmp_path / "other").iterdir())
    home.parent.unlink()
    home.parent.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StudyError, match="another user"):
        progress.keep(1)


def test_a_relative_state_folder_is_ignored_as_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/me")
    assert progress.learned_path() == Path("/home/me/.local/state/tunewise/learn.json")


def test_the_page_lists_the_skills_of_the_command() -> None:
    page = runpy.run_path(str(LEARN.parents[1] / "scripts" / "write_reference.py"))["skills_page"]()
    assert all(one.can in page and one.task in page for one in skills().values())
