"""A process that hangs without ending is named, and the others end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hflm.training.heartbeat import Heartbeat, describe


def sign(folder, process, beats, signs, step=41):
    content = {"beats": beats, "step": step, "signs": signs, "host": "node7", "pid": 4711}
    (folder / f"heartbeat-{process}.json").write_text(json.dumps(content))


@pytest.fixture
def observed(tmp_path):
    """Which of two processes hang as process 0 sees it, looking every 10 s at what `files(process, now)` gives.

    `files` gives (beats, signs), or None where a process has no file.
    """

    def observe(files, seconds, paused=()):
        heartbeat = Heartbeat("pretrain", tmp_path, 0, 2, timeout=100)
        start, hung = heartbeat.looked_at, {}
        for now in range(0, seconds, 10):
            if now in paused:
                continue
            for process in (0, 1):
                content = files(process, now)
                (tmp_path / f"heartbeat-{process}.json").unlink(missing_ok=True)
                if content is not None:
                    sign(tmp_path, process, *content)
            hung = heartbeat.hung(start + now)
            if hung:
                return now, sorted(hung), describe(hung, start + now)
        return None

    return observe


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (lambda process, now: (now, now), None),  # both train
        (lambda process, now: (min(now, 200), now), None),  # both wait at the same place, as while one of them saves
        (lambda process, now: (now, now) if process == 0 else (min(now, 50), min(now, 50)), (140, [1])),  # stopped
        (lambda process, now: (min(now, 60), now) if process == 0 else (min(now, 50), now), (140, [1])),  # it is behind
        (lambda process, now: (min(now, 60), now) if process == 1 else (min(now, 50), now), (140, [0])),  # itself
        (lambda process, now: (now // 80 * 10, now), None),  # slow steps
        (lambda process, now: (now, now) if process == 0 or now < 100 else None, None),  # one has ended
        (lambda process, now: (min(now, 50),) * 2, (140, [0, 1])),  # no file changes any more
    ],
)
def test_which_process_hangs(observed, files, found):
    hung = observed(files, 1000)
    assert (hung and hung[:2]) == found


def test_a_machine_that_was_suspended_blames_nobody(observed):
    """Process 0 does not look for 300 s, and the other has not moved since: it was stopped, too."""
    assert observed(lambda process, now: (now // 400, now // 400), 480, paused=range(60, 360)) is None


def test_the_message_names_rank_step_and_time(observed):
    _, _, message = observed(lambda process, now: (now, now) if process == 0 else (1, 1), 1000)
    assert message.startswith("rank 1 (process 4711 on node7) has been at step 41 for 90 s. The others wait for it")
    assert "continues from the last checkpoint" in message


def test_one_process_watches_nothing(tmp_path):
    with Heartbeat("pretrain", tmp_path, 0, 1, timeout=0.01):
        assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_a_full_disk_ends_nobody(tmp_path, monkeypatch):
    """Process 1 does not move; process 0 cannot write, so that it does not judge either."""
    ended, tried, often = [], [], threading.Event()

    def full(*_):
        tried.append(time.monotonic())
        if tried[-1] - tried[0] > 1:
            often.set()
        raise OSError("No space left on device")

    monkeypatch.setattr("hflm.training.heartbeat.atomic_write_text", full)
    monkeypatch.setattr(Heartbeat, "_end", lambda self, hung: ended.append(hung))
    sign(tmp_path, 1, 7, 7)
    with Heartbeat("pretrain", tmp_path, 0, 2, timeout=0.2):
        assert often.wait(60)
    assert ended == []


# Steps that end in a collective operation; its timeout is far longer than the heartbeat's.
JOB = """
import os, sys
from datetime import timedelta
from types import SimpleNamespace
import torch
from hflm.training.heartbeat import Heartbeat

torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=600))
rank = torch.distributed.get_rank()
with Heartbeat("pretrain", sys.argv[1], rank, 2, timeout=2) as heartbeat:
    for step in range(1_000_000):
        heartbeat.on_step_begin(None, SimpleNamespace(global_step=step), None)
        torch.distributed.all_reduce(torch.ones(1))
        heartbeat.on_step_end(None, SimpleNamespace(global_step=step + 1), None)
"""


@pytest.mark.parametrize("stopped", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_stopped_process_is_named_and_the_other_one_ends(tmp_path, stopped):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in (0, 1):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment = {**os.environ, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", JOB, str(tmp_path)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    other = processes[1 - stopped]
    try:
        while not all((tmp_path / f"heartbeat-{rank}.json").exists() for rank in (0, 1)):
            assert all(process.poll() is None for process in processes), other.stderr.read()
            time.sleep(0.05)
        processes[stopped].send_signal(signal.SIGSTOP)
        errors = other.communicate(timeout=60)[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()
    assert other.returncode == 1
    assert f"pretrain: rank {stopped} (process {processes[stopped].pid} on" in errors and "has been at step" in errors
