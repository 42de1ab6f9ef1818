"""Code from a model's repository never runs, and nobody is asked whether it should."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hflm

PACKAGE = Path(hflm.__file__).parent
# Those that read no config with `auto_map`.
SAFE = ("PeftModel",)
RUNS = 'import pathlib\npathlib.Path("{marker}").write_text("ran")\nclass Config: pass\nclass Model: pass\n'


def calls() -> list[tuple[str, ast.Call]]:
    """(place, call) of every `X.from_pretrained(...)` in the package."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if node.func.attr == "from_pretrained" and getattr(owner, "id", None) not in SAFE:
                    found.append((f"{file.relative_to(PACKAGE)}:{node.lineno}", node))
    return found


def test_every_from_pretrained_refuses_remote_code():
    places = calls()
    assert len(places) >= 6
    for place, call in places:
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        value = options.get("trust_remote_code")
        assert isinstance(value, ast.Constant) and value.value is False, f"{place}: say trust_remote_code=False"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A model folder whose config names code of its own; the code leaves a file behind when it runs."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    auto_map = {
        "AutoConfig": "code.Config",
        "AutoModelForCausalLM": "code.Model",
        "AutoTokenizer": ["code.Tokenizer", None],
    }
    config = {"model_type": "hostile", "architectures": ["Model"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_config = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "code.py").write_text(RUNS.format(marker=tmp_path / "ran"))
    return folder


COMMANDS = {
    "generate": ["generate", "{model}", "Once"],
    "score": ["score", "{model}", "Once"],
    "bench": ["bench", "{model}", "recipe.yaml"],
    "run": ["run", "recipe.yaml", "--set", "model={{from: {model}}}"],
    "export": ["export", "{model}", "--output", "exported"],
    "demo": ["demo", "{model}"],
}
RECIPE = """
name: hostile
model: {from: MODEL}
tasks: {qa: {kind: qa, data: {path: toy, name: qa, size: 20}}}
finetune: {tasks: [qa], args: {max_steps: 1}}
benchmark: {tasks: [qa]}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_hostile_folder_is_refused_without_a_prompt(hostile: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(hostile)))
    command = [part.format(model=hostile) for part in COMMANDS[name]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # "y" to whatever is asked
    ended = subprocess.run(
        [sys.executable, "-m", "hflm", *command], cwd=tmp_path, input="y\n" * 20, text=True, env=environment,
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr and "y/N" not in ended.stdout + ended.stderr
    assert not (tmp_path / "ran").exists()
