import os

import pytest

from hflm.core import atomic_folder, atomic_write_text


def test_a_failed_write_keeps_what_was_there_and_leaves_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")
    monkeypatch.setattr("hflm.core.atomic_io.os.fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_text_is_written_as_it_is(tmp_path):
    atomic_write_text(tmp_path / "new" / "a.txt", "é\r\n\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\r\n\n".encode()


def folder_of(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "model") as partial:
            (partial / text).write_text(text)
    assert folder_of(tmp_path / "model") == {"two": "two"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("fails_at", ["write", "first rename", "second rename"])
def test_the_old_folder_stays_until_the_new_one_is_in_its_place(tmp_path, monkeypatch, fails_at):
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "old").write_text("old")
    renames, rename = [], os.rename

    def failing(path, target):
        renames.append(target)
        if len(renames) == (1 if fails_at == "first rename" else 2):
            raise OSError("disk full")
        rename(path, target)

    if fails_at != "write":
        monkeypatch.setattr("hflm.core.atomic_io.os.rename", failing)
    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path / "model") as partial:
        (partial / "new").write_text("new")
        if fails_at == "write":
            raise OSError("disk full")
    assert folder_of(tmp_path / "model") == {"old": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_machine_that_stopped_between_the_renames_loses_nothing(tmp_path):
    (tmp_path / ".model-x.old").mkdir()
    (tmp_path / ".model-x.old" / "old").write_text("old")
    with pytest.raises(OSError), atomic_folder(tmp_path / "model"):
        raise OSError("stopped again")
    assert folder_of(tmp_path / "model") == {"old": "old"}
