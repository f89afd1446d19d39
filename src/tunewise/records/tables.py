"""Columns of every Parquet file that a study writes."""

import pyarrow as pa

# scores.parquet: one row per scored example (or per window of general text), with the sufficient statistics of every
# metric.
SCORES_SCHEMA = pa.schema(
    [
        ("split", pa.string()),  # valid, test, general (the forgetting text), or valid of a truncation
        ("example", pa.string()),  # id of the row, the same in every run of the study
        ("unit", pa.string()),  # group of related rows: rows of one unit are not independent
        ("nll", pa.float64()),  # nats, summed over the example's supervised tokens (classify: of the label)
        ("num_tokens", pa.int64()),  # supervised tokens (classify: 1)
        ("num_bytes", pa.int64()),  # UTF-8 bytes of the supervised text (classify: 0)
        ("label", pa.int64()),  # -1: not a classification
        ("prediction", pa.int64()),  # -1: not a classification
        ("class_log_probabilities", pa.list_(pa.float64())),  # empty: not a classification
        # text that the model wrote for the prompt; all null if no metric of the study needs it
        ("generated", pa.string()),
        ("num_generated", pa.int64()),  # tokens, without the end-of-text token
        ("stopped", pa.bool_()),  # True: the model ended the text; False: truncated at samples.max_new_tokens
        ("statistics", pa.map_(pa.string(), pa.list_(pa.float64()))),  # metric -> its sums over examples
    ]
)


WRITTEN_COLUMNS = ("generated", "num_generated", "stopped", "statistics")


def truncated_split(split: str, rank: int, spread: bool) -> str:
    """Name of a truncated adapter's split in scores.parquet, such as 'valid:rank=8'."""
    return f"{split}:{'spread' if spread else 'rank'}={rank}"


def extracted_split(split: str, targets: str, rank: int | None) -> str:
    """Name of an extracted adapter's split, such as 'valid:qkv=8'; None: the split of the whole update."""
    return f"{split}:{targets}={rank or 'whole'}"


# spectrum.parquet of a confirmed full fine-tuning run that extracts adapters: its update, module by module.
SPECTRUM_SCHEMA = pa.schema(
    [
        ("module", pa.string()),  # full name of a linear module
        ("num_outputs", pa.int64()),
        ("num_inputs", pa.int64()),
        ("base_norm", pa.float64()),  # Frobenius norm of the weight before training
        ("singular_values", pa.list_(pa.float64())),  # of tuned - base, descending
        ("intruders", pa.int64()),  # of the tuned weight's 10 leading directions, those that the base lacks
    ]
)


# forgetting.parquet of a confirmed run: loss on the validation set and on each document of the general text, measured
# at the same steps in every arm, in the precision of training. Step 0 is the untrained model.
FORGETTING_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("valid_nll", pa.float64()),  # nats per supervised token, over the whole split
        ("unit", pa.string()),  # a document of the general text
        ("nll", pa.float64()),  # nats, summed over the document's tokens
        ("num_tokens", pa.int64()),
    ]
)


# <split>.parquet of the prepared data: one row per example, ready for training.
EXAMPLES_SCHEMA = pa.schema(
    [
        ("example", pa.string()),
        ("unit", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("supervised", pa.list_(pa.bool_())),  # True: this token is predicted and trained on (classify: all False)
        ("num_bytes", pa.int64()),  # UTF-8 bytes of the supervised text
        ("label", pa.int64()),  # -1: not a classification
        ("prompt", pa.string()),  # as rendered, for samples (lm: the start of the document)
        ("reference", pa.string()),  # completion, label or continuation, for samples
    ]
)


# An additional column, present only if the data gives several answers for one prompt.
REFERENCES_FIELD = pa.field("references", pa.list_(pa.string()))
