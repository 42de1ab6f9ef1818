"""Preparation by the first process takes longer than the timeout of collectives, and no process dies."""

import os
import subprocess
import sys

import pytest

SLOW = """
import sys, time
from hflm.training import start_processes, wait_for_all

state = start_processes(timeout_seconds=5)
if state.is_main_process:
    time.sleep(12)
    open("prepared", "w").close()
wait_for_all()
assert open("prepared")
state.wait_for_everyone()
print("rank", state.process_index, "is done")
"""


@pytest.mark.slow
def test_no_process_dies_while_the_first_one_prepares(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "slow.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    ended = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "rank 0 is done" in ended.stdout and "rank 1 is done" in ended.stdout
