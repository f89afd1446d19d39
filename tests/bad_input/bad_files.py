"""Files that cannot be read as they are: formats, encodings, sizes."""

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bad_input_case import LABELS, PAIR, PAIRS, Case, data, lines, taken


def parquet(**columns: Any) -> bytes:
    return of_table(pa.table(columns))


def of_table(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def text_column(value: bytes) -> pa.Array:
    """A column of text with one cell of these bytes, whatever they are."""
    ends = pa.py_buffer((0).to_bytes(4, "little") + len(value).to_bytes(4, "little"))
    return pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(value)])


def csv(rows: list[dict[str, Any]], end: str = "\n", between: str = ",") -> bytes:
    return end.join([between.join(rows[0]), *(between.join(map(str, row.values())) for row in rows), ""]).encode()


TWICE = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
DATES = pa.array([2**60], pa.timestamp("ms"))
PACKED = gzip.compress(lines(*PAIRS))
LONG = "a" * (2**24 + 1)
BOMB = gzip.compress((b'{"text": "' + b" " * 1000 + b'"}\n') * 2**10, 9) * 100
CELL = parquet(text=["a" * (2**26 + 1)])

FORMATS = [
    data("an empty file", "t.jsonl", b"", "t.jsonl", "is empty", "at least one row"),
    data("nothing but white space", "t.csv", b" \n\n", "t.csv", "is empty"),
    data("a text file of blank lines", "t.txt", b" \n\n\n\n", "t.txt", "is empty"),
    data("an empty Parquet file", "t.parquet", b"", "t.parquet", "is empty"),
    data("a file of a kind that is not supported", "t.xlsx", b"PK\3\4", "'.xlsx'", "not supported", ".parquet"),
    taken(data("tabs between cells", "t.tsv", csv(LABELS, between="\t"), "classify")),
    taken(data("tabs between cells of a .csv file", "t.csv", csv(LABELS, between="\t"), "classify")),
    taken(data("bars between cells", "t.csv", csv(LABELS, between="|"), "classify")),
    taken(data("a delimiter of one's own", "t.csv", csv(LABELS, between="^"), "classify", data__delimiter="^")),
    taken(
        data(
            "quotes that are text between tabs",
            "t.tsv",
            csv([*LABELS, {"text": '"Odd film', "label": "a"}], between="\t"),
            "classify",
        )
    ),
    data(
        "a cell over two lines between tabs", "t.tsv", b'text\tlabel\n"a\nb"\tc\n', "line 2", "1 cells", "line breaks"
    ),
    data("another delimiter than the study says", "t.csv", csv(LABELS), "text,label", data__delimiter=";"),
    data(
        "a delimiter of two characters", "t.csv", csv(LABELS), "data.delimiter", "one character", data__delimiter="::"
    ),
    data("two delimiters in a header", "t.csv", b"text;label|x\na;b|c\n", "text;label|x", "data.columns"),
    data("a misspelled suffix", "t.jsnl", PAIR, "t.jsnl", "not supported", "Did you mean '.jsonl'", ".parquet"),
    data("a file without a suffix", "train", PAIR, "train", "not supported", "Known: .jsonl"),
    data("a ZIP archive", "t.zip", b"PK\3\4", "t.zip", "not supported", "Known: .jsonl"),
    data("packed with zstandard", "t.jsonl.zst", b"(\xb5/\xfd", "'.zst'", "not supported", ".gz of each"),
    taken(data("a suffix in capitals", "T.JSONL", lines(*PAIRS), "sft")),
    data("JSON Lines that end within a row", "t.jsonl", PAIR * 2 + b'{"prompt": "p", "co', "line 3", "broken JSON"),
    data("an array as a row", "t.jsonl", PAIR + b'["p", "c"]', "t.jsonl, line 2", "must be an object", "an array"),
    data("a JSON array in a .jsonl file", "t.jsonl", json.dumps(PAIRS).encode(), "an array", "name the file .json"),
    data("a string instead of an object", "t.jsonl", b'"hi"\n', "line 1", "must be an object", "a string"),
    data("null as a row", "t.jsonl", PAIR + b"null\n", "line 2", "must be an object", "null"),
    data("true as a row", "t.jsonl", b"true\n", "line 1", "must be an object", "true or false"),
    data("single quotes", "t.jsonl", b"{'text': 'a'}\n", "line 1", "broken JSON", "double quotes"),
    data("a comma at the end", "t.jsonl", b'{"text": "a",}\n', "line 1", "broken JSON"),
    data("a comment", "t.jsonl", b"// rows\n" + PAIR, "line 1", "broken JSON", "column 1"),
    data(
        "two objects on a line", "t.jsonl", PAIR.strip() + PAIR, "line 1", "Extra data", "exactly one complete object"
    ),
    data(
        "an object over several lines",
        "t.jsonl",
        b'{\n "text": "a"\n}\n',
        "line 1",
        "Each line must be exactly one complete object",
    ),
    data("a name twice in an object", "t.jsonl", b'{"text": "a", "text": "b"}', "line 1", "names 'text' twice"),
    data("a number of 5,000 digits", "t.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1", "broken JSON", "4300 digits"),
    data("100,000 brackets in each other", "t.jsonl", b"[" * 100_000, "t.jsonl, line 1", "nested too deep"),
    data("an object instead of an array", "t.json", b'{"data": []}', "t.json", "array of objects", "an object"),
    data("an empty array", "t.json", b"[]", "t.json", "no rows"),
    data("a number in an array of rows", "t.json", b'[{"text": "a"}, 3]', "t.json, row 2", "a number"),
    data("an array that does not end", "t.json", b'[{"text": "a"},\n', "t.json, line 2", "broken JSON"),
    taken(data("JSON Lines named .json", "t.json", lines(*PAIRS), "sft")),
    taken(
        data(
            "rows that are lists",
            "t.json",
            json.dumps([[row["text"], row["label"]] for row in LABELS]).encode(),
            "classify",
            data__columns={"text": "0", "label": "1"},
        )
    ),
    data("rows that are lists, without columns", "t.json", b'[["a", "b"]]', "columns (0, 1)", "data.columns"),
    data("half a line of JSON named .json", "t.json", PAIR + b'{"prompt": "p", "co', "t.json, line 2", "broken JSON"),
    data("an array that ends with a comma", "t.json", b'[{"text": "a"},\n]', "t.json, line 2", "broken JSON"),
    data("junk behind an array", "t.json", b'[{"text": "a"}]\n[]', "t.json, line 2", "Extra data"),
    data("a JSON array nested without end", "t.json", b"[" * 100_000, "t.json", "nested too deep"),
    data("a JSON text alone", "t.json", b'"text"', "t.json", "array of objects", "a string"),
    data("a header and no row", "t.csv", b"text,label\n", "t.csv", "no rows", "only a header"),
    data("a row with too many cells", "t.csv", b"text,label\na,b\na,b,c\n", "line 3", "3 cells", "2", "quotes"),
    data("a row with too few cells", "t.csv", b"text,label\na\n", "t.csv, line 2", "1 cells", "2"),
    data("a quote that does not end", "t.csv", b'text,label\n"a,b\n', "t.csv, line 2", "broken CSV"),
    data("text behind a quote", "t.csv", b'text,label\n"a"b,c\n', "t.csv, line 2", "broken CSV", "in quotes"),
    data("a column named twice", "t.csv", b"text,text\na,b\n", "t.csv, line 1", "'text' twice", "Rename"),
    taken(data("semicolons instead of commas", "t.csv", csv(LABELS, between=";"), "classify")),
    data("a CSV file without a header", "t.csv", csv(LABELS).partition(b"\n")[2], "text 0, a", "data.columns"),
    taken(data("carriage returns as ends of lines", "t.csv", csv(LABELS, end="\r"), "classify")),
    taken(data("line ends of Windows", "t.csv", csv(LABELS, end="\r\n"), "classify")),
    data("no Parquet inside", "t.parquet", b"PAR1 junk", "t.parquet", "not a complete Parquet"),
    data(
        "a truncated Parquet file",
        "t.parquet",
        parquet(text=["a"] * 999)[:200],
        "not a complete Parquet",
        "Write it again",
    ),
    data("a Parquet file without rows", "t.parquet", parquet(text=pa.array([], pa.string())), "no rows"),
    data("a Parquet file without columns", "t.parquet", of_table(pa.table({})), "no rows"),
    data("a Parquet column named twice", "t.parquet", of_table(TWICE), "'text' twice", "Rename"),
    data(
        "Parquet text that is not UTF-8",
        "t.parquet",
        parquet(text=text_column(b"\xff\xfe")),
        "does not fit its type",
        "utf-8",
    ),
    data(
        "a date after the year 9999", "t.parquet", parquet(text=DATES), "does not fit its type", "Write the file again"
    ),
    data("dates as text", "t.parquet", parquet(text=pa.array([0], pa.date32())), "row 1", "'text'", "of type date"),
    data("bytes as text", "t.parquet", parquet(text=[b"ab"] * 60), "row 1", "'text'", "of type bytes"),
    taken(
        data(
            "Parquet text stored as a dictionary",
            "t.parquet",
            parquet(
                text=pa.array([row["text"] for row in LABELS]).dictionary_encode(),
                label=[row["label"] for row in LABELS],
            ),
            "classify",
        )
    ),
    data("not compressed at all", "t.jsonl.gz", PAIR, "t.jsonl.gz", "gzip", "give it uncompressed"),
    data("half a gzip file", "t.jsonl.gz", PACKED[:40], "t.jsonl.gz", "gzip"),
    data("a gzip file whose check sum is wrong", "t.jsonl.gz", PACKED[:-8] + bytes(8), "gzip", "CRC"),
    data("junk behind a gzip file", "t.jsonl.gz", PACKED + b"junk", "t.jsonl.gz", "gzip"),
    data("packed twice", "t.jsonl.gz", gzip.compress(PACKED), "t.jsonl.gz, line 1", "UTF-8"),
    data("nothing, packed", "t.jsonl.gz", gzip.compress(b""), "t.jsonl.gz", "is empty"),
    data("junk in a gzipped Parquet file", "t.parquet.gz", gzip.compress(b"junk"), "not a complete Parquet"),
    taken(
        data(
            "two gzip files in one",
            "t.jsonl.gz",
            gzip.compress(lines(*PAIRS[:30])) + gzip.compress(lines(*PAIRS[30:])),
            "sft",
        )
    ),
]

