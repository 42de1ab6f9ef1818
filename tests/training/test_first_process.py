"""The process group: preparation that takes longer than its timeout, and CPUs of a machine that has a GPU."""

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


GPU_UNUSED = """
import torch
torch.cuda.is_available = torch.accelerator.is_available = lambda: True
torch.accelerator.current_accelerator = lambda check_available=False: torch.device("cuda")
from hflm.training import start_processes
print(start_processes(timeout_seconds=60).device.type, torch.distributed.get_backend())
torch.distributed.destroy_process_group()
"""


def test_cpus_of_a_machine_with_a_gpu_are_joined_by_gloo(tmp_path):
    """As recipes/launch/cpu.yaml is used; NCCL would be fed tensors that are not on a GPU."""
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {**os.environ, **group, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", GPU_UNUSED]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.stdout.split() == ["cpu", "gloo"], ended.stderr
