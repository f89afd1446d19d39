"""What happened: the record of one run, its scores, and the summary of the prepared data. Plain data, never torch."""

from typing import Literal

from pydantic import AwareDatetime

from tunewise.records.tuned import Tuned
from tunewise.spec import Device, Frozen, RunSpec

SCHEMA_VERSION = 1


# failed: lost to the machine, which says nothing about the arm; timed-out: slower than machine.run_limit_seconds;
# out-of-memory: it twice needed more memory than there is
Status = Literal["done", "diverged", "failed", "timed-out", "out-of-memory"]
LOST: tuple[Status, ...] = ("failed", "timed-out", "out-of-memory")  # nothing was scored
LOST_SEED: tuple[Status, ...] = ("failed", "timed-out")  # of a confirmation: its seed is left out of every arm
MAX_ATTEMPTS = 2  # at a run that the machine loses


class Environment(Frozen):
    """Where a run ran."""

    python: str
    system: str
    device: Device
    device_name: str
    num_cores: int
    threads: int
    memory_bytes: int
    versions: dict[str, str]  # full versions of the libraries that decide numbers


class Memory(Frozen):
    """Peak resident (CPU) or allocated (CUDA) bytes of one phase; None where the system cannot say."""

    peak_bytes: int | None
    above_start_bytes: int | None  # above what the process held before the model was loaded


class Usage(Frozen):
    """What a run cost. Seconds are wall-clock."""

    load_seconds: float
    train_seconds: float | None  # optimizer steps only; None: nothing was trained
    evaluate_seconds: float  # valid during training, valid/test/general at the end, samples
    num_tokens: int  # processed by training, padding excluded
    num_supervised_tokens: int  # of these, trained on
    load_memory: Memory
    train_memory: Memory | None  # optimizer steps and all they need; evaluations in between are in evaluate_memory
    evaluate_memory: Memory
    saved_bytes: int | None  # None: nothing was saved
    others_share: float | None = None  # of the machine's CPU time, taken by other processes meanwhile; None: not known
    num_continued: int = 0  # how often a later process took over; what the lost part had done since is not in here
    # Tokens of a batch in memory at once, where there was none for train.micro_batch_tokens; None: as the study says.
    micro_batch_tokens: int | None = None
    started: AwareDatetime | None = None  # before the model was loaded; None: not recorded
    ended: AwareDatetime | None = None  # after the last score


class Evaluation(Frozen):
    """Means over the valid split after `step` optimizer steps."""

    step: int
    nll: float  # nats per supervised token (classify: per example)
    accuracy: float | None  # None: not a classification
    right: str | None = None  # "0110...": which rows, in order, got their label; None: not a classification

    @property
    def selection_loss(self) -> float:
        """The NLL; for a classification the error rate, equal ones ordered by NLL (tied ones: records/selection.py)."""
        if self.accuracy is None:
            return self.nll
        # One example more or less outweighs any NLL: the second term stays far below 1 / rows.
        return (1 - self.accuracy) + 1e-7 * min(self.nll, 100.0)


class Sample(Frozen):
    """What a model writes (or which label it gives) for one test prompt."""

    example: str
    prompt: str
    output: str
    reference: str


class RunRecord(Frozen):
    """What one run produced. `record.json` is written last: where it exists, the run is done."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    spec: RunSpec
    status: Status
    message: str | None = None  # why it diverged or failed
    attempts: int = 1  # how often a failed run was tried
    tuned: Tuned | None = None
    num_steps: int = 0
    evaluations: tuple[Evaluation, ...] = ()
    selected_step: int | None = None  # the evaluation whose weights were scored
    # Of the weights that the optimizer moved, the share whose stored value changed: median over steps 2 to 20.
    updates_kept: float | None = None  # None: nothing was trained, or for one step only
    # Of truncations with the parameters of a rank spread over the modules: that rank -> module -> its own rank.
    rank_patterns: dict[int, dict[str, int]] = {}
    samples: tuple[Sample, ...] = ()
    usage: Usage | None = None
    environment: Environment | None = None
    warnings: tuple[str, ...] = ()
    files: dict[str, str] = {}  # SHA-256 of every file of the run that must stay as it is
    weights: dict[str, str] = {}  # SHA-256 of the saved weights, which `keep` may delete later
