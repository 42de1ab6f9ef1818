"""Rows from files and folders as the recipe says; what is wrong with them by file and line."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sources import source, zstd

from hflm.core import DataError
from hflm.data import (
    BadRow,
    ResolvedData,
    Row,
    Sources,
    check_local,
    describe_lengths,
    describe_source,
    load_rows,
    read_documents,
    warn_of_lines,
)


def read(asked: ResolvedData, split: str = "train") -> list[Row]:
    """The rows of a split; its bad rows are an error, as for a task."""
    rows = list(load_rows(asked, split))
    if bad := [str(row) for row in rows if isinstance(row, BadRow)]:
        raise DataError("\n".join(bad))
    return rows


def values(column: str, asked: ResolvedData, split: str = "train") -> list[str]:
    return [row[column] for row in read(asked, split)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "one"}, {"text": "zwei"}, {"text": "三"}])
    write(tmp_path / "dev.jsonl", [{"text": "dev"}])
    write(tmp_path / "test.jsonl", [{"text": "test"}])
    # A file that only looks like part of a split must not become rows of it.
    write(tmp_path / "test_references.jsonl", [{"references": ["a", "b"]}])
    (tmp_path / "README.md").write_text("# A data set\n")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ["one", "zwei", "三"]),
        ("train[:2]", ["one", "zwei"]),
        ("train[2:]", ["三"]),
        ("validation", ["dev"]),
        ("test", ["test"]),
        ("train[-1:]+validation", ["三", "dev"]),
        ("validation + test[:100%]", ["dev", "test"]),
    ],
)
def test_splits_of_a_folder(folder, split, expected):
    assert values("text", source(folder), split) == expected


def test_one_file_and_named_files(folder):
    assert len(read(source(folder / "train.jsonl"))) == 3
    named = source("json", data_files={"train": str(folder / "test.jsonl"), "test": str(folder / "dev.jsonl")})
    assert values("text", named, "test") == ["dev"]


def test_a_configuration_is_a_sub_folder_or_ignored_aloud(folder, tmp_path):
    write(tmp_path / "en-de" / "train.jsonl", [{"text": "inner"}])
    assert values("text", source(tmp_path, name="en-de")) == ["inner"]
    with pytest.warns(UserWarning, match="wikitext-2 is ignored"):
        assert len(read(source(folder, name="wikitext-2"))) == 3


def test_streaming_gives_the_same_rows(folder):
    streamed = read(source(folder, streaming=True))
    assert [row["text"] for row in streamed] == ["one", "zwei", "三"]


BROKEN = [
    ({"train.jsonl": '{"text": "a"}\n{"text": \n'}, r"train.jsonl:2 is not JSON"),
    ({"train.jsonl": '{"text": "a"}\n[1, 2]\n"x"\n'}, r"(?s)train.jsonl:2 is list.*train.jsonl:3 is text"),
    ({"train.jsonl": ""}, "train.jsonl is empty"),
    ({"train.txt": b"good\n\xff\xfe bad\n"}, r"train.txt:2 is not valid UTF-8"),
    ({"train.jsonl": b'{"text": "a"}\n{"text": "\xff"}\n'}, r"train.jsonl:2 is not valid UTF-8"),
    ({"train.jsonl": '{"text": "a"}\n', "train.csv": "text\nb\n"}, "files of several kinds: train.csv, train.jsonl"),
    (
        {"a.txt": "a\n", "b.txt": "b\n", "c.jsonl": '{"text": "c"}\n'},
        "several kinds: a.txt, b.txt, c.jsonl. Keep one kind",
    ),
    ({"train_1.txt": "a\n", "train_2.jsonl": '{"text": "c"}\n'}, "several kinds: train_1.txt, train_2.jsonl"),
    ({"notes.md": "no data\n"}, "no split 'train'.*notes.md"),
    ({}, "no split 'train'.*holds nothing"),
    (
        {"train.jsonl.zst": zstd(b'{"text": "a"}\n' * 99)[:-3]},
        r"train.jsonl.zst(:\d+)? cannot be read on from here: Truncated",
    ),
    ({"part.jsonl.gz": gzip.compress(b'{"text": "a"}\n' * 99)[:-3]}, r"part.jsonl.gz:\d+ cannot be read on from here"),
    ({"train.parquet": b""}, "train.parquet is empty"),
]


@pytest.mark.parametrize(("files", "message"), BROKEN)
def test_broken_files_are_named_with_their_lines(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read(source(tmp_path))


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("train.txt", {"README.md": "# A\n", "LICENSE": "MIT\n", "c.jsonl": "{}"}),
        ("a.txt", {"README.md": "# A\n", "LICENSE": "MIT\n", "dataset_infos.json": "{}"}),
        ("data/train-00000-of-00001.txt", {"notes.jsonl": "{}"}),
        ("a.txt", {"README.md": "---\nconfigs:\n- {config_name: a, data_files: '*.txt'}\n---\n", "c.jsonl": "{}"}),
        ("a.jsonl", {"LICENSE.txt": "MIT\n"}),
    ],
)
def test_other_files_of_the_folder_are_no_data(tmp_path, name, others):
    for each, content in {name: '{"text": "a"}', **others}.items():
        (tmp_path / each).parent.mkdir(exist_ok=True)
        (tmp_path / each).write_text(content)
    assert values("text", source(tmp_path)) == ["a" if "jsonl" in name else '{"text": "a"}']


@pytest.mark.parametrize(
    ("path", "split", "message"),
    [
        ("~nosuch/x.txt", "train", "~nosuch/x.txt: no such home folder"),
        ("./nowhere", "train", "no file or folder './nowhere'"),
        ("./nowhere/*.jsonl", "train", "no file matches './nowhere/\\*.jsonl'"),
        ("/nowhere/at/all.jsonl", "train", "no file or folder"),
        ("nobody/no-such-set", "train", "no local file or folder, and the Hub gave no data set"),
    ],
)
def test_a_path_that_is_not_there(path, split, message):
    with pytest.raises(DataError, match=message):
        read(source(path), split)


def test_a_home_that_is_not_there_has_no_fingerprint():
    for path, options in (
        ("~nosuch/x.txt", {}),
        ("json", {"data_files": "~nosuch/x.jsonl"}),
        ("json", {"data_dir": "~nosuch"}),
    ):
        with pytest.raises(DataError, match="no such home folder"):
            source(path, **options)


def test_an_unknown_split_lists_the_files(folder):
    with pytest.raises(DataError, match=r"no split 'holdout'.*train.jsonl"):
        read(source(folder), "holdout")


def test_a_single_file_has_no_other_split(folder):
    for path in ("train.jsonl", "t*.jsonl"):
        with pytest.raises(DataError, match="only the split 'train', not 'test'"):
            read(source(folder / path), "test")


def test_fingerprints_follow_the_content(folder, tmp_path_factory):
    import shutil

    first = source(folder).fingerprint
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.copytree(folder, moved)
    assert source(moved).fingerprint == first
    write(moved / "train.jsonl", [{"text": "changed"}])
    assert source(moved).fingerprint != first
    toy = [source("toy", name="qa").fingerprint, source("toy", name="qa", seed=1).fingerprint]
    hub = [source("a/b").fingerprint, source("a/b", revision="v2").fingerprint]
    assert len({*toy, *hub, first}) == 5


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("a.jsonl", {"path": "json", "data_dir": "FOLDER"}),
        ("a.jsonl", {"path": "json", "data_dir": "FOLDER", "data_files": "*.jsonl"}),
        ("a.jsonl", {"path": "json", "data_dir": None, "data_files": ["FOLDER/a.jsonl"]}),
        ("a.jsonl", {"path": "json", "data_files": [{"split": "train", "path": ["FOLDER/a.jsonl"]}]}),
        ("train.ndjson", {"path": "FOLDER"}),
        ("sub/TRAIN.JSONL", {"path": "FOLDER", "data_files": None}),
        ("train.zip", {"path": "FOLDER"}),
    ],
)
def test_fingerprints_follow_all_that_datasets_reads(tmp_path, name, asked):
    write(tmp_path / "json" / name, [{"text": "one"}])
    asked = json.loads(json.dumps(asked).replace("FOLDER", str(tmp_path / "json")))
    check_local(source(**asked))
    first = source(**asked).fingerprint
    write(tmp_path / "json" / ".hidden", [])
    assert source(**asked).fingerprint == first
    write(tmp_path / "json" / name, [{"text": "one"}, {"text": "two"}])
    assert source(**asked).fingerprint != first


def test_a_folder_of_the_name_of_a_kind_is_not_read_for_named_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "json" / "a.jsonl", [])
    write(tmp_path / "b.jsonl", [])
    assert source("json", data_files="b.jsonl").files == (Path("b.jsonl"),)


def test_a_card_alone_is_no_data(tmp_path):
    (tmp_path / "README.md").write_text("# A data set\n")
    with pytest.raises(DataError, match="no file or folder '.*' with data in it"):
        check_local(source(tmp_path))


def test_each_file_is_hashed_once(folder, monkeypatch):
    import hashlib

    digest, read = hashlib.file_digest, []

    def counted(opened, name):
        read.append(opened.name)
        return digest(opened, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    first = source(folder).fingerprint
    assert source(folder).fingerprint == first and len(read) == 5
    write(folder / "dev.jsonl", [{"text": "dev, and more"}])
    assert source(folder).fingerprint != first and len(read) == 6


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:5]", list(range(5))),
        ("train[:25%]", [0, 1, 2]),
        ("train[-2:]", [10, 11]),
        ("train[50%:-1_0%](closest)", [6, 7, 8, 9, 10]),
        ("train[:1] + train[11:]", [0, 11]),
    ],
)
def test_the_toy_world_takes_slices(split, expected):
    whole = values("question", source("toy", name="qa", size=12))
    assert values("question", source("toy", name="qa", size=12), split) == [whole[row] for row in expected]
    streamed = read(source("toy", name="qa", size=12, streaming=True), split)
    assert [row["question"] for row in streamed] == [whole[row] for row in expected]


def test_the_toy_world_takes_splits_size_and_seed():
    rows = [values("question", source("toy", name="qa", size=9), split) for split in ("train", "test")]
    assert values("question", source("toy", name="qa", size=9), "train+test") == rows[0] + rows[1]
    seeds = [values("question", source("toy", name="qa", size=12, seed=seed)) for seed in (0, 1)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("path", "options", "split", "expected"),
    [
        ("stanfordnlp/sst2", {}, "train", "stanfordnlp/sst2 [train]"),
        ("toy", {"name": "qa"}, "test", "toy qa [test]"),
    ],
)
def test_where(path, options, split, expected):
    assert describe_source(source(path, **options), split) == expected


def test_where_names_the_file(folder):
    assert describe_source(source(folder), "validation") == str(folder / "dev.jsonl")
    assert describe_source(source(folder), "train+validation") == f"{folder} [train+validation]"


FOLDERS = [
    # the files, the files of each split, those that are left out
    (["train.csv", "test.csv"], {"train": ["train.csv"], "test": ["test.csv"]}, []),
    (["train-00000-of-00002.jsonl.gz", "train-00001-of-00002.jsonl.gz"], {"train": 2}, []),
    (["train-00000-of-00001-0e39ab.parquet", "test-00000-of-00001-77ffc2.parquet"], {"train": 1, "test": 1}, []),
    (["train_1.txt", "train.2.txt", "TRAIN-3.TXT", "train4.txt"], {"train": 4}, []),
    (
        ["dev.csv", "training.csv", "eval.csv"],
        {"validation": ["dev.csv"], "train": ["training.csv"], "test": ["eval.csv"]},
        [],
    ),
    (["the-night-train.txt", "winter.txt", "dev-diary.txt", "test of time.txt", "val.de.mo.txt"], {"train": 5}, []),
    (["a-test.txt", "trains.txt", "developer.txt", "valley.txt", "contest.txt", "evaluate.txt"], {"train": 6}, []),
    (["train.txt", "chapter-1.txt", "test-drive.txt"], {"train": ["train.txt"]}, ["chapter-1.txt", "test-drive.txt"]),
    (["train/a.txt", "train/b.txt", "validation/c.txt"], {"train": 2, "validation": 1}, []),
    (["data/train-00000.parquet", "data/test-00000.parquet"], {"train": 1, "test": 1}, []),
    (["de/0.jsonl", "en/0.jsonl"], {"train": 2}, []),
    (["train.jsonl", "en-de/train.jsonl", "more.jsonl"], {"train": ["train.jsonl"]}, ["more.jsonl"]),
    (["a.txt", "README.md", "LICENSE.txt", "dataset_infos.json", ".hidden.txt", "notes.pdf"], {"train": ["a.txt"]}, []),
    (["state.json", "dataset_info.json", "data-00000-of-00001.arrow"], {"train": ["data-00000-of-00001.arrow"]}, []),
]


@pytest.mark.parametrize(("names", "splits", "left_out"), FOLDERS)
def test_only_names_that_are_a_split_divide_a_folder(tmp_path, names, splits, left_out):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n")
    found = source(tmp_path).splits
    for split, expected in splits.items():
        files = [str(file.relative_to(tmp_path)) for file in found.splits[split]]
        assert len(files) == expected if isinstance(expected, int) else files == expected
    assert found.splits.keys() == splits.keys()
    assert [str(file.relative_to(tmp_path)) for file in found.left_out] == left_out


def test_files_of_no_split_are_listed(tmp_path, caplog):
    for name in ("train.txt", "chapter-1.txt", "chapter-2.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    with caplog.at_level("WARNING", "hflm"):
        assert values("text", source(tmp_path)) == ["train.txt"]
    assert "not read, since their names are no split's: chapter-1.txt, chapter-2.txt" in caplog.text
    with pytest.raises(
        DataError, match="no split 'test'; its splits are 'train' \\(train.txt\\). Of no split: chapter-1"
    ):
        load_rows(source(tmp_path), "test")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("data [v2]/train.jsonl", "data [v2]"),
        ("data [v2]/train.jsonl", "data [v2]/train.jsonl"),
        ("data [v2]/train.jsonl", "data [v2]/*.jsonl"),
        ("what?.jsonl", "what?.jsonl"),
        ("a*b.jsonl", "a*b.jsonl"),
        ("[12]/x[1].jsonl", "[12]/x[1].jsonl"),
        ("[12]/deep/er/x.jsonl", "[12]/**/x.jsonl"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_path_that_exists_is_no_pattern(tmp_path, monkeypatch, name, path, named):
    monkeypatch.chdir(tmp_path)
    for decoy in (
        "data 2/train.jsonl",
        "data v/train.jsonl",
        "what1.jsonl",
        "axb.jsonl",
        "1/x1.jsonl",
        "[12]/x1.jsonl",
    ):
        write(tmp_path / decoy, [{"text": "another file"}])
    write(tmp_path / name, [{"text": "right"}])
    asked = source("json", data_files=path) if named and not path.endswith("]") else source(path)
    assert values("text", asked) == ["right"]
    assert read_documents(Sources((asked,))).texts == ["right"]
    first = asked.fingerprint
    write(tmp_path / name, [{"text": "changed"}])
    assert replace(asked).fingerprint != first


def test_the_rows_are_those_of_the_fingerprint(tmp_path):
    """A file of the same name, size and time is another one when its bytes are."""
    file = tmp_path / "test.csv"
    file.write_text("text\nold\n")
    before, asked = file.stat(), source(tmp_path)
    first = asked.fingerprint
    assert values("text", asked, "test") == ["old"]
    file.write_text("text\nnew\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert values("text", asked, "test") == ["new"]
    assert source(tmp_path).fingerprint != first


def test_a_kind_of_file_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="'csv' is a kind of file, and no folder of that name is here. Name the files"):
        load_rows(source("csv"))
    (tmp_path / "other.csv").write_text("text\nnamed\n")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("text\ninside\n")
    assert values("text", source("csv", data_files="other.csv")) == ["named"]
    assert values("text", source("csv")) == ["inside"]
    assert values("text", source("csv", data_dir="csv")) == ["inside"]
    assert source("csv", data_files="other.csv").files == (Path("other.csv"),)


def test_a_name_of_a_data_file_is_never_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("reviews.csv", "data/train.jsonl"):
        assert not source(path).is_hub
        with pytest.raises(DataError, match=f"no file or folder '{path}'"):
            load_rows(source(path))


def test_a_card_says_which_files_are_read(tmp_path):
    for name in ("one.tsv", "two.tsv", "more/three.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text\n{name}\n")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: one.tsv}\n"
        "  - {split: test, path: ['t*.tsv']}\n- {config_name: more, data_dir: more}\n---\n"
    )
    assert values("text", source(tmp_path)) == ["one.tsv"]
    assert values("text", source(tmp_path), "test") == ["two.tsv"]
    assert values("text", source(tmp_path, name="more")) == ["more/three.tsv"]
    with pytest.raises(DataError, match="names the configurations default, more. Set data.name"):
        load_rows(source(tmp_path, name="less"))
    with pytest.raises(DataError, match="no split 'validation'; it names: train, test"):
        load_rows(source(tmp_path), "validation")


def test_an_archive_is_named_as_such(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="a.zip is an archive. Unpack it"):
        load_rows(source("json", data_files=str(tmp_path / "a.zip")))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "a.txt").write_text("x\n")
    code = (
        "from hflm.data import *; from hflm.recipe import Data; "
        f"read_documents(Sources((resolve_data(Data(path={str(tmp_path / 'a.txt')!r})),)))"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path / "file" / "x")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "DataError: the cache of datasets, " in done.stderr and "Set HF_HOME to a folder" in done.stderr


@pytest.mark.parametrize(
    ("text", "options", "rows", "warns"),
    [
        ("To be, or not to be\nAside.\nExeunt.\n" * 9, {}, "documents", True),
        ("To be, or not to be\nAside.\nExeunt.\n" * 9, {}, "lines", False),
        ("To be, or not to be\n\nAside.\n" * 9, {"sample_by": "paragraph"}, "documents", False),
        (f"{'a document of many words ' * 5}\n" * 9, {}, "documents", False),
    ],
)
def test_lines_of_prose_that_became_documents_are_a_warning(tmp_path, text, options, rows, warns):
    (tmp_path / "a.txt").write_text(text)
    sources = Sources((source(tmp_path / "a.txt", **options),), rows=rows)
    warning = warn_of_lines(sources, read_documents(sources).texts)
    assert (warning is not None) == warns
    assert not warns or ("a.txt: each line is a document" in warning and "`sample_by: paragraph`" in warning)


def test_lengths_of_documents():
    assert describe_lengths(["To be, or not to be", "Aside.", "Exeunt."]) == (
        "median 1 words (7 characters), longest 19 characters"
    )
