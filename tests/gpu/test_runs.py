"""Whole runs on a device: stopped by SIGTERM and continued, the weights are those of a run that nobody stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
RECIPE = """
name: stopped
tokenizer: {train: {vocab_size: 500}}
model: {preset: gpt2-nano, n_layer: 2, n_positions: 128, attn_pdrop: 0.1}
pretrain:
  data: {path: toy, name: stories, size: 400}
  validation: 0.1
  args:
    max_steps: STEPS
    per_device_train_batch_size: 4
    gradient_accumulation_steps: 2
    logging_steps: 1
    eval_strategy: "no"
    save_strategy: "no"  # only the signal saves
    optim: OPTIM
    full_determinism: true  # some of CUDA's kernels add in any order
"""


BENCHMARK = """
name: measured
tokenizer: {train: {vocab_size: 300}}
model: {preset: gpt2-nano, n_layer: 1, n_positions: 128}
pretrain: {data: {path: toy, name: stories, size: 60}, args: {max_steps: 2}}
tasks: {sentiment: {data: {path: toy, name: sentiment, size: 400}, labels: [negative, neutral, positive], limit: 20}}
benchmark: {tasks: [sentiment], resamples: 10}
"""


def environment(folder, device):
    """Without cuBLAS' variable full_determinism would come too late for it."""
    found = {**os.environ, "PYTHONPATH": f"{HOME}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    found |= {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "HF_HOME": str(folder / "home")}
    return found if device.type == "cuda" else {**found, "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "muon"])
def test_a_run_that_sigterm_stopped_continues_exactly(device_of_run, tmp_path, optim):
    steps = 300 if device_of_run.type == "cuda" else 30
    (tmp_path / "stopped.yaml").write_text(RECIPE.replace("OPTIM", optim).replace("STEPS", str(steps)))

    def run(output, stop_at=None):
        command = [sys.executable, "-m", "hflm", "run", "stopped.yaml", "--output", output]
        own = environment(tmp_path, device_of_run)
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=own) as process:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if stop_at and line.startswith(f"pretrain {stop_at}/"):
                    process.send_signal(signal.SIGTERM)
        return process.returncode, "".join(lines)

    code, log = run("whole")
    assert code == 0, log
    assert f"1 process on {device_of_run}" in log
    code, log = run("stopped", stop_at=7)
    assert (code, "stopped by SIGTERM, a checkpoint is saved" in log) == (143, True), log
    code, log = run("stopped")
    assert code == 0 and "continues from checkpoint-" in log, log
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_bench_runs_on_the_device(device_of_run, tmp_path):
    (tmp_path / "measured.yaml").write_text(BENCHMARK)
    for command in (["run", "measured.yaml", "--output", "run"], ["bench", "run", "--output", "bench"]):
        ended = subprocess.run(
            [sys.executable, "-m", "hflm", *command], cwd=tmp_path, capture_output=True, text=True,
            env=environment(tmp_path, device_of_run),
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert f"1 process on {device_of_run}" in ended.stderr
    lines = [tmp_path / name / "benchmark" / "predictions" / "sentiment.jsonl" for name in ("run", "bench")]
    first, second = ([json.loads(line)["log_likelihoods"] for line in path.read_text().splitlines()] for path in lines)
    assert [pytest.approx(each, abs=1e-4) for each in first] == second, (
        "the run's benchmark computes as `hflm bench` does"
    )
