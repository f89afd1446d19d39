"""What the right answers are: computed when asked, or read from the learner's own study and files.

Each function gets the words of the answer and returns the right values in their order. A word that names the learner's
own folder or arm is returned as it is.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tunewise.adapter.file import LoraAdapter, read_adapter
from tunewise.assets import ASSETS
from tunewise.desk.report.wording import OUTCOMES
from tunewise.desk.statistics.verdict import MarginTest, judge
from tunewise.errors import StudyError
from tunewise.text.suggest import lookup

Value = str | int | float
Words = Sequence[str]

MILLION = 10**6
MARGIN = 0.02
INTERVALS = ((-0.015, -0.002), (0.004, 0.018), (0.015, 0.031), (0.024, 0.040))
DIFFERENCES = (0.010, 0.014, 0.006, 0.012)
TICKET = 100  # the row of skill 5
LARGEST_RESULT = 64 * 2**20  # bytes of result.json; that of 100,000 steps has 2 MB


def costs_of_full(_: Words) -> Sequence[Value]:
    """Skill 1."""
    from tunewise.lab import exercises

    stored, trained = exercises.memory_of_full()
    return stored, trained, 10  # a billion parameters of so many bytes take as many GB


def shapes(_: Words) -> Sequence[Value]:
    """Skill 2."""
    from tunewise.lab import exercises

    return exercises.shapes()


def parameters(_: Words) -> Sequence[Value]:
    """Skill 3."""
    from tunewise.lab import exercises

    return (exercises.parameters_of_gpt2(),)


def first_gradients(_: Words) -> Sequence[Value]:
    """Skill 4."""
    from tunewise.lab import exercises

    return exercises.first_gradients()


def tokens(_: Words) -> Sequence[Value]:
    """Skill 5."""
    from tunewise.lab import exercises

    return exercises.tokens_of_a_ticket(TICKET)


def conversions(_: Words) -> Sequence[Value]:
    """Skill 6."""
    nll = -math.log(1 / 8)
    return nll, math.exp(nll), nll / math.log(2)


def chosen_rate(words: Words) -> Sequence[Value]:
    """Skill 7: what the records of the learner's study say."""
    folder, name, *_ = words
    arm = lookup({arm.name: arm for arm in _report(folder).tuned_arms()}, name, "arm")
    if arm.learning_rate is None:
        raise StudyError(f"no learning rate is chosen yet for '{name}' in {folder}. Run `tunewise compare` to its end.")
    return folder, name, arm.learning_rate, "no" if arm.bracket is None else "yes"


def fresh_adapter(words: Words) -> Sequence[Value]:
    """Skill 8: what the adapter that the learner saved before training holds."""
    folder = words[0]
    adapter = read_adapter(Path(folder))
    trained = [name for name, factors in adapter.modules.items() if factors.B_MR.any()]
    if trained:
        raise StudyError(f"B of '{trained[0]}' in {folder} is not zero. Save the adapter before the first step.")
    still = [name for name, factors in adapter.modules.items() if not factors.A_RN.any()]
    if still:
        raise StudyError(f"A of '{still[0]}' in {folder} is zero, so neither factor would ever get a gradient.")
    base = str(adapter.config.get("base_model_name_or_path") or "")
    if base and Path(base).resolve() == ASSETS / "tiny":
        raise StudyError(f"{folder} is an adapter of the bundled base, which note 03 uses. Take another model.")
    scales = {factors.scale for factors in adapter.modules.values()}
    if len(scales) > 1:
        raise StudyError(f"the modules of {folder} have {len(scales)} scales. Use one rank and one alpha.")
    return folder, float(scales.pop()), len(adapter.modules)


def own_layer(_: Words) -> Sequence[Value]:
    """Skill 9: the same layer by peft."""
    from tunewise.lab import exercises

    return exercises.one_step()


def two_results(words: Words) -> Sequence[Value]:
    """Skill 10: what the learner's own two runs of the example script ended with."""
    full, lora, *_ = words
    nll = {folder: _nll(folder, method) for folder, method in ((full, "full"), (lora, "LoRA"))}
    if not list(Path(full).glob("*.safetensors")):
        raise StudyError(f"{full} holds no model.safetensors. Run `examples/finetune_lora.py --method full` again.")
    return full, lora, "full" if nll[full] < nll[lora] else "lora", _size(read_adapter(Path(lora)))


def merged(_: Words) -> Sequence[Value]:
    """Skill 11."""
    from tunewise.lab import exercises

    return exercises.merged_in_bf16(0.003, 0.005)


def interval(_: Words) -> Sequence[Value]:
    """Skill 12."""
    found = stats.ttest_1samp(np.array(DIFFERENCES), 0.0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def verdicts(_: Words) -> Sequence[Value]:
    """Skill 13: by the function that decides in every report."""
    tests = [MarginTest(low - MARGIN, high - MARGIN, low + MARGIN) for low, high in INTERVALS]
    return [OUTCOMES[judge(*ends, [test]).outcome] for ends, test in zip(INTERVALS, tests, strict=True)]


def memory(_: Words) -> Sequence[Value]:
    """Skill 14."""
    from tunewise.lab import exercises

    return [number / MILLION for number in exercises.memory_of_lora()]


def own_verdict(words: Words) -> Sequence[Value]:
    """Skill 15: the verdict of the learner's study of their own data."""
    folder, name, _ = words
    report = _report(folder)
    if any(source.startswith("builtin:") for source in report.study.sources.values()):
        raise StudyError(f"the study in {folder} reads bundled data. This skill needs a study of data of your own.")
    if report.no_verdict:
        raise StudyError(f"the study in {folder} has no verdicts: {report.no_verdict}")
    verdict = lookup({verdict.arm: verdict for verdict in report.verdicts}, name, "arm with a verdict")
    return folder, name, OUTCOMES[verdict.outcome]


ANSWERS: Mapping[int, Callable[[Words], Sequence[Value]]] = {
    1: costs_of_full,
    2: shapes,
    3: parameters,
    4: first_gradients,
    5: tokens,
    6: conversions,
    7: chosen_rate,
    8: fresh_adapter,
    9: own_layer,
    10: two_results,
    11: merged,
    12: interval,
    13: verdicts,
    14: memory,
    15: own_verdict,
}


def _report(folder: str) -> Any:
    from tunewise.commands.report import read_reports

    return read_reports([folder])[0].report


def _size(adapter: LoraAdapter) -> int:
    """Trained parameters: the factors, and a head that was saved with them."""
    factors = sum(f.A_RN.size + f.B_MR.size for f in adapter.modules.values())
    return int(factors + sum(other.size for other in adapter.others.values()))


def _nll(folder: str, method: str) -> float:
    """Test NLL in a folder of the example script. Raises StudyError unless its loss fell and the method is that one."""
    path = Path(folder) / "result.json"
    again = "Run `python examples/finetune_lora.py` with `--out` and give that folder."
    if not path.is_file() or path.stat().st_size > LARGEST_RESULT:
        raise StudyError(f"there is no result.json of the example script in {folder}. {again}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        nll, losses, trained_by = float(content["nll"]), content["losses"], str(content["method"])
        fell = float(losses[-1]) < float(losses[0])
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise StudyError(f"{path} is not a result of the example script. {again}") from error
    if not trained_by.startswith(method):
        raise StudyError(f"{path} is of the method '{trained_by:.40}', and not of {method}. {again}")
    if not (math.isfinite(nll) and fell):
        raise StudyError(f"the loss in {path} did not fall. Train longer, or with another learning rate.")
    return nll
