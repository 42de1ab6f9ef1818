"""Loss curves that must not change: gpt2-nano on the toy stories, alone and divided among two processes.

Each job trains several configurations in one process group, so that the start-up is paid once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hflm.core import read_json_lines

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.json"
JOB = HERE / "training_job.py"
CONFIGURATIONS = ("adamw", "accumulation", "muon", "lora")


def run_job(folder: Path, *, processes: int = 1, sharded: bool = False, mode: str = "curves") -> None:
    """Run training_job.py in `folder` and wait; raises with its output when it fails."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    shim = [str(HERE.parent / "fsdp2_on_cpu.py")] if sharded else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "default"}
    command = [sys.executable, *launch, *shim, str(JOB), mode, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-6000:]


def curve(folder: Path, name: str) -> dict[str, list[float]]:
    """{"loss": [...], "eval_loss": [...]} of a configuration."""
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return {key: [row[key] for row in rows if key in row] for key in ("loss", "eval_loss")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_job(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_curve_is_the_recorded_one(alone: Path, name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    for key, values in curve(alone, name).items():
        assert values == pytest.approx(golden[name][key], abs=2e-3), f"{name}: {key}"


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_have_the_curves_of_one(alone: Path, tmp_path: Path, sharded: bool) -> None:
    run_job(tmp_path, processes=2, sharded=sharded)
    for name in CONFIGURATIONS:
        for key, values in curve(tmp_path, name).items():
            # Muon magnifies the last bits of a gradient.
            tolerance = 1e-3 if name == "muon" else 1e-5
            assert values == pytest.approx(curve(alone, name)[key], abs=tolerance), f"{name}: {key}"


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "sharded"), [(1, False), (2, False), (2, True)], ids=["one", "ddp", "fsdp2"])
def test_a_run_killed_after_any_step_ends_in_the_same_weights(tmp_path: Path, processes: int, sharded: bool) -> None:
    run_job(tmp_path, processes=processes, sharded=sharded, mode="kills")
    table = json.loads((tmp_path / "kills.json").read_text())
    assert len(table) >= 12
    assert [row for row in table if not row["same_weights"] or row["steps"] != row["asked"]] == []


@pytest.mark.slow
def test_tasks_are_scored_alike_on_one_and_several_processes(tmp_path: Path) -> None:
    scores, kept = {}, {}
    for name, (processes, sharded) in {"one": (1, False), "ddp": (2, False), "fsdp2": (2, True)}.items():
        run_job(tmp_path / name, processes=processes, sharded=sharded, mode="scores")
        lines = read_json_lines(tmp_path / name / "with" / "metrics.jsonl")
        scores[name] = [
            {key: each[key] for key in each if key[:5] == "eval_"} for each in lines if "eval_qa_f1" in each
        ]
        kept[name] = json.loads((tmp_path / name / "scores.json").read_text())
        assert kept[name]["same"], f"{name}: an evaluation changed the weights"
    assert len(scores["one"]) == 5
    for name in ("ddp", "fsdp2"):
        assert kept[name] == pytest.approx(kept["one"])
        for ours, theirs in zip(scores[name], scores["one"], strict=True):
            for key in ours.keys() - {"eval_runtime"}:
                assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), f"{name}: {key}"
