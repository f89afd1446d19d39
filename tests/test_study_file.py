"""Laws of the study file and of the command line's words for it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tunewise.assets import ASSETS
from tunewise.cli.template import write_template
from tunewise.cli.words import data_sources, parse_arm, parse_options, study_from_options, study_name
from tunewise.desk.protocol.resolve import keep_one_arm
from tunewise.errors import SpecError
from tunewise.spec import ExistingMethod, LoraMethod, PeftMethod, StudySpec
from tunewise.spec.reading import parse_study, read_study

SMALL: dict[str, Any] = {"data": {"train": "train.jsonl"}, "arms": {"full": {"method": "full"}}}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


# --- reading


def test_a_study_file_names_the_study_unless_it_names_itself(tmp_path: Path) -> None:
    assert read_study(write(tmp_path / "trec.yaml", SMALL)).name == "trec"
    assert read_study(write(tmp_path / "trec.yaml", {**SMALL, "name": "own"})).name == "own"


def test_a_stored_study_is_read_back_equal(tmp_path: Path) -> None:
    arms = {"l": {"method": "lora", "targets": ["a", "b"]}, "p": {"method": "peft", "type": "IA3", "options": {"x": 1}}}
    before = parse_study({**SMALL, "name": "s", "arms": arms, "margin": "1pp"}, "here")
    assert parse_study(yaml.safe_load(yaml.safe_dump(before.model_dump(mode="json"))), "there") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": {}}, "unknown key 'trian'. Did you mean 'train'?"),
        ({"train": {"epoch": 1}}, "unknown key 'train.epoch'. Did you mean 'epochs'?"),
        ({"data": {"train": "t", "limit": {"trian": 3}}}, "unknown key 'data.limit.trian'. Did you mean 'train'?"),
        ({"data": {"train": "t", "columns": {"promt": "q"}}}, "unknown column 'promt'. Did you mean 'prompt'?"),
        ({"arms": {"a": {"method": "lroa"}}}, "unknown method 'lroa' in 'arms.a'. Did you mean 'lora'? Known: full"),
        ({"arms": {"a": {"method": "lora", "rnak": 3}}}, "unknown key 'arms.a.rnak'. Did you mean 'rank'?"),
        ({"arms": {"lora": {"method": "lora", "rnak": 3}}}, "unknown key 'arms.lora.rnak'. Did you mean 'rank'?"),
        ({"arms": {"a": {"rank": 3}}}, "'arms.a' needs a 'method'. Known: full, lora"),
        ({"arms": {"a": {"method": "lora", "rank": 0}}}, "arms.a.rank: must be a whole number of 1 or more, or auto"),
        ({"arms": {"a": {"method": "peft"}}}, "'arms.a.type' is missing"),
        ({"data": {}}, "'data.train' is missing"),
        ({"margin": "5 percent"}, "margin '5 percent' is not valid"),
        ({"task": "clasify"}, "'task': must be 'sft', 'lm' or 'classify', but got 'clasify'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_the_key_and_the_nearest(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "s.yaml", {**SMALL, **changes})
    with pytest.raises(SpecError) as caught:
        read_study(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    assert message in lines[0]


def test_every_mistake_has_its_own_line(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", {**SMALL, "trian": {}, "seed": -1, "checkpoint": "bset"})
    with pytest.raises(SpecError) as caught:
        read_study(path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a study must be a mapping of keys"),
        ("- full\n- lora\n", "a study must be a mapping of keys, but this is list"),
        ("train: {epochs: 1", "not readable as YAML"),
        ("train: {epochs: 1}\n3: 4\n", "keys must be text"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_study(write(tmp_path / "s.yaml", content))


def test_binary_junk_and_a_missing_file_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "junk.yaml").write_bytes(b"\xff\xfe\x00\x01name")
    with pytest.raises(SpecError, match=r"junk\.yaml: not readable"):
        read_study(tmp_path / "junk.yaml")
    with pytest.raises(SpecError, match=r"no such study file: .*absent\.yaml"):
        read_study(tmp_path / "absent.yaml")


# --- paths


def test_files_beside_the_study_file_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    for name in ("data/train.jsonl", "test.jsonl", "chat.jinja", "general.txt", "model/config.json", "adapter/x"):
        write(folder / name, "x")
    content = {
        "model": "model",
        "data": {
            "train": "data/train.jsonl",
            "valid": "absent.jsonl",
            "test": "test.jsonl",
            "chat_template": "chat.jinja",
        },
        "arms": {"old": {"method": "existing", "path": "adapter"}, "full": {"method": "full"}},
        "forgetting": "general.txt",
    }
    write(folder / "s.yaml", content)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    study = read_study(Path("../project/s.yaml"))
    assert study.model == str(folder / "model")
    assert study.data.train == str(folder / "data/train.jsonl")
    assert study.data.valid == "absent.jsonl", "what is not there may be a hub id"
    assert study.data.test == str(folder / "test.jsonl")
    assert study.data.chat_template == str(folder / "chat.jinja")
    assert study.arms["old"] == ExistingMethod(path=str(folder / "adapter"))
    assert study.forgetting.text == str(folder / "general.txt")


def test_bundled_names_stay_names_whatever_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    write(tmp_path / "builtin:stdlib", "x")
    study = read_study(write(tmp_path / "s.yaml", {**SMALL, "data": {"train": "builtin:stdlib"}}))
    assert (study.model, study.data.train, study.forgetting.text) == ("tiny", "builtin:stdlib", "builtin:pydoc-topics")


def test_a_template_written_where_its_file_belongs_is_refused(tmp_path: Path) -> None:
    text = "{{ messages }}" * 100
    path = write(tmp_path / "s.yaml", {**SMALL, "data": {"train": "t", "chat_template": text}})
    with pytest.raises(SpecError, match=r"data\.chat_template: .* Did you give the text itself instead of its file"):
        read_study(path)


def test_a_data_folder_means_its_train_valid_and_test_files(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.csv", "train_full.jsonl", "notes.md"):
        write(tmp_path / name, "x")
    assert data_sources(str(tmp_path)) == {
        "train": str(tmp_path / "train.jsonl"),
        "test": str(tmp_path / "test.csv"),
    }


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev"])
def test_the_validation_file_of_a_folder_may_have_any_of_its_usual_names(tmp_path: Path, name: str) -> None:
    for file in ("train.jsonl", f"{name}.jsonl", "valid_old.jsonl"):
        write(tmp_path / file, "x")
    assert data_sources(str(tmp_path))["valid"] == str(tmp_path / f"{name}.jsonl")


def test_a_data_folder_without_train_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "training.jsonl", "x")
    with pytest.raises(SpecError, match=r"no file named train\.\* \(it contains training\.jsonl\)"):
        data_sources(str(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SpecError, match="it contains nothing"):
        data_sources(str(empty))


def test_data_that_is_no_folder_is_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.jsonl", "x")
    monkeypatch.chdir(tmp_path)
    assert data_sources("rows.jsonl") == {"train": str(tmp_path / "rows.jsonl")}
    assert data_sources("owner/name") == {"train": "owner/name"}


# --- --arm and --set


@pytest.mark.parametrize(
    ("text", "name", "arm"),
    [
        ("full=full", "full", {"method": "full"}),
        ("lora-r4=lora,rank=4,targets=qkv", "lora-r4", {"method": "lora", "rank": 4, "targets": "qkv"}),
        ("l=lora,targets=[q_proj,v_proj],rank=2", "l", {"method": "lora", "targets": ["q_proj", "v_proj"], "rank": 2}),
        ("l=lora,learning_rate=1e-4", "l", {"method": "lora", "learning_rate": 1e-4}),
        (
            "i=peft,type=IA3,options={target_modules: [a, b], feedforward_modules: [b], k: 1},learning_rate=3E-3",
            "i",
            {
                "method": "peft",
                "type": "IA3",
                "options": {"target_modules": ["a", "b"], "feedforward_modules": ["b"], "k": 1},
                "learning_rate": 3e-3,
            },
        ),
        (
            r"l=lora,targets=.*\.[01]\.attn\.(q|v)_proj,rank=2",
            "l",
            {"method": "lora", "targets": r".*\.[01]\.attn\.(q|v)_proj", "rank": 2},
        ),
        ("l=lora,targets=a=b", "l", {"method": "lora", "targets": "a=b"}),
    ],
)
def test_an_arm_of_the_command_line_says_what_the_file_would(text: str, name: str, arm: dict[str, Any]) -> None:
    assert parse_arm(text) == (name, arm)


@pytest.mark.parametrize(
    "text", ["lora", "=lora", "x=", "x=,rank=4", "x=rank=4", "x=lora,rank", "x=lora,", "a b=lora", "a.b=lora", ""]
)
def test_an_arm_that_is_not_understood_shows_how_to_write_one(text: str) -> None:
    with pytest.raises(SpecError, match="--arm needs NAME=METHOD,key=value") as caught:
        parse_arm(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=1", 1),
        ("k=1e-4", 1e-4),
        ("k=-2E3", -2e3),
        ("k=1.5e-3", 1.5e-3),
        ("k=0.5", 0.5),
        ("k=true", True),
        ("k=", None),
        ("k=null", None),
        ("k=[5, 10]", [5, 10]),
        ("k={train: 100}", {"train": 100}),
        ("k=5% of gain", "5% of gain"),
        ("k=a=b", "a=b"),
        ("k=1e-4x", "1e-4x"),
    ],
)
def test_a_value_is_read_as_yaml_and_exponents_as_numbers(text: str, value: Any) -> None:
    found = parse_options([text])["k"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("text", "message"), [("k", "--set needs key=value"), ("=1", "--set needs"), ("k=[1", "YAML")])
def test_an_option_that_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_options([text])


def test_set_overrides_any_key_of_the_file_however_deep(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", {**SMALL, "arms": {"lora-r8": {"method": "lora"}}})
    sets = ["train.epochs=7", "data.limit={train: 9}", "arms.lora-r8.rank=2", "data.limit.test=3", "margin=1pp"]
    study = study_from_options(path, None, None, [], sets)
    assert study.train.epochs == 7
    assert (study.data.limit.train, study.data.limit.test) == (9, 3)
    assert study.arms == {"lora-r8": LoraMethod(rank=2)}
    assert study.margin == "1pp"


def test_set_into_a_value_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", {**SMALL, "seed": 3})
    with pytest.raises(SpecError, match="--set seed.x: 'seed' is a value, not a mapping"):
        study_from_options(path, None, None, [], ["seed.x=1"])


def test_set_with_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown key 'train.epoch'. Did you mean 'epochs'"):
        study_from_options(write(tmp_path / "s.yaml", SMALL), None, None, [], ["train.epoch=1"])


def test_arms_of_the_command_line_join_those_of_the_file_and_set_may_change_them(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", SMALL)
    study = study_from_options(path, None, None, ["p=peft,type=IA3"], ["arms.p.options={x: 1}"])
    assert list(study.arms) == ["full", "p"]
    assert study.arms["p"] == PeftMethod(type="IA3", options={"x": 1})


def test_without_a_file_model_and_data_make_a_study_of_full_and_lora(tmp_path: Path) -> None:
    write(tmp_path / "trec6/train.jsonl", "x")
    study = study_from_options(None, "tiny", str(tmp_path / "trec6"), [], ["train.epochs=1"])
    assert study.name == "trec6-tiny"
    assert list(study.arms) == ["full", "lora-r8"]
    assert study.train.epochs == 1
    chosen = study_from_options(None, "tiny", str(tmp_path / "trec6"), ["l=lora,rank=2"], [])
    assert chosen.arms == {"l": LoraMethod(rank=2)}


def test_the_default_arms_are_the_same_after_a_study_changed_them(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "x")
    study_from_options(None, "tiny", str(tmp_path), [], ["arms.lora-r8.rank=3"])
    assert study_from_options(None, "tiny", str(tmp_path), [], []).arms["lora-r8"] == LoraMethod(rank=8)


@pytest.mark.parametrize(("model", "data"), [(None, None), ("tiny", None), (None, "x")])
def test_too_little_to_compare_is_refused(model: str | None, data: str | None) -> None:
    with pytest.raises(SpecError, match="nothing to compare"):
        study_from_options(None, model, data, [], [])


def test_model_and_data_replace_what_the_file_says_seen_from_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here/model/config.json", "here/mine/train.csv", "there/model/config.json", "there/valid.csv"):
        write(tmp_path / name, "x")
    data = {"train": "train.csv", "valid": "valid.csv", "test": "test.csv", "max_length": 99}
    path = write(tmp_path / "there/s.yaml", {**SMALL, "data": data})
    monkeypatch.chdir(tmp_path / "here")
    study = study_from_options(path, "model", "mine", [], [])
    assert study.model == str(tmp_path / "here/model")
    assert study.data.train == str(tmp_path / "here/mine/train.csv")
    assert (study.data.valid, study.data.test) == (None, None), "never one data set's test on another's train"
    assert study.data.max_length == 99
    assert study_from_options(path, "tiny", None, [], []).data.valid == str(tmp_path / "there/valid.csv")


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("tiny", "_rows.jsonl"),
        ("./my model", "a b/"),
        ("owner/Name-1.5b", ".."),
        ("ä", "train.jsonl"),
        ("x" * 90, "y" * 90),
    ],
)
def test_a_study_that_names_itself_has_a_valid_name(model: str, data: str) -> None:
    assert parse_study({**SMALL, "name": study_name(model, data)}, "here").name


# --- one arm, and init


def test_one_arm_is_kept_and_a_wrong_name_shows_the_nearest() -> None:
    study = parse_study(
        {**SMALL, "name": "s", "arms": {"full": {"method": "full"}, "lora": {"method": "lora"}}}, "here"
    )
    assert list(keep_one_arm(study, "lora").arms) == ["lora"]
    with pytest.raises(SpecError, match="unknown arm 'lroa'. Did you mean 'lora'"):
        keep_one_arm(study, "lroa")
    with pytest.raises(SpecError, match="several arms. Choose one"):
        keep_one_arm(study, None)
    assert list(keep_one_arm(keep_one_arm(study, "full"), None).arms) == ["full"]


def test_what_init_writes_is_read_as_the_study_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows.jsonl", "x")
    write(tmp_path / "base/config.json", "{}")
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path)
    write_template("base", "rows.jsonl", Path("studies/s.yaml"))
    study = read_study(Path("studies/s.yaml"))
    assert study.model == str(tmp_path / "base")
    assert study.data.train == str(tmp_path / "rows.jsonl")
    assert list(study.arms) == ["full", "lora-r8", "lora-r16-all"]


def test_what_init_says_of_defaults_is_true(tmp_path: Path) -> None:
    write_template("tiny", "builtin:stdlib", tmp_path / "s.yaml")
    study = read_study(tmp_path / "s.yaml")
    written = yaml.safe_load((tmp_path / "s.yaml").read_text(encoding="utf-8"))
    bare = StudySpec.model_validate({"name": "s", "data": study.data, "arms": written["arms"]})
    assert study == bare, "the template writes defaults out, it does not change them"


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "mine")
    with pytest.raises(SpecError, match="exists already"):
        write_template("tiny", "builtin:stdlib", path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_the_unfair_quickstart_is_the_quickstart_with_one_more_arm() -> None:
    fair, unfair = (read_study(ASSETS / "studies" / f"{name}.yaml") for name in ("quickstart", "quickstart-unfair"))
    assert list(unfair.arms) == [*fair.arms, "lora-untuned"]
    assert unfair == fair.replace(name="quickstart-unfair", arms=unfair.arms)
