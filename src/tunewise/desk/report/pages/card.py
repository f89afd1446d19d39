"""The model card of a trained model: what it is, its scores, and how to load it."""

from jinja2 import Environment, StrictUndefined

from tunewise.assets import ASSETS
from tunewise.desk.metrics.metrics import compute, metric_named, metrics_of
from tunewise.desk.metrics.scores import read_scores
from tunewise.records import RunRecord
from tunewise.spec import TASKS, DataSpec, StudySpec
from tunewise.storage.disk import write_atomically
from tunewise.storage.ledger import Ledger

CARD = """---
base_model: {{ base }}
library_name: {{ library }}
tags: [tunewise, {{ tags }}]
pipeline_tag: {{ pipeline }}
---
# {{ arm }} from the study {{ study }}

{{ method }} on `{{ base }}`, trained with tunewise. This run has the best validation score among the confirmed runs of
the arm. Run `{{ run_id }}`, learning rate {{ rate }}, seed {{ seed }}, weights of step {{ step }} of {{ steps }}.

| on the test set, fp32 | this model |
| --- | --- |
{% for name, value in figures -%}
| {{ name }} | {{ value }} |
{% endfor %}
These scores are from this run only. The comparison with the other arms, over all seeds, is in the study's report.

## Load the model

```python
{{ snippet }}
```
{%- if reads %}

{{ reads }}
{%- endif %}
"""

ADAPTER = """from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained({base!r}, dtype="float32"{labels})
model = PeftModel.from_pretrained(base, {folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})"""

WHOLE = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})"""


def write_card(ledger: Ledger, study: StudySpec, record: RunRecord) -> None:
    """Write README.md into the deliverable folder of the record's arm."""
    folder = ledger.best_folder(record.spec.arm)
    is_adapter = (folder / "adapter_config.json").is_file()
    classifies = TASKS[record.spec.task].has_classes
    labels = dict(enumerate(ledger.data_summary().labels))
    test = read_scores(ledger.scores_path(record.run_id), "test")
    names = metrics_of(record.spec.task, [metric.name for metric in record.spec.metrics])
    base = base_path(study.model)
    snippet = (ADAPTER if is_adapter else WHOLE).format(
        auto="AutoModelForSequenceClassification" if classifies else "AutoModelForCausalLM",
        base=base,
        folder=str(folder.resolve()),
        labels=f", id2label={labels!r}" if classifies else "",
    )
    content = (
        Environment(undefined=StrictUndefined, autoescape=False)
        .from_string(CARD)
        .render(
            base=base,
            library="peft" if is_adapter else "transformers",
            tags=record.spec.method.method,
            pipeline="text-classification" if classifies else "text-generation",
            arm=record.spec.arm,
            study=study.name,
            method=record.spec.method.in_words(),
            run_id=record.run_id,
            rate=f"{record.spec.learning_rate:g}",
            seed=record.spec.seed,
            step=record.selected_step,
            steps=record.num_steps,
            figures=[(metric_named(name).label, f"{compute(name, test):.6g}") for name in names],
            snippet=snippet,
            reads=_prompt_form(study.data) if record.spec.task == "sft" else "",
        )
    )
    write_atomically(folder / "README.md", content)


def _prompt_form(data: DataSpec) -> str:
    """The prompt format used in training."""
    return (
        f"In training, a prompt was formatted as `{data.template!r}`, followed by `{data.separator!r}` (chat messages: "
        "with the tokenizer's chat template). Format your prompts in the same way."
    )


def base_path(model: str) -> str:
    """Name or path for `from_pretrained`: the folder of a bundled model, else the model's own name."""
    bundled = ASSETS / model
    return str(bundled) if bundled.is_dir() else model
