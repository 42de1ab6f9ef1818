"""README.md, docs/ and CONTRIBUTING.md: links lead somewhere, recipes are valid, commands exist (test_snippets.py: run)."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import snippets
import yaml
from snippets import ROOT, blocks, write_data
from typer.main import get_command

from hflm import cli
from hflm.recipe import NAMES, find_recipe

PAGES = [*snippets.PAGES, *sorted((ROOT / ".github").glob("*.md"))]
COMMANDS = get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
# What a fragment of a recipe is completed with.
BASE = """
name: base
tokenizer: {train: {algorithm: bpe, vocab_size: 1000}}
model: {preset: gpt2-nano}
tasks: {sentiment: {data: {path: stanfordnlp/sst2}, text: sentence, labels: [negative, positive]}}
finetune: {tasks: [sentiment]}
"""


def every_block(language: str) -> list:
    return [
        pytest.param(text, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, text in enumerate(blocks(page, language), 1)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_of_the_repository(page):
    targets = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the clone with the data that the pages name."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", every_block("yaml"))
def test_hflm_validate_accepts_recipes_and_their_fragments(text, outside, monkeypatch, capsys):
    """A fragment of a recipe is completed; data that it names are on this machine, and so are their columns."""
    recipe = yaml.safe_load(text)
    if "name" not in recipe:
        recipe = yaml.safe_load(BASE) | recipe
    if "from" in recipe["model"] and recipe.get("tokenizer") == yaml.safe_load(BASE)["tokenizer"]:
        recipe.pop("tokenizer")
    Path("r.yaml").write_text(text if recipe == yaml.safe_load(text) else yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "argv", ["hflm", "validate", "r.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert (ended.value.code or 0, printed.out) == (0, "r.yaml: ok\n"), printed.err


@pytest.mark.parametrize("text", every_block("python"))
def test_python_is_python_and_its_imports_exist(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hflm"):
            module = importlib.import_module(str(node.module))
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


def hflm_commands() -> Iterator:
    """The arguments after `hflm` of each command on the pages."""
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if "hflm" in words:
                    yield pytest.param(words[words.index("hflm") + 1 :], id=" ".join(words)[:60])


@pytest.mark.parametrize("words", list(hflm_commands()))
def test_commands_and_their_options_exist(words):
    name, *arguments = words
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    if name == "generate":
        known |= {"--" + option.replace("_", "-") for option in NAMES["GenerationConfig"]}
    assert {word for word in arguments if word.startswith("--")} <= known
    named = arguments[0] != "RECIPE" and not arguments[0].endswith(".yaml") and not arguments[0].startswith("--")
    if name in ("run", "plan", "fetch") and named:
        find_recipe(arguments[0])


@pytest.mark.slow
def test_the_task_kind_of_contributing_is_one_file(outside, tmp_path, tiny, tokenizer):
    tiny.save_pretrained("base")
    tokenizer.save_pretrained("base")
    [text] = [text for text in blocks(ROOT / ".github" / "CONTRIBUTING.md", "python") if "class Paraphrase" in text]
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "paraphrase.py").write_text(text)
    (tmp_path / "rows.jsonl").write_text('{"sentence": "It rains.", "paraphrase": "Rain falls."}\n')
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: {from: base}\nbenchmark: {tasks: [paraphrase]}\n"
        "tasks: {paraphrase: {data: {path: rows.jsonl}, splits: {test: train}, metrics: [chrf], max_new_tokens: 4}}\n"
    )
    kinds = str(tmp_path / "kinds")
    code = f"import hflm.tasks; hflm.tasks.__path__.append({kinds!r}); from hflm import cli; cli.main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "bench", "base", "r.yaml", "--output", "bench"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "chrf" in Path("bench/benchmark/results.json").read_text()
    assert "Say in other words: It rains." in Path("bench/benchmark/predictions/paraphrase.jsonl").read_text()


def test_each_command_is_named_in_the_readme_or_docs():
    text = "\n".join(page.read_text() for page in PAGES)
    assert not [name for name in COMMANDS if f"hflm {name}" not in text and f"`{name}`" not in text]
