"""The folder of a Space that shows a model on the Hub: hflm's demo in Gradio's kind of Space.

hflm goes along as source, since a Space cannot install it by a name; what it imports is installed at the versions that
are installed here.
"""

import importlib.metadata
import json
import re
import sys
from pathlib import Path

import yaml

from hflm.core import MissingExtra, UserError, mask_tokens
from hflm.demo import find_examples, read_predictions
from hflm.recipe import load_recipe

APP = '''\
"""The demo of {repo_id}, made by hflm."""

import json
from pathlib import Path

from hflm.demo import serve_demo

examples = json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8"))
serve_demo("{repo_id}", host="0.0.0.0", port=7860, examples=examples)
'''

CARD = """\
# {name}

Try [{repo_id}](https://huggingface.co/{repo_id}) and look inside: which tokens it expects, and where its attention
goes. A model of a private repository is read with the Space's secret `HF_TOKEN`, a token that may read it.

`hflm/` is hflm {version}, under the licence in `LICENSE`.
"""
SOURCE_SUFFIXES = (".py", ".pyi", ".json", ".html", ".md")


def space_files(run: Path, repo_id: str) -> dict[str, bytes]:
    """{path in the Space: content} for the model that `run` was pushed to as `repo_id`.

    app.py, requirements.txt, README.md with the Space's front matter, examples.json, and hflm itself. Raises UserError
    for a run without recipe, MissingExtra without gradio.
    """
    try:
        gradio = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra("demo", "a Space", f"hflm push {run} --space") from None
    path = run / "recipe.yaml"
    if not path.is_file() or path.is_symlink():
        raise UserError(f"{run}: no recipe.yaml, so this is no finished run. Name a run folder")
    recipe = load_recipe(str(path))
    rows = read_predictions(recipe, run)
    predictions = run / "benchmark" / "predictions"
    rows = {name: each for name, each in rows.items() if not (predictions / f"{name}.jsonl").is_symlink()}
    found = find_examples(recipe, rows)
    examples = {key: [mask_tokens(row) for row in rows] for key, rows in found.items()}
    hflm = importlib.metadata.distribution("hflm-recipes")
    front_matter = {
        "title": recipe.name,
        "sdk": "gradio",
        "sdk_version": gradio,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "models": [repo_id],
        "license": "apache-2.0",
    }
    card = CARD.format(name=recipe.name, repo_id=repo_id, version=hflm.version)
    texts = {
        "README.md": f"---\n{yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)}---\n\n{card}",
        "app.py": APP.format(repo_id=repo_id),
        "requirements.txt": "".join(f"{line}\n" for line in _requirements(hflm)),
        "examples.json": json.dumps(examples, indent=1, ensure_ascii=False) + "\n",
        "LICENSE": _license(hflm),
    }
    return {name: text.encode() for name, text in texts.items()} | _source()


def _license(hflm: importlib.metadata.Distribution) -> str:
    """The text of hflm's licence, from the source tree or from the installed package."""
    file = Path(__file__).parents[2] / "LICENSE"
    text = file.read_text(encoding="utf-8") if file.is_file() else hflm.read_text("licenses/LICENSE")
    assert text is not None
    return text


def _requirements(hflm: importlib.metadata.Distribution) -> list[str]:
    """What hflm imports, "torch==2.15.0" and so on, without the extras; Gradio itself comes with the Space."""
    lines = [line for line in hflm.requires or () if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines]
    # 2.15.0+cpu is a build of 2.15.0 that its index keeps elsewhere.
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


def _source() -> dict[str, bytes]:
    """hflm's own modules, tables and templates, without its recipes."""
    root = Path(__file__).parents[1]
    paths = [path for path in sorted(root.rglob("*")) if path.suffix in SOURCE_SUFFIXES and path.is_file()]
    return {
        f"hflm/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in paths
        if not path.is_symlink() and "_recipes" not in path.parts
    }
