"""A stream killed at random places and resumed, against one that ran through: `python tests/bench/stream_resume.py`.

For 1 and 2 processes, with 0 and 2 workers, a run is killed (SIGKILL, all its processes) while it trains at a random
step, `--kills` times in a row, each time by the same start again. All that each process trained on, step by step, must
be what the uninterrupted run trained on. Prints one JSON line: {"identical": resumed runs that were, as "n/n"}.

Processes are forked from one that has imported torch, with the environment that torchrun sets.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

from transformers.utils import logging

from hflm import data
from hflm.data import toy
from hflm.models import build_model, patch_loss
from hflm.preprocessing import PackedStream, collate, token_cache, train_tokenizer
from hflm.preprocessing import streaming as stream
from hflm.recipe import Data
from hflm.training import trainer as train


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    texts = [row["text"] for row in toy.rows("stories", "train", size=900)]
    for name, some in (("a", texts[:600]), ("b", texts[600:])):
        (folder / name).mkdir()
        for part in range(2):
            lines = "".join(json.dumps({"text": text}) + "\n" for text in some[part::2])
            (folder / name / f"train-{part}.jsonl").write_text(lines)
    tokenizer = train_tokenizer(texts, "bpe", 400)
    draw, found = random.Random(chosen.seed), {}
    for processes in chosen.processes:
        for workers in chosen.workers:
            run = folder / f"{processes}-{workers}"
            start(folder, run / "whole", tokenizer, processes, workers, chosen.steps)
            expected = trained_on(run / "whole", processes)
            assert [step for step, _ in expected[0]] == list(range(chosen.steps))
            identical = 0
            # Any step, but for the first ones, without a checkpoint to resume, and the last, when it ends before it dies.
            places = sorted(draw.sample(range(6, chosen.steps - 15), chosen.kills))
            for place in places:
                shutil.rmtree(run / "killed", ignore_errors=True)
                if (run / "kept").exists():
                    shutil.copytree(run / "kept", run / "killed")
                start(folder, run / "killed", tokenizer, processes, workers, chosen.steps, kill_at=place)
                shutil.rmtree(run / "kept", ignore_errors=True)
                shutil.copytree(run / "killed", run / "kept")
                for part in run.glob("killed/seen-*.jsonl"):
                    part.unlink()
                start(folder, run / "killed", tokenizer, processes, workers, chosen.steps)  # to its end
                resumed = trained_on(run / "killed", processes)
                begun = resumed[0][0][0]
                assert 0 < begun <= place, f"the run killed at {place} began again at {begun}"
                identical += resumed == [[step for step in each if step[0] >= begun] for each in expected]
            print(f"{processes} processes, {workers} workers: {identical} of {chosen.kills}", file=sys.stderr)
            found[f"{processes} processes, {workers} workers"] = f"{identical}/{chosen.kills}"
    right, all_ = (sum(int(count.split("/")[side]) for count in found.values()) for side in (0, 1))
    return {"identical": f"{right}/{all_}", **found, "steps": chosen.steps}


def start(folder, run, tokenizer, processes, workers, steps, kill_at=None):
    """Train in `run` with so many processes; with `kill_at` all of them are killed once the first comes to that step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.setsid()  # its workers are killed with it
            if processes > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(processes)}
            code = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                fit(folder, run, tokenizer, rank, workers, steps)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    if kill_at is not None:
        while not any(step >= kill_at for step, _ in read(run / "seen-0.jsonl")[-1:]):
            time.sleep(0.005)
            ended, status = os.waitpid(children[0], os.WNOHANG)
            assert not ended, f"it ended with {status} before step {kill_at}"
        for child in children:
            os.killpg(child, signal.SIGKILL)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert kill_at is not None or status == 0, f"a process ended with {status}"


def fit(folder, run, tokenizer, rank, workers, steps):
    class Recording(train.StageTrainer):
        def training_step(self, model, inputs, *more):
            run.mkdir(parents=True, exist_ok=True)
            with open(run / f"seen-{rank}.jsonl", "a") as lines:
                lines.write(json.dumps([self.state.global_step, inputs["input_ids"].tolist()]) + "\n")
            return super().training_step(model, inputs, *more)

    train.StageTrainer = Recording
    stream.GROUP_ROWS, token_cache.BATCH_TEXTS = 16, 40  # many groups and blocks, and several passes
    sources = tuple(
        data.resolve_data(Data.model_validate({"path": str(folder / name), "streaming": True, "weight": weight}))
        for name, weight in (("a", 2.0), ("b", 1.0))
    )
    texts = data.stream_documents(data.Sources(sources), folder / "skipped.jsonl")
    packed = PackedStream(texts, tokenizer, 128, shuffle_buffer=100, seed=0)
    train.train_model(
        patch_loss(build_model({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 128}, tokenizer)),
        train.TrainingData(packed.rows, partial(collate, pad_token_id=tokenizer.pad_token_id)),
        run,
        {"max_steps": steps, "save_steps": 3, "dataloader_num_workers": workers, "per_device_train_batch_size": 8},
        train.StageSettings("pretrain", seed=0, row_tokens=128, tokens_per_row=128),
    )


def read(path):
    lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last one is torn, or empty
    return [json.loads(line) for line in lines]


def trained_on(run, processes):
    """Of each process, [step, ids] of every step as it was trained on last."""
    return [[[step, ids] for step, ids in dict(read(run / f"seen-{rank}.jsonl")).items()] for rank in range(processes)]


if __name__ == "__main__":
    main()
