"""The commented study file that `tunewise init` writes."""

import math
import shlex
from pathlib import Path

import yaml

from tunewise.cli.words import absolute_model, data_sources, require_there
from tunewise.errors import SpecError
from tunewise.storage.disk import write_output

TEMPLATE = """\
# A tunewise study: its model, data, arms and protocol. `{check}` shows what it would train on.
# Every key and its default: docs/reference/study.md. Unknown keys are errors.
model: {model}          # tiny (bundled), a folder, or a hub id
data:
{data}
  # columns: {{prompt: question, completion: answer}}   # if your columns have other names;
  # columns: {{text: question, label: kind}}            # the same for classes
  # limit: {{train: 1000}}                              # for a quick first try
  # max_length: 512                                   # tokens; longer examples are truncated and counted
arms:
  full: {{method: full}}
  lora-r8: {{method: lora, rank: 8, targets: qkv}}          # alpha is 32 by default
  lora-r16-all: {{method: lora, rank: 16, targets: all-linear}}
  # lora: {{method: lora, rank: auto, max_rank: 64}}  # smallest rank within the margin on the validation set
train: {{epochs: 2, batch_size: 16}}   # the same in every arm; batch_size = examples per optimizer step
tuning: {{rates: 3, cap: 7}}           # learning rates tried per arm; more if the best is at an edge
looks: [3, 5, 10]                    # seeds at which the verdict is read; later ones if inconclusive
# margin: 5% of gain                 # quality loss that you accept; or 0.02 (in the metric), or 1pp
"""


def write_template(model: str, data: str, path: Path) -> None:
    """Write a commented study file. Raises SpecError if it exists already or cannot be written."""
    if path.exists() or path.is_symlink():
        raise SpecError(f"{path} exists already. Choose another name with --to.")
    require_there(data)
    sources = "\n".join(f"  {split}: {_as_yaml(source)}" for split, source in data_sources(data).items())
    check = shlex.join(["tunewise", "check", str(path)])
    content = TEMPLATE.format(check=check, model=_as_yaml(absolute_model(model)), data=sources)
    write_output(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def _as_yaml(text: str) -> str:
    """The text as one line of YAML, in quotation marks if necessary."""
    return yaml.safe_dump(text, width=math.inf, allow_unicode=True).splitlines()[0]