ENCODINGS = [
    data("UTF-16 with its mark", "t.jsonl", PAIR.decode().encode("utf-16"), "line 1", "is UTF-16 or UTF-32", "UTF-8"),
    data("UTF-16 without its mark", "t.jsonl", PAIR.decode().encode("utf-16-be"), "line 1", "NUL", "UTF-16", "UTF-8"),
    data("UTF-16 in CSV", "t.csv", "text,label\na,b\n".encode("utf-16"), "t.csv, line 1", "is UTF-16"),
    data("UTF-16 as text", "t.txt", "a book".encode("utf-16"), "t.txt, line 1", "is UTF-16"),
    data("UTF-32", "t.jsonl", PAIR.decode().encode("utf-32"), "line 1", "Save it as UTF-8"),
    data("Latin-1", "t.txt", "caf\xe9".encode("latin-1"), "t.txt, line 1", "0xe9", "UTF-8"),
    data("Latin-1 in the third line", "t.csv", b"text,label\nok,a\ncaf\xe9,b\n", "t.csv, line 3", "0xe9", "UTF-8"),
    data("UTF-8 truncated within a character", "t.jsonl", PAIR + b'{"text": "\xe9\x9b', "line 2", "0xe9", "UTF-8"),
    data("lone surrogate as bytes", "t.jsonl", b'{"text": "\xed\xa0\x80"}', "line 1", "0xed", "UTF-8"),
    data("NUL bytes behind good rows", "t.jsonl", PAIR + b"\x00\x01\x02", "t.jsonl, line 2", "NUL", "UTF-8"),
    data("a NUL byte in CSV", "t.csv", b"text,label\na\0b,c\n", "t.csv, line 2", "NUL"),
    data("a NUL byte in a text", "t.txt", b"a\nb\0c", "t.txt, line 2", "NUL"),
    data("a NUL byte in a JSON array", "t.json", b'[\n{"text": "a\0"}]', "t.json, line 2", "NUL"),
    data("lone surrogate as an escape", "t.jsonl", b'{"prompt": "\\ud800", "completion": "c"}', "lone surrogate"),
    data("a mark of UTF-8 within the file", "t.jsonl", PAIR + b"\xef\xbb\xbf" + PAIR, "line 2", "BOM"),
    taken(data("a UTF-8 BOM at its beginning", "t.jsonl", b"\xef\xbb\xbf" + lines(*PAIRS), "sft")),
    taken(data("a mark of UTF-8 before CSV", "t.csv", b"\xef\xbb\xbf" + csv(LABELS), "classify")),
    taken(data("a NUL character as an escape", "t.jsonl", lines({"prompt": "a\0b", "completion": "c"}, *PAIRS), "sft")),
    taken(
        data(
            "marks that turn the direction of writing",
            "t.jsonl",
            lines(*({"prompt": f"\u202e{row['prompt']}\u2066", "completion": row["completion"]} for row in PAIRS)),
            "sft",
            "\\u202e",
        )
    ),
    taken(
        data(
            "escapes of a terminal",
            "t.jsonl",
            lines(*({"prompt": f"\x1b[2J{row['prompt']}", "completion": row["completion"]} for row in PAIRS)),
            "sft",
            "\\x1b[2J",
        )
    ),
    taken(
        data(
            "line separators of Unicode in a row",
            "t.jsonl",
            lines(*PAIRS).replace(b"question", "que\u2028stion".encode()),
            "sft",
        )
    ),
]

