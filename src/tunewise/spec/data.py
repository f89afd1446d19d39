"""Data of a study: sources, splits and limits."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tunewise.spec.frozen import Frozen, canonical_json
from tunewise.spec.words import SPLIT_NAMES, Source, Split
from tunewise.text.suggest import near_miss

MAX_SEED = 1_000_000  # of a study


class Limits(Frozen):
    """Most rows of each split, drawn evenly over the file. None: all rows."""

    train: int | None = Field(None, ge=1)
    valid: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class SplitShares(Frozen):
    """Shares of the units that become the validation and test sets if the data has no files for them."""

    valid: float = Field(0.1, gt=0, lt=0.5)
    test: float = Field(0.1, gt=0, lt=0.5)


# Names that data.columns may map: columns, and `role` and `content` inside the turns of `messages`.
COLUMNS = ("prompt", "completion", "references", "messages", "role", "content", "tools", "text", "label")


CHAT_ROLES = ("user", "assistant", "system", "tool")


class DataSpec(Frozen):
    """Where the examples are and how they become text.

    A source is a file (jsonl, json, csv, tsv, parquet, arrow, txt, each also as .gz), a folder of such files, a hub id
    of `datasets` (`owner/name` or `owner/name:configuration`), `builtin:stdlib` or `builtin:tickets`.
    """

    train: Source
    valid: Source | None = None
    test: Source | None = None
    columns: dict[str, str | dict[str, str]] = Field(
        {},
        description="column names, ours -> the file's: {prompt: question, completion: answer}; for one split only: "
        "{test: {prompt: text}}",
    )
    roles: dict[str, str] = Field(
        {}, description="speakers of the turns, our name -> the file's: {user: USER, assistant: SYSTEM}"
    )
    delimiter: str | None = Field(
        None, description="separator of cells in a csv or tsv file, such as ';' or tab; None: from suffix and header"
    )
    template: str = Field("{prompt}", description="template of the prompt, with the row's columns in braces")
    separator: str = Field("\n", description="text between prompt and completion; not trained on")
    chat_template: Source | None = Field(
        None, description="Jinja file, or name of one of the tokenizer's templates; None: its default"
    )
    document_separator: str = Field("\n\n\n", min_length=1, description="text between documents of a txt file")
    group: str | None = Field(
        None, description="column that groups related rows (units): rows with equal values are not independent"
    )
    split: SplitShares = SplitShares()
    limit: Limits = Limits()
    max_length: int = Field(512, ge=8, description="longest example in tokens; longer ones are truncated and counted")
    max_truncated: float = Field(
        0.05, ge=0, le=1, description="largest share of rows that may be truncated; more is an error"
    )
    duplicates: Literal["drop", "error", "keep"] = "drop"
    resample: bool = Field(
        False,
        description="every confirmation seed draws its own training and validation sets from the rows of both; "
        "needs a validation set that is split off",
    )

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str | dict[str, str]]) -> dict[str, str | dict[str, str]]:
        for name, column in columns.items():
            if isinstance(column, dict):
                if name not in SPLIT_NAMES:
                    raise ValueError(
                        f"'{name}' has columns of its own but is not a split.{near_miss(name, SPLIT_NAMES)} "
                        f"Splits: {', '.join(SPLIT_NAMES)}."
                    )
                cls._known_columns(dict(column))
            elif name not in COLUMNS:
                raise ValueError(f"unknown column '{name}'.{near_miss(name, COLUMNS)} Known: {', '.join(COLUMNS)}.")
        return columns

    @model_validator(mode="after")
    def _has_one_pool(self) -> Self:
        if self.resample and self.valid is not None:
            raise ValueError(
                f"resample: true draws training and validation rows from one source, but data.valid is "
                f"{self.valid!r:.80}, which may differ from data.train. Remove data.valid to split it off data.train, "
                "or remove data.resample"
            )
        return self

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, roles: dict[str, str]) -> dict[str, str]:
        for name in roles:
            if name not in CHAT_ROLES:
                raise ValueError(f"unknown role '{name}'.{near_miss(name, CHAT_ROLES)} Known: {', '.join(CHAT_ROLES)}.")
        if twice := [theirs for theirs in roles.values() if [*roles.values()].count(theirs) > 1]:
            raise ValueError(f"'{twice[0]}' is mapped to two roles. Map it to one")
        return roles

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise ValueError(f"must be one character such as ';' or '|', or tab, but got {delimiter!r:.40}")
        return delimiter

    def columns_of(self, split: Split) -> dict[str, str]:
        """Column names, ours -> the file's, for the rows of one split."""
        own = self.columns.get(split)
        shared = {name: column for name, column in self.columns.items() if isinstance(column, str)}
        return {**shared, **own} if isinstance(own, dict) else shared

    def of_split(self, split: Split) -> Self:
        """The same specification with only the columns of one split."""
        return self.model_copy(update={"columns": self.columns_of(split)})


# --- several datasets

MAX_SETS = 50
LOOKS_OF_SETS = (3,)  # one look: more seeds cannot show how datasets differ


class DataOfSets(BaseModel):
    """`data` of a study of several datasets: their names with the keys of each; other keys are shared."""

    model_config = ConfigDict(extra="allow")
    sets: dict[str, dict[str, Any]]


def _as_given(data: object) -> object:
    return data


# a study takes `data.sets` apart before it reads `data`, so the schema names both forms
StudyData = Annotated[DataSpec, BeforeValidator(_as_given, json_schema_input_type=DataSpec | DataOfSets)]


def separated(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `sets` as the keys `data` (the first set) and `sets`, each with the keys that they share.

    Raises ValueError if `sets` is not a mapping of names to keys, or if `data` names files beside it.
    """
    shared, sets = {key: value for key, value in data.items() if key != "sets"}, data["sets"]
    if not isinstance(sets, Mapping) or not sets or not all(isinstance(own, Mapping) for own in sets.values()):
        raise ValueError("data.sets must be names with their data, such as {a: {train: a.jsonl}, b: {train: b.jsonl}}")
    if beside := [key for key in ("train", "valid", "test") if key in shared]:
        raise ValueError(f"data.{beside[0]}: with data.sets, every set names its own files. Move it into a set")
    each = {str(name): {**shared, **own} for name, own in sets.items()}
    return {"data": next(iter(each.values())), "sets": each}


def check_sets(sets: Mapping[str, DataSpec], looks: tuple[int, ...], seed: int) -> None:
    """Raise ValueError if a study cannot have these sets."""
    if not 2 <= len(sets) <= MAX_SETS:
        raise ValueError(
            f"data.sets needs 2 to {MAX_SETS} sets, but got {len(sets)}. For one set, write its keys in data"
        )
    seen: dict[str, str] = {}
    for name, data in sets.items():
        content = canonical_json(data.model_dump(mode="json"))
        if content in seen:
            raise ValueError(f"data.sets: '{seen[content]}' and '{name}' are the same. Remove one")
        seen[content] = name
    if len(looks) > 1:
        raise ValueError(f"looks: several datasets have one look, such as [3], but got {list(looks)}")
    if seed >= MAX_SEED // MAX_SETS:
        raise ValueError(f"seed: must be below {MAX_SEED // MAX_SETS} with data.sets, but got {seed}")
