"""The commands and programs of README.md and docs/, run outside the clone as their reader runs them.

Each command of a page is either in RUN, with what makes it take seconds, or in NOT_RUN, with the reason. The commands of
a page run in their order in one folder, by the installed console script, with no network but a Hub on this machine.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub import Hub
from snippets import PAGES, blocks, write_data

from recipes import tiny_recipe

TASKS = ("translation", "summarization", "sentiment", "qa")
SHORT = (  # the quickstart in a few seconds
    "pretrain.args.max_steps=2",
    "finetune.args.max_steps=2",
    "benchmark.resamples=20",
    "benchmark.contamination=false",
    *(f"tasks.{task}.data.size=40" for task in TASKS),
    *(f"tasks.{task}.splits.test=test[:4]" for task in TASKS),
    *(f"tasks.{task}.max_new_tokens=4" for task in TASKS if task != "sentiment"),
)
# A fine-tuned SmolLM2 in a few seconds.
FEW = ("model.from=base", "finetune.args.max_steps=2", "benchmark.resamples=20")


def sets(*changes: str) -> str:
    return " ".join(f"--set {shlex.quote(change)}" for change in changes)


# What is appended to each command of a page.
RUN = {
    "README": {
        "hflm run quickstart": sets(*SHORT),
        'hflm generate runs/quickstart "It was a sunny morning." --max-length 200 --num-return-sequences 5': "",
        'hflm score runs/quickstart "It was a sunny morning."': "",
        "hflm demo runs/quickstart": "",
        "hflm validate reviews.yaml": sets(*FEW),
        "hflm plan reviews.yaml": sets(*FEW),
        "hflm run reviews.yaml": sets(*FEW),
    },
    "benchmark": {
        "hflm bench runs/quickstart quickstart": sets(*SHORT),
        "hflm bench runs/quickstart --task-file sst2.yaml": sets("benchmark.resamples=20"),
        "hflm bench openai:NAME quickstart --base-url http://127.0.0.1:8000/v1": sets(*SHORT),
        "hflm compare runs/a runs/b --html page.html": "--resamples 100",
    },
    "index": {"hflm run quickstart": sets(*SHORT)},
    "machines": {"torchrun --nproc_per_node 2 -m hflm run RECIPE": ""},
    "planning": {
        "hflm plan quickstart": "",
        "hflm plan gpt2-small --device h100 --processes 8 --price-per-hour 2.5": "",
    },
    "publishing": {
        "hflm push runs/reviews --dry-run": "",
        "hflm push runs/reviews": "",
        "hflm push runs/quickstart --repo-id you/name": "",
        "hflm push runs/reviews --space": "",
        "hflm export runs/reviews": "",
        "hflm export runs/reviews --to gguf": "",
        "hflm export runs/reviews --to onnx": "",
    },
    "run-folder": {
        "hflm run reviews.yaml --extend --set pretrain.args.max_steps=4000": sets("pretrain.args.max_steps=4")
    },
    "sweep": {
        "hflm sweep reviews.yaml": sets(*FEW, "sweep.trials=2", "sweep.confirm=null"),
        "CUDA_VISIBLE_DEVICES=0 hflm sweep reviews.yaml": sets(*FEW, "sweep.trials=2", "sweep.confirm=null"),
        "CUDA_VISIBLE_DEVICES=1 hflm sweep reviews.yaml": sets(*FEW, "sweep.trials=3", "sweep.confirm=null"),
        "hflm run quickstart --seeds 3": sets(*SHORT),
        "hflm compare runs/quickstart-seeds runs/other-seeds": "--resamples 100",
    },
    "training": {
        'hflm generate runs/quickstart "It was a sunny morning." --max-length 200 --num-return-sequences 5 '
        "--no-repeat-ngram-size 2": "",
        'hflm score runs/quickstart "It was a sunny morning." --html page.html --attention heads.png': "",
        "hflm demo runs/quickstart": "",
    },
}
NOT_RUN = {
    "pip install uv": "installs from a package index",
    "pytest": "is this suite",
    "uv tool install /path/to/hflm": "installs 3 GB from a package index",
    'pip install "/path/to/hflm[demo]"': "installs 3 GB from a package index",
    "accelerate launch --num_processes 8 -m hflm run datatrove --set pretrain.data.path=FOLDER": "needs 8 devices",
    "accelerate launch --config_file recipes/launch/ddp.yaml --num_processes 8 -m hflm run RECIPE": "needs 8 GPUs",
    "sbatch recipes/launch/slurm.sh RECIPE": "needs Slurm",
    "python tests/bench/gpu_check.py": "needs a GPU and the clone",
    "hflm fetch sst2": "downloads from the Hub",
    "HF_HUB_OFFLINE=1 hflm run sst2": "needs what the Hub gave",
    "hflm run --from-hub you/reviews": "needs a machine that was lost: tests/pipeline/test_hub_checkpoints.py",
    "hflm scale wikitext2-ladder.yaml": "trains for minutes: tests/pipeline/test_scale.py",
    "hflm scale wikitext2-ladder.yaml --minutes 10": "trains for minutes",
    "hflm scale wikitext2-ladder.yaml --flops 1e13 --device h100 --price-per-hour 3": "trains for minutes",
}


def commands(page: Path) -> list[str]:
    """The commands of a page in their order, without `uv run`, which is for the clone, and without comments."""
    lines = [line.split("  #")[0] for block in blocks(page, "console") for line in block.splitlines()]
    found = [command.strip() for line in lines for command in line.split("&&")]
    return [re.sub(r"^uv run (--extra \w+ )?", "", command) for command in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_command_is_run_or_listed_with_the_reason(page):
    found = commands(page)
    run = RUN.get(page.stem, {})
    assert [command for command in found if command not in run and command not in NOT_RUN] == []
    assert [command for command in run if command not in found] == []


def test_nothing_is_listed_that_no_page_has():
    found = {command for page in PAGES for command in commands(page)}
    assert [command for command in NOT_RUN if command not in found] == []
    assert RUN.keys() <= {page.stem for page in PAGES}


class Answers(BaseHTTPRequestHandler):
    """An endpoint whose every answer is the same word."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"choices": [{"text": " neutral", "message": {"role": "assistant", "content": "neutral"}}]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """As after `pip install hflm`: its console script on the path, nothing of the clone, a Hub on this machine."""
    scripts = str(Path(sys.executable).parent)
    if shutil.which("hflm", path=scripts) is None:
        pytest.skip("hflm is not installed beside this Python")
    left_out = ("PYTHONPATH", "HF_HUB_OFFLINE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    with Hub(xet=True) as hub:
        yield {
            **kept,
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": hub.token,
            "OPENAI_API_KEY": "none",
            "OMP_NUM_THREADS": "1",
        }


def call(command: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command prints; bash reads it as it would from a reader's keyboard."""
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def quickstart(environment, tmp_path_factory) -> Path:
    """A finished short run of the quickstart."""
    folder = tmp_path_factory.mktemp("quickstart")
    call(f"hflm run quickstart {sets(*SHORT)}", folder, environment)
    return folder / "runs" / "quickstart"


