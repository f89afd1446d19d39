"""Record of one run. Plain data, never torch."""

from typing import Literal

from pydantic import AwareDatetime

from tunewise.records.tuned import TrainableSummary
from tunewise.spec import Device, Frozen, RunSpec

SCHEMA_VERSION = 1


# failed: lost to the machine, which says nothing about the arm; timed-out: slower than machine.run_limit_seconds;
# out-of-memory: twice needed more memory than there is
Status = Literal["done", "diverged", "failed", "timed-out", "out-of-memory"]
LOST: tuple[Status, ...] = ("failed", "timed-out", "out-of-memory")  # nothing was scored
LOST_SEED: tuple[Status, ...] = ("failed", "timed-out")  # lost confirmations whose seed is left out of every arm
MAX_ATTEMPTS = 2  # attempts at a run that the machine loses


class Environment(Frozen):
    """Machine and versions of a run."""

    python: str
    system: str
    device: Device
    device_name: str
    num_cores: int
    threads: int
    memory_bytes: int
    versions: dict[str, str]  # full versions of the libraries that determine numbers
    machine: str | None = None  # 8 hex digits of a hash of its host name; None: not recorded
    gpu: str | None = None  # the same of the GPU's identity; None: none was used, or not recorded


class Memory(Frozen):
    """Peak resident (CPU) or allocated (CUDA) bytes of one phase. None if the system does not report them."""

    peak_bytes: int | None
    above_start_bytes: int | None  # above what the process used before the model was loaded


class Usage(Frozen):
    """Cost of a run. Seconds are wall-clock."""

    load_seconds: float
    train_seconds: float | None  # only optimizer steps; None: nothing was trained
    evaluate_seconds: float  # validation set during training; validation set, test and general text at the end; samples
    num_tokens: int  # tokens processed by training, padding excluded
    num_supervised_tokens: int  # of these, the tokens trained on
    load_memory: Memory
    train_memory: Memory | None  # optimizer steps; evaluations in between count in evaluate_memory
    evaluate_memory: Memory
    saved_bytes: int | None  # None: nothing was saved
    others_share: float | None = None  # share of CPU time used by other processes; None: not known
    num_continued: int = 0  # how often a later process resumed the run; work lost before that is not included
    # Tokens per micro-batch, if train.micro_batch_tokens did not fit in memory. None: as the study says.
    micro_batch_tokens: int | None = None
    started: AwareDatetime | None = None  # before the model was loaded; None: not recorded
    ended: AwareDatetime | None = None  # after the last score


class Evaluation(Frozen):
    """Means over the validation set after `step` optimizer steps."""

    step: int
    nll: float  # nats per supervised token (classify: per example)
    # Share of rows with the right label or, with `select_by`, the right text; None: NLL selects.
    accuracy: float | None
    right: str | None = None  # "0110...": which rows, in order, are right; None as above

    @property
    def selection_loss(self) -> float:
        """NLL, or the share of rows that are wrong with ties broken by NLL (tied ones: records/selection.py)."""
        if self.accuracy is None:
            return self.nll
        # One more correct example outweighs any NLL: the second term stays far below 1 / rows.
        return (1 - self.accuracy) + 1e-7 * min(self.nll, 100.0)


class Sample(Frozen):
    """Answer of a model to one test prompt: a text or a label."""

    example: str
    prompt: str
    output: str
    reference: str


class RunRecord(Frozen):
    """Result of one run. `record.json` is written last: if it exists, the run is done."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    spec: RunSpec
    status: Status
    message: str | None = None  # why it diverged or failed
    attempts: int = 1  # number of attempts, the failed ones included
    tuned: TrainableSummary | None = None
    num_steps: int = 0
    evaluations: tuple[Evaluation, ...] = ()
    selected_step: int | None = None  # the evaluation whose weights were scored
    # Of the weights that the optimizer updated, the share whose stored value changed: median over steps 2 to 20.
    updates_kept: float | None = None  # None: nothing was trained, or for only one step
    # Truncations with spread ranks: rank whose parameter count they have -> module -> its own rank.
    rank_patterns: dict[int, dict[str, int]] = {}
    samples: tuple[Sample, ...] = ()
    usage: Usage | None = None
    environment: Environment | None = None
    warnings: tuple[str, ...] = ()
    files: dict[str, str] = {}  # SHA-256 of every file of the run that must not change
    weights: dict[str, str] = {}  # SHA-256 of the saved weights, which `keep` may delete later
