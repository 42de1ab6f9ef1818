"""Corpora: every kind of file in every place, mixtures, held-out text, and that no row is lost in silence."""

import itertools
import json

import pyarrow as pa
import pytest
from sources import COMPRESS, KINDS, TEXTS, columns, content, source

from hflm.core import DataError
from hflm.data import (
    SKIPPED_ROWS,
    BadRow,
    Sources,
    SourceStats,
    append_skipped,
    load_rows,
    read_documents,
    read_skipped,
    sample_stream,
    source_stats,
    split_held_out,
    stream_documents,
    token_statistics,
)
from hflm.pipeline import provenance, resolve_inputs
from hflm.pipeline.reading import read_corpus
from hflm.recipe import load_recipe

LAYOUTS = {  # where the file is, what the recipe says
    "file": ("a", "a"),
    "glob": ("deep/er/a", "**/a"),
    "folder of splits": ("train", ""),
    "folder": ("00000", ""),
}


def texts(*sources, streamed=False, listed="/nonexistent", **options):
    """All texts of a corpus, in memory or streamed."""
    asked = Sources(sources, **options)
    return list(stream_documents(asked, listed)) if streamed else read_documents(asked).texts


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", COMPRESS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_in_every_place(tmp_path, kind, packed, layout, streaming):
    name, asked = LAYOUTS[layout]
    file = tmp_path / f"{name}.{kind}{packed}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(COMPRESS[packed](content(kind)))
    asked = source(f"{tmp_path}/{asked}.{kind}{packed}" if asked else tmp_path, streaming=streaming)
    assert texts(asked, streamed=streaming) == TEXTS
    assert [row["text"] for row in load_rows(asked)] == TEXTS


TXT = b"One.\nTwo.\r\n\n\nThree.\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["One.", "Two.", "Three."]),
        ({"keep_linebreaks": True}, ["One.\n", "Two.\n", "Three.\n"]),
        ({"sample_by": "paragraph"}, ["One.\nTwo.", "Three."]),
        ({"sample_by": "document"}, ["One.\nTwo.\n\n\nThree.\n"]),
        ({"split": "train[:1]"}, ["One."]),
        ({"split": "train[1:2]"}, ["Two."]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_text_by_line_paragraph_and_document(tmp_path, options, expected, streaming):
    (tmp_path / "a.txt").write_bytes(TXT)
    assert texts(source(tmp_path / "a.txt", streaming=streaming, **options), streamed=streaming) == expected


OPTIONS = [
    ("a.csv", b"x;'a; b'\ny;c\n", {"sep": ";", "quotechar": "'", "names": ["n", "text"]}, ["a; b", "c"]),
    ("a.csv", b"# about\nn,text\n1,a\n", {"skiprows": 1}, ["a"]),
    ("a.csv", b'n,text\n1,"two\nlines"\n\n2,"say ""a"""\n', {}, ["two\nlines", 'say "a"']),
    ("a.csv", b"\xef\xbb\xbftext\nNA\nnull\n", {}, ["NA", "null"]),
    ("a.tsv", b'text\tn\n5" wide\t1\n', {"quoting": 3}, ['5" wide']),
    ("a.json", b'{"data": [{"text": "a"}, {"text": "b"}]}', {"field": "data"}, ["a", "b"]),
    ("a.json", b'{"text": "a"}\n{"text": "b"}\n', {}, ["a", "b"]),
    ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "b", "more": [1]}', {}, ["a", "b"]),
    ("a.jsonl", '{"text": "ä"}\n'.encode("latin-1"), {"encoding": "latin-1"}, ["ä"]),
    ("a.jsonl", b'{"text": "\xe4b"}\n', {"encoding_errors": "replace"}, ["\ufffdb"]),
    ("a.txt", "ä\nb\n".encode("utf-16"), {"encoding": "utf-16"}, ["ä", "b"]),
    ("a.parquet", content("parquet", list("abcd")), {"filters": [["n", ">", 1]]}, ["c", "d"]),
    ("a.parquet", content("parquet", list("abcd")), {"split": "train[-50%:]"}, ["c", "d"]),
    ("a.parquet", content("parquet", list("abcd")), {"split": "train[:1]+train[3:]"}, ["a", "d"]),
]


