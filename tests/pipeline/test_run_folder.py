"""Where a run writes: folders that are refused, the lock, what an error leaves."""

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from hflm.core import UserError
from hflm.pipeline.run_folder import LOCK, STALE_SECONDS, locked_folder, run_folder
from hflm.recipe import load_recipe


@pytest.fixture
def recipe():
    return load_recipe("quickstart")


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        ({}, True),
        ({"stages.json": "{}"}, True),
        ({"environment.json": '{"hflm": "0.1.0"}', "recipe.yaml": "name: x"}, True),
        ({".lock": "{}", "run.log": "read 5 rows"}, True),  # stopped while it read the data
        ({".lock": "{}", "run.log": "", "stage_inputs.json": "{}"}, True),  # killed after the first of its records
        ({".lock": "{}", "run.log": "", ".stage_inputs.json.4711.tmp": "{"}, True),  # and while it wrote it
        ({".mine.tmp": ""}, False),
        ({"notes.txt": "mine"}, False),
        ({"README.md": "# My project", "recipe.yaml": "name: x"}, False),
        ({"environment.json": "[]"}, False),
        ({"environment.json": '{"name": "conda"}'}, False),
        ({"model/config.json": "{}"}, False),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, recipe, content, accepted):
    folder = tmp_path / "out"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    if accepted:
        assert run_folder(recipe, str(folder)) == folder
    else:
        with pytest.raises(UserError, match="exists already and is no run of hflm's"):
            run_folder(recipe, str(folder))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == content.keys()


def test_an_empty_output_and_a_file_are_refused(tmp_path, recipe):
    (tmp_path / "file").write_text("mine")
    refused = [("", "--output is empty"), (" ", "--output is empty"), (tmp_path / "file", "is a file")]
    refused += [(tmp_path / "file" / "run", "file is a file"), (tmp_path / "file" / "a" / "run", "file is a file")]
    for output, message in refused:
        with pytest.raises(UserError, match=message):
            run_folder(recipe, output)


@pytest.mark.parametrize("option", [[], ["--fresh"], ["--dry-run"]])
@pytest.mark.parametrize("output", [".", ""])
def test_the_command_writes_nothing_into_a_folder_of_the_user(tmp_path, output, option):
    (tmp_path / "README.md").write_text("mine")
    command = [sys.executable, "-m", "hflm", "run", "quickstart", "--output", output, *option]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def holder(**changes):
    own = {"process": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}
    return json.dumps({**own, "time": "2026-01-01T00:00:00+00:00", **changes})


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("lock", "age", "refused"),
    [
        (lambda: holder(), 0, True),
        (lambda: holder(), 10 * STALE_SECONDS, True),  # a process of this machine is asked for, not its time
        (lambda: holder(process=dead_process()), 0, False),
        (lambda: holder(started=1.0), 0, False),  # another process has got its number
        (lambda: holder(host="elsewhere"), 0, True),
        (lambda: holder(host="elsewhere"), 2 * STALE_SECONDS, False),
        (lambda: "", 0, True),  # just being written
        (lambda: "", STALE_SECONDS, False),
    ],
)
def test_one_run_at_a_time_and_a_stale_lock_is_taken_over(tmp_path, lock, age, refused):
    path = tmp_path / LOCK
    path.write_text(lock())
    then = time.time() - age
    os.utime(path, (then, then))
    if refused:
        with pytest.raises(UserError, match="another run is writing there"), locked_folder(tmp_path):
            pass
        assert path.exists()
        return
    with locked_folder(tmp_path):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_of_several_that_find_a_stale_lock_one_holds_it(tmp_path):
    (tmp_path / LOCK).write_text(holder(process=dead_process()))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hflm.core import UserError\n"
        "from hflm.pipeline.run_folder import locked_folder\n"
        "try:\n    with locked_folder(Path('.')):\n        print('held', flush=True); sys.stdin.read()\n"
        "except UserError:\n    print('refused', flush=True)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes) for _ in range(4)]
    printed = sorted(process.stdout.readline().strip() for process in started)
    for process in started:
        process.communicate()
    assert printed == ["held", "refused", "refused", "refused"]


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    for name in (".recipe.yaml.4711.tmp", "kept.tmp", ".mine.tmp", "recipe.yaml"):
        (tmp_path / name).write_text("name: x")
    with locked_folder(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, "kept.tmp", ".mine.tmp", "recipe.yaml"}


def test_an_error_before_anything_is_written_leaves_no_folder(tmp_path):
    with pytest.raises(UserError), locked_folder(tmp_path / "new"):
        raise UserError("no such data")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    too_long = tmp_path / ("x" * 300)
    with (
        pytest.raises(UserError, match="cannot be made: File name too long. Name another folder"),
        locked_folder(too_long),
    ):
        pass
