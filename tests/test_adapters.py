"""The adapter commands on adapters made with plain peft: what they write, print and refuse."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.normalizers import Lowercase
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tunewise.cli.app import app
from tunewise.errors import ModelError, SpecError
from tunewise.lab.models.load import BUNDLED

ROWS = [{"prompt": f"Say {i}", "completion": f"number {i}"} for i in range(6)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the bundled base whose B is not 0."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"]), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def said(*arguments: object) -> str:
    """What a command prints; raises what it raises."""
    result = CliRunner().invoke(app, ["adapter", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_merge_says_what_each_form_computes(adapter: Path, rows: Path, tmp_path: Path) -> None:
    options = ["--data", rows, "--set", "data.separator= ->", "--dtype", "bf16"]
    report = json.loads(said("merge", adapter, "--out", tmp_path / "merged", *options, "--json"))
    forms = {form["form"]: form for form in report["forms"]}
    assert list(forms) == ["adapter", "merged, fp32", "read back, bf16"]
    assert forms["adapter"]["nll"] == pytest.approx(forms["merged, fp32"]["nll"], rel=1e-5)
    assert forms["read back, bf16"]["max_logit_difference"] > 1e-3
    assert "model.safetensors" in report["files"]
    text = said("merge", adapter, "--out", tmp_path / "again", *options)
    assert f"{forms['adapter']['nll']:.6f}" in text
    assert "read back, bf16" in text


MISTAKES = {
    "no adapter": (ModelError, ["{rows}"], "is not an adapter"),
    "onto other weights": (SpecError, ["{adapter}", "--onto", "nf4"], "must be whole or the same as --trained-on"),
    "unknown key": (SpecError, ["{adapter}", "--data", "{rows}", "--set", "data.seperator=x"], "'separator'"),
    "another base": (ModelError, ["{adapter}", "--base", "./nowhere"], "no such folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name: str, adapter: Path, rows: Path, tmp_path: Path) -> None:
    kind, arguments, message = MISTAKES[name]
    given = [a.format(adapter=adapter, rows=rows) for a in arguments]
    with pytest.raises(kind, match=message):
        said("merge", *given, "--out", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_inspect_shrink_and_diff_say_the_same_as_json(adapter: Path, tmp_path: Path) -> None:
    view = json.loads(said("inspect", adapter, "--svg", tmp_path / "heat.svg", "--json"))
    assert (tmp_path / "heat.svg").read_text().startswith("<svg")
    text = said("inspect", adapter)
    assert f"{view['parameters']:,} parameters in {len(view['modules'])} modules, rank 4, scale 2" in " ".join(
        text.split()
    )
    assert "attn.c_attn" in text
    shrunk = json.loads(said("shrink", adapter, "--out", tmp_path / "small", "--rank", 2, "--json"))
    assert shrunk["parameters"] * 2 == shrunk["parameters_before"]
    assert f"{shrunk['lost']:.2%}" in said("shrink", adapter, "--out", tmp_path / "again", "--rank", 2)
    difference = json.loads(said("diff", adapter, tmp_path / "small", "--json"))
    assert difference["cosine"] == pytest.approx((1 - shrunk["lost"] ** 2) ** 0.5, rel=1e-5)
    assert f"{difference['cosine']:+.3f}" in said("diff", adapter, tmp_path / "small")


def test_a_sound_adapter_gets_its_certificate(adapter: Path, rows: Path) -> None:
    certificate = json.loads(said("verify", adapter, "--data", rows, "--json"))
    assert [form["form"] for form in certificate["forms"]] == ["adapter", "read back", "merged, fp32", "merged, bf16"]
    assert certificate["forms"][1]["max_logit_difference"] == 0
    checks = {check["name"]: check["passed"] for check in certificate["checks"]}
    expected = dict.fromkeys(("read back", "merged, fp32", "merged, bf16", "end of text", "stopping"), True)
    assert checks == expected
    assert "All forms give the same results." in said("verify", adapter, "--data", rows)


def broken(adapter: Path, *options: object) -> list[str]:
    """The names of the checks that fail; asserts exit status 3."""
    arguments = ["adapter", "verify", str(adapter), *map(str, options), "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 3, result.output
    return [check["name"] for check in json.loads(result.stdout)["checks"] if not check["passed"]]


def test_a_difference_beyond_the_tolerance_breaks_the_certificate(adapter: Path, rows: Path) -> None:
    assert broken(adapter, "--data", rows, "--metric", 0) == ["merged, bf16"]
    assert broken(adapter, "--data", rows, "--logits", 1e-9) == ["merged, fp32"]


def test_text_that_is_read_otherwise_breaks_the_certificate(adapter: Path, rows: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(adapter, tmp_path / "changed")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["tiny"])
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    tokenizer.eos_token = "."
    tokenizer.save_pretrained(changed)
    assert broken(changed, "--data", rows) == ["tokenizer", "stopping"]
    chats = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "say 1"}, {"role": "assistant", "content": "number 1"}]
    chats.write_text(json.dumps({"messages": turns}) + "\n")
    own = json.loads(said("verify", adapter, "--data", chats, "--json"))
    assert {"name": "chat template", "passed": True} in [
        {"name": check["name"], "passed": check["passed"]} for check in own["checks"]
    ]
    other = tmp_path / "other.jinja"
    turn = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
    other.write_text(f"{{% for m in messages %}}{turn}{{% else %}}{{{{ m.content }}}} {{% endif %}}{{% endfor %}}")
    assert broken(adapter, "--data", chats, "--set", f"data.chat_template={other}") == ["chat template"]


def test_what_shrink_refuses_may_still_be_verified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", use_dora=True, init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"]), config).save_pretrained(tmp_path / "dora")
    with pytest.raises(ModelError, match="is DoRA"):
        said("shrink", tmp_path / "dora", "--out", tmp_path / "small", "--rank", 2)
    assert "All forms give the same results." in said("verify", tmp_path / "dora")


def test_a_tokenizer_with_more_pieces_than_the_base_is_named(adapter: Path, rows: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(adapter, tmp_path / "changed")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["tiny"])
    tokenizer.add_tokens(["number"])
    tokenizer.save_pretrained(changed)
    with pytest.raises(ModelError, match="the id 4096, but the base has 4096 token embeddings"):
        said("verify", changed, "--data", rows)
