"""README.md, docs/ and CONTRIBUTING.md: links lead somewhere, recipes are valid, commands exist, and the cheap ones run."""

import ast
import csv
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from hflm import cli
from hflm.recipe import NAMES, find_recipe, load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]
COMMANDS = get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
# What a fragment of a recipe is completed with.
BASE = """
name: base
tokenizer: {train: {algorithm: bpe, vocab_size: 1000}}
model: {preset: gpt2-nano}
tasks: {sentiment: {data: {path: stanfordnlp/sst2}, text: sentence, labels: [negative, positive]}}
finetune: {tasks: [sentiment]}
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


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
    texts = [f"The {word} was good, and I would eat it again." for word in ("soup", "cake", "bread", "tea", "pie")]
    for folder in ("data/reviews", "data/web"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "train.txt").write_text("\n".join(texts * 20))
    (tmp_path / "data" / "books.jsonl").write_text('{"body": "A book."}\n')
    with open("reviews.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "label"])
        rows.writerows([f"The {word} was {word}.", word] for word in ("good", "bad") * 10)
    return tmp_path


@pytest.mark.parametrize("text", every_block("yaml"))
def test_recipes_and_their_fragments_are_valid(text, outside):
    recipe = yaml.safe_load(text)
    if "name" not in recipe:
        recipe = yaml.safe_load(BASE) | recipe
    if "from" in recipe["model"]:
        recipe.pop("tokenizer", None)
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    load_recipe("r.yaml")


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
    if name in ("run", "plan", "fetch") and not arguments[0].endswith(".yaml") and arguments[0] != "RECIPE":
        find_recipe(arguments[0])


@pytest.fixture
def hflm(outside: Path) -> Callable[..., str]:
    """Runs a command as outside the clone, where hflm is installed: gives what it prints."""

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "hflm", *arguments], cwd=outside, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.mark.slow
def test_the_csv_of_the_readme_from_the_first_command_to_the_last(hflm, outside, tiny, tokenizer):
    """Its own recipe and commands, with a model that is on this machine and two steps of training."""
    tiny.save_pretrained("base")
    tokenizer.save_pretrained("base")
    [text] = [text for text in blocks(ROOT / "README.md", "yaml") if text.startswith("name: reviews")]
    Path("reviews.yaml").write_text(text)
    [block] = [text for text in blocks(ROOT / "README.md", "console") if "reviews.yaml" in text]
    smaller = ["model.from=base", "finetune.args.max_steps=2", "benchmark.resamples=20"]
    for line in block.splitlines():
        words = shlex.split(line)
        sets = [word for change in smaller for word in ("--set", change)]
        hflm(*words[words.index("hflm") + 1 :], *sets)
    run = Path("runs/reviews")
    assert {"README.md", "recipe.yaml", "environment.json", "stages.json", "model", "benchmark"} <= {
        path.name for path in run.iterdir()
    }
    assert "accuracy" in (run / "README.md").read_text()
    assert "reviews" in hflm("push", "runs/reviews", "--repo-id", "you/reviews", "--dry-run")
    assert "The soup" in hflm("generate", "runs/reviews", "The soup", "--max-new-tokens", "2")
    hflm("export", "runs/reviews", "--output", "exported")


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
