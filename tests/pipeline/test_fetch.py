"""`hflm fetch` from a Hub on loopback, the run without any network afterwards, and the lock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from download_hub import SHA, Hub
from sources import COMPRESS, content

import hflm
from hflm.core import UserError
from hflm.models import save_pretrained
from hflm.pipeline import fetch_recipe
from hflm.recipe import load_recipe

ROOT = Path(hflm.__file__).parent.parent


def hflm_command(cwd, *arguments, **environment):
    home = {"HF_HOME": str(cwd / "hf"), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "hflm", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**inherited, **home, **environment},
    )


STORIES = [
    f"Story {n}: the {animal} saw a {thing}." for n in range(40) for animal in ("dog", "cat") for thing in ("key",)
]
CARD = b"""---
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train-*.jsonl.gz}
  - {split: test, path: small/test.jsonl}
- config_name: large
  data_files: large/*.jsonl
---
"""
RECIPE = """
name: fetched
model: {from: someone/tiny}
pretrain:
  data: {path: someone/stories, name: small, revision: main}
  args: {max_steps: 2, per_device_train_batch_size: 2}
tasks:
  held_out:
    kind: language_modeling
    data: {path: someone/stories, name: small}
benchmark: {tasks: [held_out], resamples: 100}
"""


@pytest.fixture
def hub(tmp_path, tiny, tokenizer):
    save_pretrained(tmp_path / "tiny", tiny, tokenizer)
    model = {file.name: file.read_bytes() for file in (tmp_path / "tiny").iterdir()}
    stories = {
        "README.md": CARD,
        "small/train-0.jsonl.gz": COMPRESS[".gz"](content("jsonl", STORIES[:30])),
        "small/train-1.jsonl.gz": COMPRESS[".gz"](content("jsonl", STORIES[30:60])),
        "small/test.jsonl": content("jsonl", STORIES[60:]),
        "large/a.jsonl": content("jsonl", STORIES) * 1000,
    }
    model |= {"pytorch_model.bin": b"never read", "onnx/model.safetensors": b"never read"}
    server = Hub({("models", "someone/tiny"): model, ("datasets", "someone/stories"): stories})
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_fetch_then_run_without_a_network(tmp_path, hub):
    (tmp_path / "fetched.yaml").write_text(RECIPE)
    done = hflm_command(tmp_path, "fetch", "fetched.yaml", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert f"someone/stories@{SHA[:12]}  3 files" in done.stdout and "(model.from)" in done.stdout
    fetched = {path.split("/resolve/")[1].split("/", 1)[1] for path in hub.asked if "/resolve/" in path}
    assert {"model.safetensors", "small/train-0.jsonl.gz", "small/test.jsonl"} <= fetched
    assert not fetched & {"pytorch_model.bin", "onnx/model.safetensors", "large/a.jsonl"}

    hub.shutdown()
    hub.server_close()
    done = hflm_command(tmp_path, "run", "fetched.yaml", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    described = json.loads((tmp_path / "runs/fetched/environment.json").read_text())
    assert described["data"]["pretrain.data.0"]["commit"] == described["model"]["commit"] == SHA
    assert described["data"]["pretrain.data.0"]["documents"] == 60

    streamed = ["--set", "pretrain.data.streaming=true", "--output", "streamed"]
    done = hflm_command(tmp_path, "run", "fetched.yaml", *streamed, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # the libraries ask a Hub that does not answer again and again
def test_a_run_goes_on_when_the_hub_is_gone(tmp_path, hub):
    (tmp_path / "fetched.yaml").write_text(RECIPE)
    assert hflm_command(tmp_path, "fetch", "fetched.yaml", HF_ENDPOINT=hub.url).returncode == 0
    hub.shutdown()
    hub.server_close()
    done = hflm_command(tmp_path, "run", "fetched.yaml", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # five runs
def test_a_lock_refuses_another_commit(tmp_path, hub):
    (tmp_path / "fetched.yaml").write_text(RECIPE)
    run = ["run", "fetched.yaml", "--set", "pretrain.data.streaming=true"]
    assert hflm_command(tmp_path, *run, "--locked", HF_ENDPOINT=hub.url).returncode == 2  # nothing to compare with
    done = hflm_command(tmp_path, *run, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert hflm_command(tmp_path, *run, "--locked", HF_ENDPOINT=hub.url).returncode == 0
    hub.sha = "beef" + "1" * 36
    done = hflm_command(tmp_path, *run, "--locked", "--fresh", HF_ENDPOINT=hub.url)
    assert done.returncode == 2
    assert f"pretrain.data.0: commit {SHA} then, {hub.sha} now" in done.stderr
    assert f"model: commit {SHA} then, {hub.sha} now" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "runs/fetched/model").is_dir()


def test_what_is_missing_is_reported_together(tmp_path, hub):
    (tmp_path / "fetched.yaml").write_text(RECIPE)
    changes = ["pretrain.data.path=./nowhere", "tasks.held_out.data.path=someone/else", "model.from=./gone"]
    sets = [part for change in changes for part in ("--set", change)]
    done = hflm_command(tmp_path, "fetch", "fetched.yaml", *sets, HF_ENDPOINT=hub.url)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for key in ("pretrain.data.0: no file", "tasks.held_out.data: data set 'someone/else'", "model.from: no such file"):
        assert key in done.stderr


def test_an_adapter_is_fetched_with_the_model_that_it_names_from_its_own_folder(tmp_path, tiny, tokenizer):
    (tmp_path / "adapters" / "a").mkdir(parents=True)
    config = {"base_model_name_or_path": "../../base"}
    (tmp_path / "adapters" / "a" / "adapter_config.json").write_text(json.dumps(config))
    path = tmp_path / "recipe.yaml"
    path.write_text(f"""
name: tuned
model: {{from: {tmp_path}/adapters/a}}
tasks: {{text: {{kind: language_modeling, data: {{path: toy, name: stories}}}}}}
benchmark: {{tasks: [text]}}
""")
    with pytest.raises(UserError, match=r"model.from: '.*adapters/a' is an adapter for '../../base': no such file"):
        fetch_recipe(load_recipe(str(path)), print)
    save_pretrained(tmp_path / "base", tiny, tokenizer)
    assert fetch_recipe(load_recipe(str(path)), print) == []


def test_a_local_lock(tmp_path):
    from hflm.pipeline import provenance, resolve_inputs

    (tmp_path / "a.jsonl").write_bytes(content("jsonl"))
    (tmp_path / "b.jsonl").write_bytes(content("jsonl"))

    def recipe(*paths):
        sets = [f"pretrain.data=[{', '.join(f'{{path: {tmp_path}/{path}}}' for path in paths)}]"]
        return load_recipe("quickstart", sets)

    def write(recipe):
        provenance.write_environment(tmp_path, provenance.describe(recipe, resolve_inputs(recipe), 1), {})

    write(recipe("a.jsonl", "b.jsonl"))
    provenance.check_locked(tmp_path, resolve_inputs(recipe("a.jsonl", "b.jsonl")))
    provenance.note(tmp_path, data={key: {"documents": 3} for key in ("pretrain.data.0", "pretrain.data.1")})
    (tmp_path / "b.jsonl").write_bytes(content("jsonl", ["changed"]))
    with pytest.raises(UserError, match=r"pretrain.data.1: fingerprint sha256:\w+ then, sha256:\w+ now"):
        provenance.check_locked(tmp_path, resolve_inputs(recipe("a.jsonl", "b.jsonl")))
    with pytest.raises(UserError, match="pretrain.data.1: is no longer in the recipe"):
        provenance.check_locked(tmp_path, resolve_inputs(recipe("a.jsonl")))
    with pytest.raises(UserError, match="pretrain.data.2: is new in the recipe"):
        provenance.check_locked(tmp_path, resolve_inputs(recipe("a.jsonl", "b.jsonl", "a.jsonl")))
    write(recipe("a.jsonl", "b.jsonl"))
    described = json.loads((tmp_path / "environment.json").read_text())["data"]
    assert described["pretrain.data.0"]["documents"] == 3 and "documents" not in described["pretrain.data.1"]
