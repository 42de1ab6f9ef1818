"""Two real processes: one that dies, one that hangs, a signal that comes at different steps."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from recipes import tiny_recipe

SECTIONS = """
pretrain:
  data: {path: toy, name: stories, size: 40}
  args: {max_steps: 20000, per_device_train_batch_size: 1, logging_steps: 1, save_strategy: "no"}
"""
LONG = tiny_recipe("long", SECTIONS)


@pytest.fixture
def started(tmp_path, request):
    """(torchrun's process, {rank: its process}) of a training on two processes that has taken some steps.

    The parameter, where there is one, is a change of the recipe.
    """
    sets = ["--set", request.param] if hasattr(request, "param") else []
    (tmp_path / "long.yaml").write_text(LONG)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "hflm", "run", "long.yaml", "--output", "run", *sets],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONWARNINGS": "default", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5"},
        )
    metrics = tmp_path / "run" / "pretrain" / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        ranks = {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()}
        yield process, ranks
    finally:
        process.kill()
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
        process.wait()


def test_a_dead_rank_ends_the_others_with_the_cause(started, tmp_path):
    process, ranks = started
    ranks[1].send_signal(signal.SIGKILL)
    assert process.wait(60) != 0
    assert not ranks[0].is_running()
    log = (tmp_path / "log").read_text()
    assert "Signal 9 (SIGKILL)" in log and "rank      : 1" in log


def test_a_signal_that_comes_at_different_steps_stops_both_ranks_at_the_same_one(started, tmp_path):
    process, ranks = started
    ranks[1].send_signal(signal.SIGTERM)
    time.sleep(0.2)
    ranks[0].send_signal(signal.SIGTERM)
    process.wait(60)
    log = (tmp_path / "log").read_text()
    assert "stopped by SIGTERM, a checkpoint is saved" in log, log
    [checkpoint] = (tmp_path / "run" / "pretrain").glob("checkpoint-*")
    assert (checkpoint / "checksums.json").is_file()
    assert (checkpoint / "rng_state_1.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("started", ["pretrain.args.ddp_timeout=20"], indirect=True)
def test_a_rank_that_hangs_is_named_and_all_end(started, tmp_path):
    process, ranks = started
    ranks[1].send_signal(signal.SIGSTOP)
    assert process.wait(60) != 0
    assert not any(rank.is_running() for rank in ranks.values())
    for log in (tmp_path / "log", tmp_path / "run" / "run.log"):
        assert f"pretrain: rank 1 (process {ranks[1].pid} on" in log.read_text()
    assert "Timed out waiting" not in (tmp_path / "log").read_text()


# Runs a recipe whose first process takes longer for the data's checksums and text than a collective operation may.
SLOW = """
import sys, time
from hflm.pipeline import run, run_recipe
from hflm.recipe import load_recipe

read, resolve = run.read_corpus, run.resolve_inputs

def slow(*arguments):
    time.sleep(30)
    print("read by one process", file=sys.stderr)
    return read(*arguments)

def slow_checksums(*arguments):
    time.sleep(25)
    print("checksums by one process", file=sys.stderr)
    return resolve(*arguments)

run.read_corpus, run.resolve_inputs = slow, slow_checksums
sets = ["pretrain.args.max_steps=3", "pretrain.args.ddp_timeout=20", "pretrain.validation=0.2"]
run_recipe(load_recipe("long.yaml", sets), "run")
"""


@pytest.mark.slow
def test_data_that_take_longer_than_a_collective_operation_may_end_no_process(tmp_path):
    (tmp_path / "long.yaml").write_text(LONG)
    (tmp_path / "slow.py").write_text(SLOW)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [sys.executable, *launcher, "slow.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stderr.count("read by one process") == ended.stderr.count("checksums by one process") == 1
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "pretrain" / "rows").exists()