@pytest.mark.parametrize(("name", "written", "options", "expected"), OPTIONS)
def test_the_options_of_datasets_builders(tmp_path, name, written, options, expected):
    (tmp_path / name).write_bytes(written)
    assert texts(source(tmp_path / name, **options)) == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.csv", {"comment": "#"}, "without comment"),
        ("a.csv", {"header": None}, "`names:"),
        ("a.csv", {"sep": "||"}, 'a.csv: .* "delimiter" must be a 1-character string. Change it'),
        ("a.csv", {"quotechar": "''"}, '"quotechar" must be a 1-character string'),
        ("a.csv", {"quoting": 2}, "without quoting: 2. Remove it"),
        ("a.csv", {"quoting": 7}, 'bad "quoting" value'),
        ("a.csv", {"encoding": "utf-88"}, "a.csv: .*unknown encoding: utf-88. Name one"),
        ("a.csv", {"split": "train[:50%]", "streaming": True}, "no known length"),
        ("a.csv", {"streaming": True}, "rows: lines"),
    ],
)
def test_what_a_corpus_cannot_do_is_an_error(tmp_path, name, options, message):
    (tmp_path / name).write_bytes(content("csv"))
    asked = source(tmp_path / name, **options)
    with pytest.raises(DataError, match=message):
        texts(asked, streamed=options.get("streaming", False), rows="lines" if "rows" in message else "documents")


GOOD = [json.dumps({"text": f"row {n}"}) for n in range(3000)]


def broken(text, line):
    return "\n".join([*GOOD[: line - 1], text, *GOOD[line - 1 :]]).encode("utf-8", "surrogateescape")


def cut(packed):
    return lambda: COMPRESS[packed]("\n".join(GOOD).encode())[:-20]


def damaged_parquet():
    table = pa.table({"text": [f"row {n} {'x' * n}" for n in range(300)]})
    whole = bytearray(columns("parquet", table, row_group_size=100, compression="gzip", use_dictionary=False))
    middle = len(whole) // 3
    whole[middle : middle + 200] = bytes(200)
    return bytes(whole)