SIZES = [
    data("a small file that unpacks to 100 MiB", "t.jsonl.gz", BOMB, "t.jsonl.gz", "expands to more than 67,108,864"),
    data("a million blank lines", "t.jsonl", PAIR + b"\n" * 1_000_002, "blank lines", "Remove them"),
    data("one cell of 64 MiB in a small Parquet file", "t.parquet", CELL, "t.parquet", "the limit of 16,777,216"),
    data(
        "a line of 16 MB",
        "t.jsonl",
        f'{{"text": "{LONG}"}}\n'.encode(),
        "line 1",
        "the limit of 16,777,216",
        "Split it",
    ),
    data(
        "a cell of 16 MB over many lines",
        "t.csv",
        f'text\n"{LONG[::2]}\n{LONG[::2]}"\n'.encode(),
        "line 2",
        "16,777,216",
    ),
    data("a document of 17 MB", "t.txt", b"a" * (2**24 + 2**20), "16,777,216", "data.document_separator"),
    data("a long row without its quote", "t.csv", f'text\n"{LONG}'.encode(), "t.csv, line 2", "16,777,216"),
    taken(
        data(
            "a cell of 200 kB",
            "t.csv",
            csv([*LABELS, {"text": "b " * 100_000, "label": "a"}]),
            "classify",
            data__max_truncated=0.5,
        )
    ),
    data("a single document", "t.txt", b"a single document", "too few", "document_separator", r"\n\n\n", "data.valid"),
    data("two rows", "t.jsonl", lines(*PAIRS[:2]), "2 units (same prompt)", "data.valid and data.test"),
]

TOPICS: dict[str, list[Case]] = {
    "Formats": FORMATS,
    "Encodings": ENCODINGS,
    "Sizes": SIZES,
}
