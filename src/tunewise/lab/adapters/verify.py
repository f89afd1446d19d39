"""Certificate that an adapter computes the same in every form in which it is used, on the same rows."""

from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tunewise.adapter.records import Agreement, Certificate, Check
from tunewise.lab.adapters.forms import Forms
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.adapters.merge import merge_in_fp32, read_back, store
from tunewise.lab.adapters.rows import ScoredRows
from tunewise.lab.models.library_errors import quiet_transformers
from tunewise.lab.models.load import load_tokenizer, padding_id
from tunewise.storage.files import reraise_as_study_error
from tunewise.storage.scratch import scratch_folder


@dataclass(frozen=True)
class Tolerances:
    """Largest differences between two forms; all are computed in fp32."""

    logits: float  # of an adapter saved again or merged in fp32
    metric: float  # nats per token, or a share of the rows, of a form stored in bf16


def verify(adapter: AdapterFolder, rows: ScoredRows, tolerances: Tolerances) -> Certificate:
    """Results of every form of the adapter on `rows`, and whether they agree. Raises ModelError as `merge` does."""
    adapter.require_mergeable()
    forms = Forms(rows.examples, padding_id(adapter.tokenizer), rows.has_answers)
    with scratch_folder() as folder, quiet_transformers():
        adapted = adapter.put_on(adapter.load_base("whole"))
        forms.measure("adapter", adapted)
        with reraise_as_study_error(folder):
            adapted.save_pretrained(folder / "adapter")
        again = AdapterFolder(folder / "adapter", adapter.base)
        forms.measure("read back", again.put_on(adapter.load_base("whole")))
        merged = merge_in_fp32(adapter, adapted)
        forms.measure("merged, fp32", merged)
        with reraise_as_study_error(folder):
            store(merged, adapter, "bf16", folder / "merged")
        forms.measure("merged, bf16", read_back(adapter, folder / "merged"))
        generation = getattr(merged, "generation_config", None) or merged.config  # a classifier has none
        stops_at = getattr(generation, "eos_token_id", None)
    return Certificate(
        adapter=str(adapter.path),
        base=adapter.base,
        scored_on=rows.source,
        num_rows=len(rows.examples),
        forms=tuple(forms.found),
        checks=(
            *_agreement(forms.found, tolerances),
            *_text_checks(adapter, rows, stops_at),
        ),
        note=rows.note,
    )


def _agreement(forms: list[Agreement], tolerances: Tolerances) -> Iterator[Check]:
    reference, *exact, rounded = forms
    for form in exact:
        yield Check(
            name=form.form,
            passed=form.max_logit_difference <= tolerances.logits,
            sentence=f"largest logit difference {form.max_logit_difference:.2g} (at most {tolerances.logits:g})",
        )
    changes = {"NLL": _change(rounded.nll, reference.nll), "accuracy": _change(rounded.accuracy, reference.accuracy)}
    told = {name: change for name, change in changes.items() if change is not None}
    listed = ", ".join(f"{name} {change:+.2g}" for name, change in told.items())
    yield Check(
        name=rounded.form,
        passed=all(abs(change) <= tolerances.metric for change in told.values()),
        sentence=f"{listed or 'no labels to score'} (at most {tolerances.metric:g})",
    )


def _change(value: float | None, before: float | None) -> float | None:
    return None if value is None or before is None else value - before


def _text_checks(adapter: AdapterFolder, rows: ScoredRows, stops_at: int | list[int] | None) -> Iterator[Check]:
    """Checks that text becomes the same ids in use, and that an answer ends with a token at which the model stops."""
    if adapter.has_own_tokenizer:
        base = load_tokenizer(adapter.base, adapter.base_config, False)
        agrees = _same_ids(adapter.tokenizer, base, rows)
        yield Check(
            name="tokenizer",
            passed=agrees,
            sentence="the adapter's tokenizer gives the base's ids" if agrees else "its ids differ from the base's",
        )
    if rows.template_agrees is not None:
        said = "are" if rows.template_agrees else "are not"
        sentence = f"conversations {said} read as the tokenizer's apply_chat_template writes them"
        yield Check(name="chat template", passed=rows.template_agrees, sentence=sentence)
    if rows.task != "sft":
        return
    yield Check(
        name="end of text",
        passed=rows.num_endless == 0,
        sentence=f"{rows.num_endless} of {len(rows.examples)} answers do not end with {adapter.tokenizer.eos_token!r}",
    )
    stops = stops_at if isinstance(stops_at, list) else [stops_at]
    yield Check(
        name="stopping",
        passed=adapter.tokenizer.eos_token_id in stops,
        sentence=f"the model stops at {stops}; the tokenizer's end of text is {adapter.tokenizer.eos_token_id}",
    )


def _same_ids(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, rows: ScoredRows) -> bool:
    texts = [example.prompt for example in rows.examples]
    same: bool = one(texts)["input_ids"] == other(texts)["input_ids"]
    return same