NOT_UTF8 = pa.Array.from_buffers(
    pa.utf8(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
)
# name, content, what an error says, rows that a skip keeps (None: not all), what it lists
BROKEN = [
    ("a.jsonl", broken("[1, 2", 2500), r"a.jsonl:2500 is not JSON: .* at column", 3000, 1),
    ("a.jsonl", broken('{"text": 7}', 2500), r"a.jsonl:2500 column 'text' holds 7, not text", 3000, 1),
    ("a.jsonl", broken('{"text": null}', 2500), r"a.jsonl:2500 column 'text' holds None", 3000, 1),
    ("a.jsonl", broken('{"body": "b"}', 2500), r"a.jsonl:2500 has no column 'text'; it has: body", 3000, 1),
    ("a.jsonl", broken('["x"]', 2500), r"a.jsonl:2500 is list, not a JSON object", 3000, 1),
    ("a.jsonl", broken('{"text": "\udcff"}', 2500), r"a.jsonl:2500 is not valid UTF-8", 3000, 1),
    ("a.jsonl", broken('{"text": "\\ud800"}', 2500), r"a.jsonl:2500 .* half of a surrogate pair", 3000, 1),
    ("a.jsonl", broken("[" * 100_000, 2500), r"a.jsonl:2500 is not JSON", 3000, 1),
    (
        "a.jsonl",
        broken(f'{{"text": "a", "deep": {"[" * 700}true{"]" * 700}}}', 2500),
        r"a.jsonl:2500 is not JSON",
        3000,
        1,
    ),
    ("a.txt", b"good\n\xff\xfe bad\nfine\n", r"a.txt:2 is not valid UTF-8", 2, 1),
    ("a.csv", b"n,text\n1,a\n2,b,c\n3,d\n", r"a.csv:3 has 3 fields, the header 2", 2, 1),
    ("a.csv", b"n,text\n1,a\n2\n3,d\n", r"a.csv:3 has 1 fields, the header 2", 2, 1),
    ("a.csv", b"n,text\n1,a\n2,\xff\n3,d\n", r"a.csv:3 column 'text' is not valid UTF-8", 2, 1),
    ("a.csv", b'n,text\n1,a\n2,"b\n3,d\n', r"a.csv:3 is not csv: .*lines 3 to 4", 1, 1),
    ("a.jsonl.gz", cut(".gz"), r"a.jsonl.gz:\d+ cannot be read on from here: .*end-of-stream", None, 1),
    ("a.jsonl.xz", cut(".xz"), r"a.jsonl.xz:\d+ cannot be read on from here", None, 1),
    ("a.jsonl.bz2", cut(".bz2"), r"a.jsonl.bz2(:\d+)? cannot be read on from here", None, 1),
    ("a.jsonl.zst", cut(".zst"), r"a.jsonl.zst(:\d+)? cannot be read on from here: Truncated", None, 1),
    ("a.jsonl.gz", b"no archive", r"a.jsonl.gz cannot be read on from here: Not a gzipped file", None, 1),
    ("a.json", b'[{"text": "a"},\n {"text": ]', r"a.json:2 is not JSON", None, 1),
    ("a.parquet", b"PAR1 no parquet", r"a.parquet cannot be read on from here", None, 1),
    ("a.parquet", damaged_parquet, r"a.parquet, row 101 to row 200 cannot be read", 200, 1),
    (
        "a.parquet",
        columns("parquet", pa.table({"text": ["a", None]})),
        r"a.parquet, row 2 column 'text' holds None",
        1,
        1,
    ),
    (
        "a.arrow",
        columns("arrow", pa.table({"text": NOT_UTF8})),
        r"a.arrow, row 2 column 'text' is not valid UTF-8",
        1,
        1,
    ),
    ("a.arrow", content("arrow")[:200], r"a.arrow cannot be read on from here", None, 1),
    ("a.jsonl", b"", r"a.jsonl is empty", None, 1),
    ("a.parquet", b"", r"a.parquet is empty", None, 1),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("name", "written", "message", "kept", "left_out"), BROKEN)
def test_a_bad_row_is_an_error_or_a_listed_skip(tmp_path, name, written, message, kept, left_out, streaming):
    (tmp_path / name).write_bytes(written() if callable(written) else written)
    (tmp_path / "whole.txt").write_text("whole\n")
    asked = source(tmp_path / name, streaming=streaming), source(tmp_path / "whole.txt", streaming=streaming)
    with pytest.raises(DataError, match=message):
        texts(*asked, streamed=streaming)
    sources = Sources(asked, on_bad_row="skip")
    if streaming:
        found = list(stream_documents(sources, tmp_path / "listed"))
        skipped = read_skipped(tmp_path / "listed")
    else:
        read = read_documents(sources)
        found, skipped = read.texts, read.skipped
    assert found[-1] == "whole"  # a broken file does not end the corpus
    assert kept is None or len(found) == kept + 1
    assert len(skipped) == left_out
    assert skipped[0].source == "pretrain.data.0" and skipped[0].file == str(tmp_path / name)


def test_several_bad_rows_are_reported_together(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 1}\n' * 20)
    with pytest.raises(DataError, match=r"(?s)a.jsonl:1 .*a.jsonl:10 column 'text' holds 1, not text\n.*on_bad_row"):
        texts(source(tmp_path / "a.jsonl"))


def test_a_file_that_disappears_while_it_is_streamed(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("x\n" * 10)
    asked = source(f"{tmp_path}/*.txt", streaming=True)
    strict = iter(stream_documents(Sources((asked,)), tmp_path / "listed"))
    kind = iter(stream_documents(Sources((asked,), on_bad_row="skip"), tmp_path / "listed"))
    assert next(strict) == next(kind) == "x"
    (tmp_path / "b.txt").unlink()
    with pytest.raises(DataError, match="b.txt is not there"):
        list(strict)
    assert len(list(kind)) == 9
    assert [str(bad) for bad in read_skipped(tmp_path / "listed")] == [f"{tmp_path}/b.txt is not there (any more)"]


def test_an_unknown_column_lists_the_columns(tmp_path):
    for kind in ("csv", "parquet", "arrow", "jsonl"):
        (tmp_path / f"a.{kind}").write_bytes(content(kind))
        with pytest.raises(DataError, match="no column 'body'; it has: n, text"):
            texts(source(tmp_path / f"a.{kind}"), text="body")


@pytest.mark.parametrize("weight", [{}, {"weight": 1}])
def test_a_source_without_any_text_is_an_error(tmp_path, weight):
    (tmp_path / "a.txt").write_text("x\n" * 20)
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(DataError, match="blank.txt: no text in it$"):
        texts(*(source(tmp_path / name, **weight) for name in ("a.txt", "blank.txt")))
    (tmp_path / "numbers.jsonl").write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(DataError, match="no text in it \\(2 bad rows were left out\\)"):
        texts(source(tmp_path / "numbers.jsonl"), on_bad_row="skip")


def test_lines_are_one_running_text_with_one_newline_a_row(tmp_path):
    written = [" = Title = \n", "", "First.", "Second.\n", ""]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in written))
    assert "".join(texts(source(tmp_path), rows="lines")) == " = Title = \n\nFirst.\nSecond.\n\n"


