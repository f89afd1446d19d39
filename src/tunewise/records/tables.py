"""The columns of every Parquet file that a study writes."""

import pyarrow as pa

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
