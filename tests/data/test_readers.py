"""Rows as the file says, whatever the format; what is refused, and where."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from sources import COMPRESS, columns, source, zstd

from hflm import tasks
from hflm.core import DataError
from hflm.data import BadRow, Row, Sources, describe_source, load_rows, read_documents
from hflm.data.readers import base, make_options, read_rows, read_texts
from hflm.tasks import Qa, Sentiment

NASTY = [
    "NA", "null", "None", "n/a", "nan", "true", "False", "01234", "1.10", "-0", "1e5", "2020-01-01T00:00:00Z", "  x ",
    "12345678901234567890123", 'say "a"', "5\" wide", "a, b;c\td", "two\nlines", "mac\rline", "crlf\r\nline", "['a', 'b']",
    '{"a": 1}', "#comment", "cafe\u0301", "हिन्दी", "日本語", "\U0001f600", "\u2028separator", "\x00nul", "\\escaped\\n", "",
]  # fmt: skip


def rows_of(count: int) -> list[dict[str, str]]:
    texts = [
        f"{number} {NASTY[number % len(NASTY)]}" if number % 2 else NASTY[number % len(NASTY)]
        for number in range(count)
    ]
    return [
        {
            "id": f"{number:04}",
            "context": f"{texts[number]} and more",
            "question": texts[-number - 1] or "?",
            "answers": NASTY[number % (len(NASTY) - 1)],
            "": str(number),
        }
        for number in range(count)
    ]


def write_format(file: Path, rows: list[dict[str, Any]]) -> None:
    kind = file.name.removesuffix(".gz").rsplit(".", 1)[1]
    out = io.StringIO()
    if kind in ("csv", "tsv"):
        writer = csv.DictWriter(out, rows[0], delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    elif kind == "json":
        json.dump(rows, out, indent=1)
    elif kind == "jsonl":
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    written = columns("parquet", pa.Table.from_pylist(rows)) if kind == "parquet" else out.getvalue().encode()
    file.write_bytes(gzip.compress(written) if file.suffix == ".gz" else written)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_the_same_rows_in_every_format(tmp_path, kind, packed, shards):
    rows, size = rows_of(200), -(-200 // shards)
    for shard in range(shards):
        name = "test" if shards == 1 else f"test-{shard:05}-of-{shards:05}"
        write_format(tmp_path / f"{name}.{kind}{packed}", rows[shard * size : (shard + 1) * size])
    data = source(tmp_path)
    task = Qa(data=data.source)
    examples, skipped = tasks.read_examples(
        task, load_rows(data, "test", tasks.task_columns(task)), describe_source(data, "test")
    )
    assert skipped == []
    assert [example.id for example in examples] == [row["id"] for row in rows]
    assert [example.references for example in examples] == [(row["answers"].strip(),) for row in rows]
    expected = [f"{row['context'].strip()}\nQuestion: {row['question'].strip()}\nAnswer:" for row in rows]
    assert [example.prompt for example in examples] == expected
    corpus = read_documents(Sources((source(tmp_path, split="test"),), text="context"))
    assert corpus.texts == [row["context"] for row in rows]


def read_all(file: Path, **options: Any) -> list[Row | BadRow]:
    kind = {"jsonl": "json", "tsv": "csv"}.get(file.suffix[1:], file.suffix[1:])
    return list(read_rows(str(file), make_options(kind, options)))


TEXT = st.text(st.characters(codec="utf-8"))
SHORT = st.text(st.sampled_from("ab\"',;\t\r\n \\\x00é"), max_size=8)
PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PROPERTY
@example([["\r\r"], ["a\r"]], ",", "\n", csv.QUOTE_MINIMAL)
@example([["\r", "\n,0"]], ",", "\n", csv.QUOTE_MINIMAL)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(TEXT | SHORT, min_size=width, max_size=width), min_size=1)
    ),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_any_table_that_csv_writes_is_read_back_or_refused_by_line(table, delimiter, terminator, quoting):
    names = [f"column {number}" for number in range(len(table[0]))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.csv"
        with open(file, "w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, delimiter=delimiter, lineterminator=terminator, quoting=quoting)
            writer.writerows([names, *table])
        found = read_all(file, sep=delimiter)
    bad = [row for row in found if isinstance(row, BadRow)]
    rest = iter([dict(zip(names, row, strict=True)) for row in table])
    assert all(row in rest for row in found if isinstance(row, Row))  # the rows as they were, in their order
    assert bad or next(rest, None) is None
    assert all(row.row is not None and row.row > 1 for row in bad)
    # Only Python before 3.13 writes a carriage return without quotes, where lines end in a newline alone.
    assert not bad or (
        terminator == "\n" and quoting == csv.QUOTE_MINIMAL and any("\r" in cell for row in table for cell in row)
    )


DIALECTS = {
    "escapes": {"quoting": csv.QUOTE_NONE, "escapechar": "\\"},
    "escapes in quotes": {"doublequote": False, "escapechar": "\\"},
    "tabs without quotes": {"quoting": csv.QUOTE_NONE, "escapechar": "\\", "sep": "\t"},
    "single quotes": {"quotechar": "'", "sep": ";"},
}


@settings(PROPERTY, max_examples=60)
@example("escapes", [["a", "b\r"]], "\r\n")
@example("escapes in quotes", [["a", 'b"\r']], "\n")
@given(
    st.sampled_from(sorted(DIALECTS)),
    st.integers(2, 3).flatmap(
        lambda width: st.lists(st.lists(SHORT, min_size=width, max_size=width), min_size=1, max_size=5)
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_table_of_other_dialects_is_read_back_or_refused_by_line(dialect, table, terminator):
    names, options = [f"column {number}" for number in range(len(table[0]))], DIALECTS[dialect]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.csv"
        with open(file, "w", newline="", encoding="utf-8") as out:
            changed = {"delimiter" if key == "sep" else key: value for key, value in options.items()}
            csv.writer(out, lineterminator=terminator, **changed).writerows([names, *table])
        found = read_all(file, **options)
    rest = iter([dict(zip(names, row, strict=True)) for row in table])
    assert all(row in rest for row in found if isinstance(row, Row))
    assert next(rest, None) is None or any(isinstance(row, BadRow) for row in found)


@PROPERTY
@given(
    st.lists(st.dictionaries(TEXT, TEXT, min_size=1), min_size=1), st.booleans(), st.sampled_from([None, 1, "lines"])
)
def test_any_table_that_json_writes_is_read_back(table, ascii_only, layout):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("a.jsonl" if layout == "lines" else "a.json")
        written = (
            "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in table)
            if layout == "lines"
            else json.dumps(table, ensure_ascii=ascii_only, indent=layout)
        )
        file.write_bytes(written.encode())
        assert read_all(file) == table


PARTS = {
    "jsonl": [
        '{"a": 1}', '{"a": [1', '2]}', '{"a": 1}, {"b": 2}', '{"a": 1},-Infinity,{"b": 2}', '{"a": -Infinity}', "", "[1]", "  ",
        '{"a": 1, "a": 2}', '{"a": "\\ud800"}', '{"a": "\\ud83d\\ude00 \\u00e9"}', '{"a": true, "b": [false]}', '{"a": -0}', "1", ",",
        '{"a": 1.50}\r', '{"a": {"b": {"c": 1, "c": 1}}}', '{"a": "true"}', "{", "]", '{"a": "', '\udcff',
    ],
    "csv": [
        "1,2", '"1",2', '"1', '2",3', "", "1,2,", "1", '1,"2\r', "1\r,2", "1,2\r", "1,2\r\r", '"a""b",c', '"a"b,c', 'a"b,c', "\udcff,1", "é,\x00",
    ],
}  # fmt: skip


@PROPERTY
@given(st.data(), st.sampled_from(sorted(PARTS)), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_that_are_read_at_once_are_the_same_rows(data, kind, terminator, is_ended):
    lines = data.draw(st.lists(st.sampled_from(PARTS[kind]), max_size=20))
    written = terminator.join(["a,b", *lines] if kind == "csv" else lines) + terminator * is_ended
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"a.{kind}"
        file.write_bytes(written.encode(errors="surrogateescape"))
        found = []
        for count in (1, 4, 256):
            with mock.patch.object(base, "LINES_AT_ONCE", count):
                rows = read_all(file)
            found.append([(row, row.location) if isinstance(row, Row) else str(row) for row in rows])
    assert found[0] == found[1] == found[2]


def test_long_lines_are_read_one_by_one_and_short_ones_together(tmp_path):
    (tmp_path / "a.txt").write_text(("x" * base.CHARACTERS_AT_ONCE + "\n") * 3 + "y\n" * 2000)
    counts = [len(lines) for lines in base.line_batches(str(tmp_path / "a.txt"), None, None, "\n")]
    assert counts == [1, 1, 1, *[base.LINES_AT_ONCE] * 7, 2000 - 7 * base.LINES_AT_ONCE]


def test_an_object_with_a_key_twice_is_a_bad_row(tmp_path):
    lines = ['{"a": 1, "b": 2}', '{"a": 1, "b": 2, "a": 3}', '{"a": {"x": 1, "x": 1}}', '{"a": 4, "b": {"a": 5}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text(f"[{', '.join(lines)}]")
    for name, mark in (("a.jsonl", ":"), ("a.json", ", row ")):
        first, *bad, last = read_all(tmp_path / name)
        assert (first, last) == ({"a": 1, "b": 2}, {"a": 4, "b": {"a": 5}})
        assert [str(row) for row in bad] == [
            f"{tmp_path}/{name}{mark}2 has the key 'a' twice. Remove one of them",
            f"{tmp_path}/{name}{mark}3 has the key 'x' twice. Remove one of them",
        ]
    (tmp_path / "a.json").write_text(f'{{"rows": [{lines[1]}]}}')
    assert "holds an object that has the key 'a' twice" in str(read_all(tmp_path / "a.json", field="rows")[0])


@pytest.mark.parametrize(
    ("line", "shown", "compares"),
    [
        ("1.10", "1.10", 1.1),
        ("1E400", "1E400", float("inf")),
        ("-0", "-0", 0),
        ("12345678901234567890123", "12345678901234567890123", 12345678901234567890123),
        ("7" * 5000, "7" * 5000, float("inf")),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827", 0.1),
        ("true", "true", True),
        ("[false, 1.0]", "[false, 1.0]", [False, 1]),
        ('{"a": true}', "{'a': true}", {"a": True}),
        ("NaN", "NaN", None),
    ],
)
def test_a_json_value_is_shown_as_it_is_written(tmp_path, line, shown, compares):
    (tmp_path / "a.jsonl").write_text(f'{{"v": {line}}}\n')
    (tmp_path / "a.json").write_text(f'[{{"v": {line}}}]')
    for name in ("a.jsonl", "a.json"):
        [row] = read_all(tmp_path / name)
        assert isinstance(row, Row)
        assert f"{row['v']}" == str(row["v"]) == shown
        assert compares is None or row["v"] == compares


def test_booleans_and_numbers_are_labels(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "label": true}\n{"text": "b", "label": 0}\n{"text": "c", "label": "1"}\n'
    )
    data = source(tmp_path / "a.jsonl")
    for labels, expected in ((("false", "true"), ["true", "false", "true"]), (("0", "true", "1"), ["true", "0", "1"])):
        task = Sentiment(data=data.source, labels=labels)
        examples, _ = tasks.read_examples(task, load_rows(data, "train", tasks.task_columns(task)), "a")
        assert [example.target for example in examples] == expected


REFUSED = [
    (
        "a.csv",
        "a,b,c\n1,2,3,\n4,5,6,\n",
        [2, 3],
        "has 4 fields, the header 3 (the last is empty: does each row end in a",
    ),
    (
        "a.tsv",
        'en\tde\nYes.\tJa.\n"No.\tNein.\nMaybe.\tVielleicht.\nThe 5" disk\tDie\nEnd.\tEnde.\n',
        [3],
        "(lines 3 to 5)",
    ),
    ("a.tsv", 'en\tde\n"open\tto the end\n', [2], "say `quoting: 3`"),
    ("a.csv", "a\rb\r1\r", [1], "is not csv"),
    ("a.jsonl", '{"a": 1}\n{"a": "\\ud800"}\n', [2], "half of a surrogate pair"),
    ("a.json", '[{"a": 1},\n{"a": }]', [2], "is not JSON"),
    ("a.json", '[{"a": 1}\n{"a": 2}]', [2], "is not JSON: Expecting ','"),
    ("a.json", '[{"a": 1}]\n[]', [2], "is not JSON: Extra data"),
    ("a.json", '[{"a": 1}, 3]', [2], "is int, not a JSON object"),
    ("a.json", '[{"a": 1}', [1], "is not JSON: Expecting ','"),
]


@pytest.mark.parametrize(("name", "written", "lines", "message"), REFUSED)
def test_what_cannot_be_read_is_refused_by_line(tmp_path, name, written, lines, message):
    (tmp_path / name).write_bytes(written.encode())
    options = {"sep": "\t"} if name == "a.tsv" else {}
    bad = [row for row in read_all(tmp_path / name, **options) if isinstance(row, BadRow)]
    assert [row.row for row in bad] == lines
    assert message in str(bad[0]) and str(bad[0]).startswith(f"{tmp_path}/{name}")


def test_a_list_longer_than_what_is_read_at_once(tmp_path):
    rows = [{"n": number, "text": f"{'x' * (number % 3000)}[]{{}}"} for number in range(2500)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    assert read_all(tmp_path / "a.json") == rows
    (tmp_path / "a.json").write_text(json.dumps(rows))  # one line
    assert read_all(tmp_path / "a.json") == rows


def test_nested_rows_keep_their_own_keys(tmp_path):
    rows = [{"a": {"x": "1"}}, {"a": {"y": None, "z": [1, "b"]}}, {"a": {}}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read_all(tmp_path / "a.jsonl") == rows


def test_columns_that_nobody_names_are_not_looked_at(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"a": "x", "note": null}\n{"a": "y", "note": "\\ud800"}\n{"a": "z", "note": [1]}\n'
    )
    (tmp_path / "a.csv").write_bytes(b"a,note,note,\nx,1,\xff,\ny,2,,\nz,,,\n")
    half = pa.Array.from_buffers(
        pa.utf8(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
    )
    (tmp_path / "a.parquet").write_bytes(columns("parquet", pa.table({"a": ["x", "y", "z"], "note": half})))
    for kind in ("jsonl", "csv", "parquet"):
        rows = list(load_rows(source(tmp_path / f"a.{kind}"), "train", {"a"}))
        assert [row["a"] for row in rows] == ["x", "y", "z"]
    with pytest.raises(DataError, match="a.csv: its header names the column 'note' twice"):
        list(load_rows(source(tmp_path / "a.csv"), "train", {"note"}))
    rows = list(load_rows(source(tmp_path / "a.parquet"), "train", {"a", "note"}))
    assert str(rows[1]).startswith(f"{tmp_path}/a.parquet, row 2 column 'note' is not valid UTF-8")


def test_parquet_keeps_its_types(tmp_path):
    table = pa.table({"n": [1, None], "x": [1.5, 2.0], "flag": [True, False], "texts": [["a", "b"], []]})
    (tmp_path / "a.parquet").write_bytes(columns("parquet", table))
    rows = read_all(tmp_path / "a.parquet")
    assert rows == [
        {"n": 1, "x": 1.5, "flag": True, "texts": ["a", "b"]},
        {"n": None, "x": 2.0, "flag": False, "texts": []},
    ]
    assert str(rows[0]["flag"]) == "true"  # as JSON shows it


def test_the_process_keeps_its_limit_of_csv_fields(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text\n" + "x" * (before + 1) + "\nb\n")
    rows = read_rows(str(tmp_path / "a.csv"), make_options("csv", {}))
    assert len(next(rows)["text"]) == before + 1
    assert csv.field_size_limit() == before
    assert next(rows)["text"] == "b"


def test_malformed_json_of_a_task_is_skipped_or_an_error_by_line(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_text(
        '{"text": "a", "label": 0}\n{"text": "b",\n{"text": "c", "label": 7}\n{"text": "d", "label": "1"}\n'
    )
    for on_bad_row in ("skip", "error"):
        task = Sentiment(data=source(tmp_path).source, labels=("no", "yes"), on_bad_row=on_bad_row)
        rows = load_rows(source(tmp_path), "test", tasks.task_columns(task))
        if on_bad_row == "error":
            with pytest.raises(
                DataError, match=rf"(?s)test.jsonl: 2 of 4 .*\n  {file}:2 is not JSON.*\n  {file}:3: label is 7"
            ):
                tasks.read_examples(task, rows, str(file))
        else:
            examples, skipped = tasks.read_examples(task, rows, str(file))
            assert [example.target for example in examples] == ["no", "yes"]
            assert [line.split(" ")[0] for line in skipped] == [f"{file}:2", f"{file}:3:"]


LINE_OF_A_MEGABYTE = b'{"text": "' + b"x" * (1 << 20) + b'"}\n'


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", gzip.compress),
        (".xz", lambda content: lzma.compress(content, preset=0)),
        (".bz2", bz2.compress),
        (".zst", zstd),
    ],
)
def test_decompression_bombs_are_refused(tmp_path, suffix, compress):
    file = tmp_path / f"a.jsonl{suffix}"
    part = compress(LINE_OF_A_MEGABYTE * 64)
    file.write_bytes(part * 3)  # members follow each other, as these formats allow: 192 MB
    rows = list(read_texts(str(file), make_options("json", {}), "text"))
    assert isinstance(rows[-1], BadRow) and "expands to more than 200 times its size" in str(rows[-1])
    assert len(rows) < 192 and str(rows[-1]).startswith(f"{file}:")


def test_a_line_without_end_is_refused(tmp_path):
    file = tmp_path / "a.txt"
    with open(file, "wb") as out:
        out.write(b"first\n")
        out.truncate(300 << 20)
    first, bad = read_texts(str(file), make_options("text", {}), "text")
    assert first == "first" and "a.txt:1 cannot be read on from here: a line is longer than 256 MiB" in str(bad)


def test_compressed_text_that_repeats_itself_is_no_bomb(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(COMPRESS[".gz"](b'{"text": "again"}\n' * 200_000))
    assert sum(1 for _ in read_texts(str(tmp_path / "a.jsonl.gz"), make_options("json", {}), "text")) == 200_000


class Flaky(SimpleHTTPRequestHandler):
    """Serves a folder; its first answer to a GET is cut short."""

    cut = True

    def do_GET(self):
        if Flaky.cut:
            Flaky.cut = False
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_an_address_is_read_through_datasets_which_repeats_a_request_that_fails(tmp_path, monkeypatch, packed):
    """The only use of `datasets.utils.file_utils.xopen`, which is undocumented: this fails when it changes."""
    monkeypatch.setattr("datasets.config.STREAMING_OPEN_RETRY_INTERVAL", 0)
    monkeypatch.setattr("datasets.config.STREAMING_READ_RETRY_INTERVAL", 0)
    monkeypatch.setattr(Flaky, "cut", True)
    (tmp_path / f"a.jsonl{packed}").write_bytes(COMPRESS[packed](b'{"text": "one"}\n{"text": "two"}\n'))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.jsonl{packed}"
        rows = list(read_rows(address, make_options("json", {})))
        server.shutdown()
    assert [row["text"] for row in rows] == ["one", "two"] and not Flaky.cut