@pytest.mark.parametrize(("split", "expected"), [("train+validation", "abv"), ("train[:1] + validation", "av")])
@pytest.mark.parametrize("streaming", [False, True])
def test_several_splits_are_one_source(tmp_path, split, expected, streaming):
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "validation.txt").write_text("v\n")
    assert texts(source(tmp_path, split=split, streaming=streaming), streamed=streaming) == list(expected)


def test_documents_leave_blank_rows_out(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(content("jsonl", ["a", "", "  \n", "b\n"]))
    assert texts(source(tmp_path)) == ["a", "b\n"]


@pytest.fixture
def three(tmp_path):
    """Three sources of different kinds and columns, weights 3, 1 and 2."""
    (tmp_path / "a.jsonl.gz").write_bytes(COMPRESS[".gz"](content("jsonl", [f"a{n}" for n in range(900)])))
    (tmp_path / "b.csv").write_bytes(content("csv", [f"b{n}" for n in range(900)]).replace(b"text", b"body"))
    (tmp_path / "c.parquet").write_bytes(content("parquet", [f"c{n}" for n in range(900)]))

    def sources(streaming=False, seed=7, **options):
        asked = (
            source(tmp_path / "a.jsonl.gz", weight=3, streaming=streaming),
            source(tmp_path / "b.csv", weight=1, text="body"),
            source(tmp_path / "c.parquet", weight=2),
        )
        return Sources(asked, seed=seed, **options)

    return sources


def test_mixing_follows_the_weights_and_the_seed(three, tmp_path):
    read = read_documents(three())
    begin = [text[0] for text in read.texts[:1200]]
    assert 0.46 < begin.count("a") / 1200 < 0.54 and 0.13 < begin.count("b") / 1200 < 0.2
    assert (
        read.texts == read_documents(three()).texts == list(stream_documents(three(streaming=True), tmp_path / "none"))
    )
    assert read.texts != read_documents(three(seed=8)).texts
    assert {f"{name}{n}" for name in "abc" for n in range(900)} <= set(read.texts)


def test_what_each_source_gave_is_counted(three):
    read = read_documents(three())
    counts = token_statistics(read.statistics, lambda texts: [[1] * len(text) for text in texts])
    assert list(counts) == ["pretrain.data.0", "pretrain.data.1", "pretrain.data.2"]
    for key, letter in zip(counts, "abc", strict=True):
        own = [text for text in read.texts if text[0] == letter]
        assert counts[key]["documents"] == len(own)
        assert counts[key]["tokens"] == counts[key]["characters"] == len("".join(own))
    assert sum(each["share"] for each in counts.values()) == pytest.approx(1, abs=1e-5)


def test_more_text_than_is_counted_counts_in_proportion():
    counts = source_stats.SourceCounter(["x"], counted_characters=100)
    for text in ["abcde"] * 1000:
        counts.add(text, 0)
    [stats] = counts.statistics()
    assert sum(map(len, stats.sample)) == 100
    found = token_statistics([stats], lambda texts: [text[:2] for text in texts])
    assert found["x"] == {"documents": 1000, "characters": 5000, "tokens": 2000, "share": 1.0}


def test_the_record_of_a_run(tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps({"data": {"pretrain.data.0": {"path": "a"}}, "stages": {}}))
    bad = BadRow("a.jsonl", 3, "is not JSON", ":", source="pretrain.data.0")
    append_skipped([bad, bad], tmp_path / SKIPPED_ROWS)
    lines = []
    stats = [SourceStats("pretrain.data.0", 2, 4, ("ab", "cd"))]
    provenance.note_sources(tmp_path, stats, lambda texts: [[1] for _ in texts], None, lines.append)
    provenance.note_skipped(tmp_path, lines.append)
    [described] = json.loads((tmp_path / "environment.json").read_text())["data"].values()
    assert described == {
        "path": "a",
        "documents": 2,
        "characters": 4,
        "tokens": 2,
        "share": 1.0,
        "skipped_rows": 1,
        "listed": "skipped_rows.jsonl",
    }
    assert (tmp_path / SKIPPED_ROWS).read_text().count("\n") == 1
    assert lines == [f"pretrain: 1 rows were left out; {tmp_path}/skipped_rows.jsonl lists them"]


def test_a_stream_is_restored_where_it_was(three, tmp_path):
    asked = three(streaming=True, on_bad_row="skip")
    dataset = stream_documents(asked, tmp_path / "listed", held_out=0.1).dataset
    whole = list(dataset)
    for at in (1, 500, 1700):
        rest = iter(dataset)
        list(itertools.islice(rest, at))
        state = json.loads(json.dumps(dataset.state_dict()))
        again = stream_documents(asked, tmp_path / "listed", held_out=0.1).dataset
        again.load_state_dict(state)
        assert list(again) == whole[at:]


def test_a_held_out_document_stays_held_out_when_data_is_added():
    documents = [f"document {n}" for n in range(2000)]
    train, validation = split_held_out(documents[:1000], 0.1, "documents")
    more_train, more_validation = split_held_out(documents, 0.1, "documents")
    assert sorted(train + validation) == sorted(documents[:1000])
    assert set(validation) <= set(more_validation)
    assert set(train) <= set(more_train)
    assert 150 < len(more_validation) < 250


def test_a_stream_holds_out_the_same_documents_as_a_list(three, tmp_path):
    train, validation = split_held_out(read_documents(three()).texts, 0.1, "documents")
    streamed = three(streaming=True)
    assert list(stream_documents(streamed, tmp_path / "none", held_out=0.1)) != train  # other draws of the sources ...
    assert set(stream_documents(streamed, tmp_path / "none", held_out=0.1)) == set(train)  # ... of the same documents
    assert sample_stream(streamed, 0.1).texts == validation
    assert 0 < len(sample_stream(streamed, 0.1, count=100).texts) < 30


def test_the_end_of_a_running_text_is_held_out():
    assert split_held_out(["a", "b", "c", "d"], 0.25, "lines") == (["a", "b", "c"], ["d"])


def test_the_toy_world_in_memory_and_streamed():
    asked = [source("toy", name="stories", size=20, split="train[:5]", streaming=on) for on in (False, True)]
    assert texts(asked[0]) == texts(asked[1], streamed=True) == [row["text"] for row in load_rows(asked[0])]
    with pytest.raises(DataError, match="no column 'body'; it has: text"):
        texts(asked[0], text="body")


def test_the_folder_that_datatrove_leaves_is_streamed(tmp_path):
    """${rank}.jsonl.gz, here below a folder of the tag ${language}; empty texts are left out by its writer."""
    written = []
    for language, rank in itertools.product(("de", "en"), range(3)):
        rows_of = [{"text": f"{language} {rank} {n}", "id": f"{rank}/{n}", "metadata": {"url": "x"}} for n in range(50)]
        written += [row["text"] for row in rows_of]
        rows_of.append({"id": "empty", "metadata": {}})
        shard = tmp_path / language / f"{rank:05}.jsonl.gz"
        shard.parent.mkdir(exist_ok=True)
        shard.write_bytes(COMPRESS[".gz"]("".join(json.dumps(row) + "\n" for row in rows_of).encode()))
    torn = tmp_path / "en" / "00001.jsonl.gz"
    torn.write_bytes(torn.read_bytes()[:-10])
    loaded = load_recipe("datatrove", [f"pretrain.data.path={tmp_path}", "pretrain.validation=0.1"])
    listed = tmp_path / "skipped.jsonl"
    found = read_corpus(loaded, resolve_inputs(loaded), {"tokenizer", "pretrain"}, lambda text: None, listed)
    trained_on, held_out = list(found.texts), found.held_out[""]
    assert set(trained_on) | set(held_out) <= set(written)
    assert len(written) - 60 < len(trained_on) + len(held_out) == found.given[0].documents
    assert not set(trained_on) & set(held_out)
    assert len(read_skipped(listed)) == 6 and any(bad.rest for bad in read_skipped(listed))


def test_an_error_in_a_worker_process_is_an_error_without_its_traceback(tmp_path):
    import torch

    from hflm import cli

    (tmp_path / "a.jsonl").write_text('{"text": 3}\n')
    stream = stream_documents(Sources((source(tmp_path, streaming=True),)), tmp_path / "listed")

    class Documents(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(stream)

    with pytest.raises(DataError) as caught:
        list(torch.utils.data.DataLoader(Documents(), num_workers=1))
    assert "Traceback" in str(caught.value)
    assert cli.error_message(caught.value).startswith(f"{tmp_path}/a.jsonl:1 column 'text' holds 3, not text\nFix")
