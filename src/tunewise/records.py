"""What happened: the record of one run, its scores, and the summary of the prepared data. Plain data, never torch."""

from typing import Literal

import pyarrow as pa
from pydantic import AwareDatetime

from tunewise.spec import Device, Frozen, Inputs, Precision, RunSpec, Split, Task

SCHEMA_VERSION = 1

# What about the user's data spoils figures in silence; counted row by row before anything is trained.
DataLaw = Literal["supervised", "truncation", "end-of-text", "duplicates", "boundary"]

# Between the parts of the first training example, in what is read and in what is trained on: a control character
# (record separator), because no text holds it.
BETWEEN_PARTS = "\x1e"

# failed: lost to the machine, which says nothing about the arm; timed-out: slower than machine.run_limit_seconds;
# out-of-memory: it twice needed more memory than there is
Status = Literal["done", "diverged", "failed", "timed-out", "out-of-memory"]
LOST: tuple[Status, ...] = ("failed", "timed-out", "out-of-memory")  # nothing was scored
LOST_SEED: tuple[Status, ...] = ("failed", "timed-out")  # of a confirmation: its seed is left out of every arm
MAX_ATTEMPTS = 2  # at a run that the machine loses

# scores.parquet: one row per scored example (or per window of general text); the sufficient statistics of every metric.
SCORES_SCHEMA = pa.schema(
    [
        ("split", pa.string()),  # valid, test, general (the forgetting text), or valid of a truncation
        ("example", pa.string()),  # id of the row, the same in every run of the study
        ("unit", pa.string()),  # rows of one unit are not independent
        ("nll", pa.float64()),  # nats, summed over the example's supervised tokens (classify: of the label)
        ("num_tokens", pa.int64()),  # supervised tokens (classify: 1)
        ("num_bytes", pa.int64()),  # UTF-8 bytes of the supervised text (classify: 0)
        ("label", pa.int64()),  # -1: not a classification
        ("prediction", pa.int64()),  # -1: not a classification
        ("class_log_probabilities", pa.list_(pa.float64())),  # empty: not a classification
        # what the model wrote for the prompt; all null where no metric of the study asks for it
        ("generated", pa.string()),
        ("num_generated", pa.int64()),  # tokens, the end-of-text token not counted
        ("stopped", pa.bool_()),  # it ended by itself; False: it was cut off at samples.max_new_tokens
        ("statistics", pa.map_(pa.string(), pa.list_(pa.float64()))),  # metric -> what it sums over examples
    ]
)
WRITTEN_COLUMNS = ("generated", "num_generated", "stopped", "statistics")


def truncated_split(split: str, rank: int, spread: bool) -> str:
    """What the rows of a truncated adapter are called in scores.parquet: 'valid:rank=8'."""
    return f"{split}:{'spread' if spread else 'rank'}={rank}"


def extracted_split(split: str, targets: str, rank: int | None) -> str:
    """What the rows of an adapter cut out of full fine-tuning are called: 'valid:qkv=8'; None: of the whole change."""
    return f"{split}:{targets}={rank or 'whole'}"


# spectrum.parquet of a confirmed run of full fine-tuning that extracts adapters: what it changed, module by module.
SPECTRUM_SCHEMA = pa.schema(
    [
        ("module", pa.string()),  # full name of a linear module
        ("num_outputs", pa.int64()),
        ("num_inputs", pa.int64()),
        ("base_norm", pa.float64()),  # Frobenius norm of the weight before
        ("singular_values", pa.list_(pa.float64())),  # of tuned - base, falling
        ("intruders", pa.int64()),  # of the tuned weight's 10 leading directions, those that the base does not have
    ]
)

# forgetting.parquet of a confirmed run: loss on valid and on each document of the general text, measured at the same
# steps in every arm, in the precision of training; step 0 is the untrained model.
FORGETTING_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("valid_nll", pa.float64()),  # nats per supervised token, of the whole split
        ("unit", pa.string()),  # a document of the general text
        ("nll", pa.float64()),  # nats, summed over the document's tokens
        ("num_tokens", pa.int64()),
    ]
)

# <split>.parquet of the prepared data: one row per example, ready for the loop.
EXAMPLES_SCHEMA = pa.schema(
    [
        ("example", pa.string()),
        ("unit", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("supervised", pa.list_(pa.bool_())),  # True: this token is predicted and trained on (classify: all False)
        ("num_bytes", pa.int64()),  # UTF-8 bytes of the supervised text
        ("label", pa.int64()),  # -1: not a classification
        ("prompt", pa.string()),  # as rendered, for samples (lm: the start of the document)
        ("reference", pa.string()),  # the completion, label or continuation, for samples
    ]
)
# A further column where the data gives several answers for one prompt, and only there.
REFERENCES_FIELD = pa.field("references", pa.list_(pa.string()))


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
        """The NLL; for a classification the error rate, equal ones ordered by NLL (tied ones: selection.py)."""
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


class Tuned(Frozen):
    """What learned."""

    trainable_parameters: int
    total_parameters: int
    scale: float | None  # effective LoRA scale; None: not LoRA
    num_target_modules: int | None  # None: no target modules
    linear_share: float | None  # share of the weights of the base's body inside the targets
    rank_parameters: int | None = None  # what one more rank in every target adds; None: not LoRA
    parameter_groups: tuple[str, ...]  # one line each: names, count, rate, decay
    learned_dtypes: tuple[str, ...] = ()  # in which the weights that learn are stored: 'float32'


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


class SplitSummary(Frozen):
    """One split as it is trained on or scored."""

    split: Split
    source: str
    rows_read: int
    rows: int
    units: int
    tokens: int
    supervised_tokens: int
    truncated_rows: int
    truncated_tokens: int
    duplicates_dropped: int


class LawCount(Frozen):
    """How many rows of a split a law about data concerns, and where to look."""

    law: DataLaw
    split: Split
    count: int
    of: int  # rows that it could concern
    examples: tuple[str, ...]  # ids of the first of them, three at most


class DataSummary(Frozen):
    """data.json: what became of the user's data, model and machine before anything was trained."""

    key: str  # names the folder of the prepared data
    task: Task
    labels: tuple[str, ...]  # classify: the class names in order of their ids
    splits: tuple[SplitSummary, ...]
    example_prompt: str  # the first training example: what is read ...
    example_supervised: str  # ... and what is trained on
    notes: tuple[str, ...]  # what figures and findings do not tell: splits made, rows left out or drawn
    chat_template: str | None = None  # the study's own; saved with the tuned models' tokenizer
    is_chat: bool | None = None  # prompts are conversations (sft); None: not recorded
    near_duplicates: int  # test inputs that are nearly a training input
    laws: tuple[LawCount, ...] = ()  # every law that concerns the task, split by split; (): not counted
    exact_duplicates: int | None = None  # test inputs that are a training input, too; None: not counted
    inputs: Inputs
    existing: dict[str, str] = {}  # arm -> SHA-256 of the weights it brings
    model_type: str
    hidden_size: int
    num_new_parameters: int  # weights the checkpoint did not provide (a new head)
    head_modules: tuple[str, ...] | None = None  # that learn in every arm; None: not recorded
    arms: dict[str, Tuned]  # what each arm will train; no parameter groups yet
    device: Device
    precision: Precision
    threads: int

    def split(self, name: Split) -> SplitSummary:
        """The summary of one split."""
        return next(s for s in self.splits if s.split == name)
