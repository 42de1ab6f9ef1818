"""The configurations under recipes/launch: read by accelerate itself, and run where no GPU is needed."""

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hflm import recipe
from recipes import tiny_recipe

HOME = Path(recipe.__file__).parents[2]
LAUNCH = HOME / "recipes" / "launch"
SECTIONS = """
processes: 2
pretrain:
  data: {path: toy, name: stories, size: 60}
  args: {max_steps: 3, per_device_train_batch_size: 2, logging_steps: 1}
"""
RECIPE = tiny_recipe("launched", SECTIONS)


def environment(**more):
    return {
        **os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", **more
    }  # fmt: skip


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_takes_the_configuration_as_it_is_meant(file):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    text = file.read_text()
    command = next(line for line in text.splitlines() if "accelerate launch" in line)
    assert f"--config_file recipes/launch/{file.name}" in command
    config = load_config_from_file(str(file))
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "-m", "hflm", "run", "RECIPE"])
    arguments.nondefault = set()
    arguments, *_ = _validate_launch_command(arguments)
    assert arguments.mixed_precision == "no"  # anything else would overrule what hflm chooses from the device
    written = yaml.safe_load(text)
    assert (arguments.num_processes, arguments.num_machines) == (config.num_processes, config.num_machines)
    assert arguments.use_fsdp == ("fsdp" in file.stem)
    assert arguments.multi_gpu == (file.stem in ("ddp", "ddp_nodes", "cpu"))
    for key, value in written.get("fsdp_config", {}).items():
        assert str(getattr(arguments, key)).lower() == str(value).lower()


def test_they_are_no_recipes():
    assert not any(name.startswith("launch") for name in recipe.shipped_recipes())


@pytest.fixture
def cluster(tmp_path):
    """A folder of commands in place of Slurm's; each writes down how it was called. Gives a function that runs the job."""
    bin = tmp_path / "bin"
    bin.mkdir()
    expected = {
        "scontrol": 'if [ "$1" = show ]; then printf "first\\nsecond\\n"; fi',
        "scancel": 'kill -TERM "$(cat accelerate.pid)"',
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; code=$?; done; exit $code',
        "accelerate": "$BEHAVIOUR",
    }
    for name, does in expected.items():
        does = 'echo $$ > accelerate.pid; eval "$BEHAVIOUR"' if name == "accelerate" else does
        (bin / name).write_text(f'#!/bin/bash\necho {name} "$@" >> calls\n{does}\n')
        (bin / name).chmod(0o755)

    def run(behaviour, *arguments, **more):
        slurm = {"SLURM_JOB_ID": "71", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NODELIST": "n[1-2]"}
        found = environment(PATH=f"{bin}:{os.environ['PATH']}", BEHAVIOUR=behaviour, **{**slurm, **more})
        job = subprocess.Popen(["bash", str(LAUNCH / "slurm.sh"), *arguments], cwd=tmp_path, env=found)
        return job, tmp_path / "calls"

    return run


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (2, False), (143, True)])
def test_slurm_starts_every_machine_and_queues_a_stopped_job_again(cluster, code, again):
    job, calls = cluster(f"exit {code}", "my recipe.yaml", "--set", "a.b=[1, 2]")
    assert job.wait(60) == code
    lines = calls.read_text().splitlines()
    launches = [line for line in lines if line.startswith("accelerate")]
    assert len(launches) == 2
    for rank, line in enumerate(launches):
        assert line == (
            "accelerate launch --config_file recipes/launch/ddp_nodes.yaml --num_machines 2 --num_processes 8 "
            f"--main_process_ip first --main_process_port 20071 --machine_rank {rank} "
            "-m hflm run my recipe.yaml --set a.b=[1, 2]"
        )
    assert ("scontrol requeue 71" in lines) == again


