"""Measure tiny, random models of many architectures and write the table of docs/reference/models.md.

python scripts/models_table.py            # all of them: about a minute
python scripts/models_table.py Llama GPT-2  # print these rows only
"""

import argparse
import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from architectures import ARCHITECTURES
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tunewise.errors import TunewiseError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Example, make_batch
from tunewise.lab.methods import Method, build_method
from tunewise.lab.methods.targets import resolve_targets
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import Base, inner_model, load_base, load_config, load_tokenizer, load_tuned
from tunewise.lab.models.packing import REFUSALS, fit_attention
from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.kernels import try_kernels
from tunewise.lab.plan.setting import Kernels, PlanContext
from tunewise.lab.plan.workload import assumed_examples, workload
from tunewise.lab.private import attention_of
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.gradients import GradientWatch
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.train.optim import LearningRates
from tunewise.spec import LoraMethod, TrainSpec

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "models.md"
MARKS = ("<!-- models_table: begin -->", "<!-- models_table: end -->")
LORA = LoraMethod(rank=2)  # on all-linear
TITLES = ("architecture", "`qkv`", "rest of `attention`", "`mlp`", "rest of `all-linear`", "covered", "packed", "plan")
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Row:
    """What was found of one architecture. Module names are those of one block, with numbers removed."""

    name: str
    qkv: tuple[str, ...]
    attention: tuple[str, ...]  # without qkv
    mlp: tuple[str, ...]
    others: tuple[str, ...]
    share: float | None  # of the body's weights that `all-linear` covers
    is_packed: bool | None  # None: not reached
    plan: str  # what a plan of its step is: checked, an estimate, or none; '–': not reached
    problem: str  # why it cannot be loaded, trained, saved or reloaded; '': it can

    @property
    def cells(self) -> list[str]:
        """Its cells in the table."""
        named = (_code(names) for names in (self.qkv, self.attention, self.mlp, self.others))
        share = "–" if self.share is None else f"{self.share:.0%}"
        ends = [share, _word(self.is_packed), self.plan]
        return [f"{self.name}: {ARCHITECTURES[self.name].what}", *named, *ends]


def measured(name: str) -> Row:
    """The row of one architecture, found by loading, training one step, saving and reloading it."""
    config = ARCHITECTURES[name].config()
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(place) / "base"
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        base = _load(folder)
        qkv, attention, mlp, everything = (_targets(base, of) for of in ("qkv", "attention", "mlp", "all-linear"))
        row = Row(
            name=name,
            qkv=_endings(qkv),
            attention=_endings(set(attention) - set(qkv)),
            mlp=_endings(mlp),
            others=_endings(set(everything) - set(attention) - set(mlp)),
            share=None,
            is_packed=None,
            plan="–",
            problem="",
        )
        return _trained(row, base, folder, config)


def _trained(row: Row, base: Base, folder: Path, config: PreTrainedConfig) -> Row:
    try:
        method = build_method(LORA, "lm", 1)
        model = method.prepare(base)
        assert method.targets is not None, "LoRA has targets"
        fuse(model)
        is_packed = fit_attention(model, None, "lm") > 0
        _step(model, method)
        problem = _reloaded(model, method, folder)
        share = method.targets.linear_share
    except (TunewiseError, *REFUSALS) as error:
        return replace(row, problem=str(error))
    return replace(row, share=share, is_packed=is_packed, plan=_plan(config), problem=problem)


def _load(folder: Path) -> Base:
    tokenizer = load_tokenizer("tiny", load_config("tiny", None, False), False)  # a language model does not look at it
    return load_base(str(folder), "lm", (), tokenizer, False)


def _targets(base: Base, targets: str) -> tuple[str, ...]:
    try:
        return resolve_targets(base, targets, with_experts=True).names
    except TunewiseError:
        return ()


def _endings(names: Iterable[str]) -> tuple[str, ...]:
    """Names within a block, each once, in alphabetical order."""
    return tuple(sorted({re.sub(r"^.*?\.\d+\.", "", name, count=1) for name in names}))


