"""Rows from files and folders as the recipe says; what is wrong with them by file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from sources import source, zstd

from hflm.core import DataError
from hflm.data import BadRow, Row, check_local, data_fingerprint, describe_source, load_rows, source_files
from hflm.recipe import Data


def read(asked: Data, split: str = "train") -> list[Row]:
    """The rows of a split; its bad rows are an error, as for a task."""
    rows = list(load_rows(asked, split))
    if bad := [str(row) for row in rows if isinstance(row, BadRow)]:
        raise DataError("\n".join(bad))
    return rows


def values(column: str, asked: Data, split: str = "train") -> list[str]:
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
    ("name", "beside"),
    [
        ("train.txt", {"README.md": "# A\n", "LICENSE": "MIT\n", "c.jsonl": "{}"}),
        ("a.txt", {"README.md": "# A\n", "LICENSE": "MIT\n", "dataset_infos.json": "{}"}),
        ("data/train-00000-of-00001.txt", {"notes.jsonl": "{}"}),
        ("a.txt", {"README.md": "---\nconfigs:\n- {config_name: a, data_files: '*.txt'}\n---\n", "c.jsonl": "{}"}),
        ("a.jsonl", {"LICENSE.txt": "MIT\n"}),
    ],
)
def test_what_lies_beside_the_data_is_no_data(tmp_path, name, beside):
    for each, content in {name: '{"text": "a"}', **beside}.items():
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
    for asked in (
        source("~nosuch/x.txt"),
        source("json", data_files="~nosuch/x.jsonl"),
        source("json", data_dir="~nosuch"),
    ):
        with pytest.raises(DataError, match="no such home folder"):
            data_fingerprint(asked)


def test_an_unknown_split_lists_the_files(folder):
    with pytest.raises(DataError, match=r"no split 'holdout'.*train.jsonl"):
        read(source(folder), "holdout")


def test_a_single_file_has_no_other_split(folder):
    for path in ("train.jsonl", "t*.jsonl"):
        with pytest.raises(DataError, match="only the split 'train', not 'test'"):
            read(source(folder / path), "test")


def test_fingerprints_follow_the_content(folder, tmp_path_factory):
    import shutil

    first = data_fingerprint(source(folder))
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.copytree(folder, moved)
    assert data_fingerprint(source(moved)) == first
    write(moved / "train.jsonl", [{"text": "changed"}])
    assert data_fingerprint(source(moved)) != first
    toy = [data_fingerprint(source("toy", name="qa")), data_fingerprint(source("toy", name="qa", seed=1))]
    hub = [data_fingerprint(source("a/b")), data_fingerprint(source("a/b", revision="v2"))]
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
    asked = source(**json.loads(json.dumps(asked).replace("FOLDER", str(tmp_path / "json"))))
    check_local(asked)
    first = data_fingerprint(asked)
    write(tmp_path / "json" / ".hidden", [])
    assert data_fingerprint(asked) == first
    write(tmp_path / "json" / name, [{"text": "one"}, {"text": "two"}])
    assert data_fingerprint(asked) != first


def test_a_folder_of_the_name_of_a_kind_is_not_read_for_named_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "json" / "a.jsonl", [])
    write(tmp_path / "b.jsonl", [])
    assert [str(file) for file in source_files(source("json", data_files="b.jsonl"))] == ["b.jsonl"]


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
    first = data_fingerprint(source(folder))
    assert data_fingerprint(source(folder)) == first and len(read) == 5
    write(folder / "dev.jsonl", [{"text": "dev, and more"}])
    assert data_fingerprint(source(folder)) != first and len(read) == 6


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
