"""Read results of huggingface/peft's method_comparison suite as rows of the comparison table."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewise.desk.report.across import Row
from tunewise.desk.statistics.paired import MetricSummary
from tunewise.errors import StudyError
from tunewise.spec import Frozen


class _TrainInfo(Frozen, extra="ignore"):
    status: str
    train_time: float
    file_size: int
    num_trainable_params: int
    metrics: tuple[dict[str, float | int | None], ...]
    accelerator_memory_max: int | None = None
    cuda_memory_max: int | None = None  # its name in older results


class _TrainConfig(Frozen, extra="ignore"):
    model_id: str
    seed: int
    optimizer_kwargs: dict[str, Any] = {}


class _RunInfo(Frozen, extra="ignore"):
    experiment_name: str
    train_config: _TrainConfig


class _PeftResult(Frozen, extra="ignore"):
    run_info: _RunInfo
    train_info: _TrainInfo


def peft_result(path: Path) -> tuple[Row, str]:
    """The row of one result JSON of huggingface/peft's method_comparison/MetaMathQA, and a remark on its limits.

    Accuracy is from the suite's own test set (GSM8K), one seed and one learning rate, without an interval. Memory is
    the amount that the accelerator reserved over the whole process. Raises StudyError for any other file.
    """
    try:
        result = _PeftResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise StudyError(
            f"{path} is not a result of peft's method_comparison suite. Give the JSON file that one of its runs wrote."
        ) from error
    info, config = result.train_info, result.run_info.train_config
    tested = [m["test accuracy"] for m in info.metrics if m.get("test accuracy") is not None]
    if info.status != "success" or not tested:
        raise StudyError(f"{path} has no test accuracy (status: {info.status}). Give the result of a finished run.")
    accuracy = tested[-1]
    row = Row(
        source=path.name,
        arm=result.run_info.experiment_name,
        metric="accuracy",
        quality=MetricSummary(mean=accuracy, low=None, high=None, per_seed=(accuracy,)),
        outcome=None,
        learning_rate=config.optimizer_kwargs.get("lr"),
        trainable_parameters=info.num_trainable_params,
        train_seconds=info.train_time,
        peak_memory_bytes=info.accelerator_memory_max or info.cuda_memory_max,
        saved_bytes=info.file_size,
    )
    remark = (
        f"{path.name}: {config.model_id} on the suite's own data, with one seed ({config.seed}), one learning rate and "
        "no interval. It is not the same measurement as any study here."
    )
    return row, remark