def _examples() -> list[Example]:
    drawn = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 128, (length,), generator=drawn).tolist() for length in (12, 9, 20, 12, 16, 7)]
    supervised = [[False] + [True] * (len(ids) - 1) for ids in rows]
    return [Example("", "", ids, learn, len(ids), -1, "", "") for ids, learn in zip(rows, supervised, strict=True)]


def _step(model: torch.nn.Module, method: Method) -> None:
    """One step of a real run's loop; raises SpecError for a tensor that is trained and gets no gradient."""
    compute, rates, settings = Compute("cpu", "fp32"), LearningRates(0.01, None), TrainSpec()
    watch = GradientWatch(model, method)
    optimizer = make_trainable((model, method), (), settings, rates, compute)
    loop = Loop(optimizer, [1.0], 1.0, compute, lambda *_: watch.look())
    (step,) = train(model.train(), [[make_batch(_examples(), range(6), 0)]], loop)
    assert step.gradient_norm > 0, "it learns"
    with torch.no_grad():  # one step moves B alone a little: make the update large enough to be seen
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(10)


@torch.no_grad()
def _reloaded(model: torch.nn.Module, method: Method, folder: Path) -> str:
    """Save the adapter and load it onto a fresh base; '' if both compute the same."""
    adapter = folder.parent / "adapter"
    method.save(model, adapter)
    base = _load(folder)
    batch = make_batch(_examples(), [0, 3], 0)
    untrained = base.model(batch.input_ids_BT).logits
    again = load_tuned(base, adapter)
    fuse(again)
    inner_model(again).set_attn_implementation(attention_of(inner_model(model).config))
    before, after = (of.eval()(batch.input_ids_BT).logits for of in (model, again))
    if torch.equal(before, untrained):
        return "the step changes no output"
    return "" if torch.equal(before, after) else f"reloaded, it differs by {float((before - after).abs().max()):.1g}"


def _plan(config: PreTrainedConfig) -> str:
    """What a plan says of a step of this architecture."""
    train_spec = TrainSpec(batch_size=2)
    setting = PlanContext(config, "lm", 0, (), train_spec, 3, "cpu", "fp32", None)
    kernels = try_kernels(setting, LORA)
    work = workload(assumed_examples("lm", 2, 16), train_spec, 0, (kernels or Kernels(None, 0)).batching(train_spec))
    plan = plan_arm(setting, work, LORA, kernels, 10**10)
    if plan.flops_per_token is None:
        return "none"
    return "checked" if plan.is_checked else "estimate"


def _code(names: Sequence[str]) -> str:
    """Names by the module that holds them."""
    by_holder: dict[str, list[str]] = {}
    for name in names:
        holder, _, own = name.rpartition(".")
        by_holder.setdefault(holder, []).append(f"`{own}`")
    return (
        "<br>".join(f"{f'`{holder}`: ' if holder else ''}{', '.join(own)}" for holder, own in by_holder.items()) or "–"
    )


def _word(value: bool | None) -> str:
    return "–" if value is None else YES if value else NO


def table(rows: Sequence[Row]) -> str:
    """The table with its caption, and the list of what falls short."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft"))
    short = [f"- {row.name}: {row.problem}" for row in rows if row.problem]
    lines = [
        f"*Measured {date.today():%Y-%m-%d} on tiny, random models of {len(rows)} architectures with {libraries}, "  # noqa: DTZ011
        f"torch {torch.__version__.partition('+')[0]}, by `scripts/models_table.py`.*",
        "",
        "| " + " | ".join(TITLES) + " |",
        "| --- " * len(TITLES) + "|",
        *("| " + " | ".join(row.cells) + " |" for row in rows),
        "",
        *(["These fall short:", "", *short] if short else []),
    ]
    return "\n".join(lines).rstrip()


def main() -> None:
    """Write the table, or print some of its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ARCHITECTURES, []], metavar="NAME")
    names = parser.parse_args().names
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = [measured(name) for name in names or ARCHITECTURES]
    if names:
        print(table(rows))
        return
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{before}{begin}\n{table(rows)}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