@pytest.mark.parametrize(("of_the_user", "used"), [({}, "150"), ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9"}, "9")])
def test_slurm_leaves_the_processes_time_to_save_a_checkpoint(cluster, monkeypatch, of_the_user, used):
    """torch's elastic agent kills them 30 s after SIGTERM unless the variable says otherwise."""
    for name, value in of_the_user.items():
        monkeypatch.setenv(name, value)
    job, calls = cluster('echo "timeout $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >> calls', "r.yaml")
    assert job.wait(60) == 0
    assert f"timeout {used}" in calls.read_text().splitlines()


def test_slurm_hands_a_signal_on_and_waits_for_the_checkpoint(cluster, tmp_path):
    slow = "[ -e saved ] && exit 1; trap 'sleep 1; touch saved; exit 1' TERM; touch started; while true; do sleep 0.1; done"
    job, calls = cluster(slow, "r.yaml")
    while not (tmp_path / "started").exists():
        assert job.poll() is None
    job.terminate()
    assert job.wait(60) == 1
    assert (tmp_path / "saved").exists()
    assert calls.read_text().splitlines()[-1] == "scontrol requeue 71"


def launched(file, *options, rank=None):
    """The command that a launch file's comment gives, with as many processes as fit on this machine's CPUs."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / file), *options]
    if rank is None:
        command += ["--main_process_port", "0"]
    else:
        command += ["--num_machines", "2", "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1"]
        command += ["--main_process_port", str(free_port())]
    # accelerate shards on accelerators only; the script makes it take CPUs for them.
    hflm = [str(HOME / "tests" / "fsdp2_on_cpu.py"), "hflm"] if "fsdp2" in file else ["-m", "hflm"]
    return [*command, *hflm, "run", "r.yaml"]


@functools.cache
def free_port():
    """One of those that slurm.sh may choose."""
    for port in range(20000 + os.getpid() % 10000, 40000):
        with socket.socket() as opened, contextlib.suppress(OSError):
            opened.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def check_run(folder, log, processes):
    """The run has ended on so many processes, which divided the model where they were to."""
    assert f"{processes} process{'es' * (processes > 1)} on cpu" in log
    record = json.loads((folder / "runs" / "launched" / "environment.json").read_text())
    assert (record["processes"], record["stages"]["pretrain"]["steps"]) == (processes, 3)
    assert (folder / "runs" / "launched" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("file", [path.name for path in sorted(LAUNCH.glob("*.yaml"))])
def test_each_configuration_trains(tmp_path, file):
    """Its own command, on CPUs: two processes of one machine, or two machines of one process each."""
    free_port.cache_clear()
    processes = 1 if file == "one_gpu.yaml" else 2
    (tmp_path / "r.yaml").write_text(RECIPE.replace("processes: 2", f"processes: {processes}"))
    options = ["--num_processes", str(processes)] if processes > 1 else []
    ranks = (0, 1) if "nodes" in file else (None,)
    started = [
        subprocess.Popen(
            launched(file, *options, rank=rank), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            env=environment(ACCELERATE_USE_CPU="true"),
        )
        for rank in ranks
    ]  # fmt: skip
    logs = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(logs)[-3000:]
    check_run(tmp_path, "\n".join(logs), processes)


@pytest.mark.slow
def test_slurm_trains_on_two_machines(cluster, tmp_path):
    """slurm.sh with accelerate itself and ddp_nodes.yaml; srun is two processes of this machine."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    bin = tmp_path / "bin"
    each = 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" & done; wait -n && wait -n'
    scripts = {
        "srun": f"shift; {each}",
        "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; fi',
        "accelerate": f'exec {sys.executable} -m accelerate.commands.launch "${{@:2}}"',
    }
    for name, does in scripts.items():
        (bin / name).write_text(f'#!/bin/bash\necho {name} "$@" >> calls\n{does}\n')
    job, calls = cluster(
        "",
        "r.yaml",
        SLURM_GPUS_ON_NODE="1",
        ACCELERATE_USE_CPU="true",
        SLURM_JOB_ID=str(free_port() - 20000),
        CONFIG=str(LAUNCH / "ddp_nodes.yaml"),
    )
    assert job.wait(300) == 0
    assert "scontrol requeue" not in calls.read_text()
    check_run(tmp_path, (tmp_path / "runs" / "launched" / "run.log").read_text(), 2)


@pytest.mark.slow
def test_accelerates_own_option_for_cpus_starts_one_process_which_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    one = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    ended = subprocess.run(
        [*one, "-m", "hflm", "run", "r.yaml"], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert ended.returncode != 0
    assert "processes: the recipe asks for 2, and 1 started. Use `torchrun --nproc_per_node 2" in ended.stderr
    assert not (tmp_path / "runs").exists()


SWEEP_JOB = {"SLURM_JOB_ID": "72", "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(
    ("behaviour", "code", "requeued"),
    [
        ('echo hflm "$@" >> calls', 0, False),
        ("exit 2", 2, False),  # a recipe that is wrong stays wrong
        ("exit 143", 143, True),  # stopped with a checkpoint saved
        # SIGTERM of Slurm's reaches the worker, which saves its checkpoint in its own time.
        ("trap 'touch saved; exit 143' TERM; kill -TERM $PPID; while true; do sleep 0.05; done", 143, True),
    ],
)
def test_slurm_starts_a_worker_of_a_sweep_and_queues_a_stopped_one_again(tmp_path, behaviour, code, requeued):
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, does in {"hflm": behaviour, "scontrol": 'echo scontrol "$@" >> calls'}.items():
        (bin / name).write_text(f"#!/bin/bash\n{does}\n")
        (bin / name).chmod(0o755)
    (tmp_path / "calls").touch()
    found = environment(PATH=f"{bin}:{os.environ['PATH']}", **SWEEP_JOB)
    job = subprocess.run(
        ["bash", str(LAUNCH / "slurm_sweep.sh"), "my recipe.yaml"], cwd=tmp_path, env=found, timeout=60
    )
    assert job.returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ("scontrol requeue 71_3" in calls) == requeued
    assert code != 0 or calls == ["hflm sweep my recipe.yaml"]
    assert (tmp_path / "saved").exists() == ("saved" in behaviour)