@pytest.fixture
def outside(tmp_path, tiny, tokenizer) -> Path:
    """A folder outside the clone with what the pages name: data and a base model."""
    write_data(tmp_path)
    for part in (tiny, tokenizer):
        part.save_pretrained(tmp_path / "base")
    return tmp_path


def recipe_of(page: Path) -> str:
    """The recipe that a page's commands call reviews.yaml."""
    if page.stem == "run-folder":
        return tiny_recipe(
            "reviews",
            "pretrain: {data: {path: data/reviews}, args: {max_steps: 2, lr_scheduler_type: constant, save_steps: 2}}",
        )
    return next((text for text in blocks(page, "yaml") if text.startswith("name: reviews")), "")


def prepare(page: Path, folder: Path) -> None:
    (folder / "reviews.yaml").write_text(recipe_of(page))
    if page.stem == "machines":
        (folder / "RECIPE").write_text(
            tiny_recipe("two", "pretrain: {data: {path: toy, name: stories, size: 20}, args: {max_steps: 2}}\n")
        )


def copy_runs(quickstart: Path, folder: Path) -> None:
    """Put finished runs of the names in the pages into `folder`."""
    for name in ("quickstart", "reviews", "a", "b"):
        shutil.copytree(quickstart, folder / "runs" / name)
    with open(folder / "runs" / "reviews" / "recipe.yaml", "a") as recipe:
        recipe.write("push: {repo_id: you/reviews}\n")


@contextlib.contextmanager
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def show_and_end(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Start a page on this machine, open it, and end it by Ctrl-C."""
    with subprocess.Popen(
        shlex.split(command),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  nothing of ours runs in it
    ) as server:
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address, server.stderr.read()
        with urllib.request.urlopen(address[0]) as page:
            assert b"gradio" in page.read().lower()
        server.send_signal(signal.SIGINT)
        server.communicate()
    assert server.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in RUN], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_outside_the_clone(page, outside, environment, request):
    prepare(page, outside)
    if "hflm run quickstart" not in RUN[page.stem]:
        copy_runs(request.getfixturevalue("quickstart"), outside)
    for command in commands(page):
        if command not in RUN[page.stem]:
            continue
        whole = f"{command} {RUN[page.stem][command]}".strip()
        if "hflm demo" in command:
            show_and_end(whole, outside, environment)
        elif "http://127.0.0.1:8000/v1" in command:
            with endpoint() as url:
                call(whole.replace("http://127.0.0.1:8000/v1", url), outside, environment)
        elif "other-seeds" in command:
            shutil.copytree(outside / "runs" / "quickstart-seeds", outside / "runs" / "other-seeds")
            call(whole, outside, environment)
        elif "--extend" in command:
            call("hflm run reviews.yaml", outside, environment)
            call(whole, outside, environment)
        else:
            call(whole, outside, environment)
    if page.stem == "README":
        run = outside / "runs" / "reviews"
        parts = {"README.md", "recipe.yaml", "environment.json", "stages.json", "model", "benchmark"}
        assert parts <= {path.name for path in run.iterdir()}
        assert "accuracy" in (run / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_programs_of_a_page_run_outside_the_clone(page, outside, environment):
    for program in blocks(page, "python"):
        shorter = program.replace('"pretrain.args.max_steps=500"', ", ".join(map(repr, SHORT)))
        assert shorter != program
        (outside / "program.py").write_text(shorter)
        call(f"{shlex.quote(sys.executable)} program.py", outside, environment)
    assert (outside / "runs" / "longer" / "README.md").is_file()
