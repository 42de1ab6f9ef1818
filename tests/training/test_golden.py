"""Loss curves that must not change: gpt2-nano on the toy stories, alone and divided among several processes.

Each job trains several configurations in one process group, so that the start-up is paid once. Where the stories have
changed, `python tests/training/test_golden.py` records the curves anew.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hflm.core import read_json_lines

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.json"
JOB = HERE / "training_job.py"
# In fp32 on any CPU: one with wider registers or bf16 units would choose other kernels and formats.
PLAIN_CPU = {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
CONFIGURATIONS = ("adamw", "accumulation", "muon", "lora")
ELASTIC = ("rows", "muon", "lora", "stream", "without batch_tokens")


def run_job(folder: Path, *, processes: int = 1, sharded: bool = False, mode: str = "curves") -> None:
    """Run training_job.py in `folder` and wait; raises with its output when it fails."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    shim = [str(HERE.parent / "fsdp2_on_cpu.py")] if sharded else []
    environment = {**os.environ, **PLAIN_CPU, "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "default"}
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


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The trained weights of a configuration; of an adapter, its own.

    Without the output layer, which FSDP2 writes although it is the embedding, and without the biases of keys, which add
    the same to all scores of a query: their gradient is rounding alone, which AdamW divides by itself.
    """
    [file] = (folder / name / "model").glob("*model.safetensors")
    found = load_file(file)
    found.pop("lm_head.weight", None)
    for each in (tensor for key, tensor in found.items() if key.endswith("c_attn.bias")):
        each.view(3, -1)[1] = 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "sharded"), [(2, False), (2, True), (4, True)], ids=["two ddp", "two fsdp2", "four fsdp2"]
)
def test_several_processes_have_the_curves_and_the_weights_of_one(
    alone: Path, tmp_path: Path, processes: int, sharded: bool
) -> None:
    run_job(tmp_path, processes=processes, sharded=sharded)
    for name in CONFIGURATIONS:
        for key, values in curve(tmp_path, name).items():
            assert values == pytest.approx(curve(alone, name)[key], abs=1e-5), f"{name}: {key}"
        torch.testing.assert_close(weights(tmp_path, name), weights(alone, name), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one process; the stream of two, which divide it as those that begin it do."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_job(folder / "two", processes=2, mode="until-12")
    run_job(folder, mode="whole")
    shutil.rmtree(folder / "stream")
    (folder / "two" / "stream").rename(folder / "stream")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "began_and_continued",
    [
        [(2, False), (1, False), (4, False)],
        [(2, True), (4, True)],
        [(2, True), (1, False), (2, True)],
    ],
    ids=["ddp 2-1-4", "fsdp2 2-4", "fsdp2 2-1-2"],
)
def test_another_number_of_processes_continues_with_the_same_rows(
    undisturbed: Path, tmp_path: Path, began_and_continued: list[tuple[int, bool]]
) -> None:
    for number, (processes, sharded) in enumerate(began_and_continued, 1):
        until = 12 * number // len(began_and_continued)
        run_job(tmp_path, processes=processes, sharded=sharded, mode=f"until-{until}")
    for name in ELASTIC:
        expected = curve(undisturbed, name)["loss"]
        assert len(expected) == 12
        assert curve(tmp_path, name)["loss"] == pytest.approx(expected, abs=1e-5), name
        torch.testing.assert_close(weights(tmp_path, name), weights(undisturbed, name), atol=1e-4, rtol=0)
        assert not (tmp_path / name / "translated").exists()


@pytest.mark.slow
def test_under_fsdp2_losses_and_gradients_are_summed_in_fp32(tmp_path: Path) -> None:
    """Where the blocks compute in bf16; without hflm's policy the library returns the loss and sums gradients in it."""
    run_job(tmp_path, processes=2, sharded=True, mode="bf16")
    found = json.loads((tmp_path / "formats.json").read_text())
    fp32, bf16 = ["torch.float32"], ["torch.bfloat16"]
    assert found["hflm"] == {
        "block": bf16,
        "training loss": fp32,
        "evaluation loss": fp32,
        "gradients": ["finer than bf16"],
    }
    assert found["the library"] == {
        "block": bf16,
        "training loss": bf16,
        "evaluation loss": bf16,
        "gradients": ["bf16"],
    }
    for key, values in curve(tmp_path, "hflm").items():
        assert len(values) == 3
        assert any(float(torch.tensor(value).bfloat16()) != torch.tensor(value) for value in values), key


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
    best = kept["one"].pop("kept")
    for name in ("ddp", "fsdp2"):
        assert kept[name].pop("kept") == pytest.approx(best)
        assert kept[name] == kept["one"]
        for ours, theirs in zip(scores[name], scores["one"], strict=True):
            for key in ours.keys() - {"eval_runtime"}:
                assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), f"{name}: {key}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as recorded:
        run_job(Path(recorded))
        curves = {name: curve(Path(recorded), name) for name in CONFIGURATIONS}
    rounded = {name: {key: [round(each, 4) for each in curves[name][key]] for key in curves[name]} for name in curves}
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
