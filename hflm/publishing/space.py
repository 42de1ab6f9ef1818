"""The folder of a Space that shows a model on the Hub: hflm's demo in Gradio's kind of Space.

hflm goes along as source, since a Space cannot install it by a name; what it imports is installed at the versions that
ran here.
"""

import importlib.metadata
import json
import re
import sys
from pathlib import Path

import yaml

from hflm.core import MissingExtra, UserError, mask_tokens
from hflm.demo import tabs as demo_tabs
from hflm.recipe import load_recipe

APP = '''\
"""The demo of {repo_id}, made by hflm."""

import json
from pathlib import Path

from hflm.demo import app as demo_page

examples = json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8"))
demo_page.serve("{repo_id}", host="0.0.0.0", port=7860, examples=examples)
'''

CARD = """\
# {name}

Try [{repo_id}](https://huggingface.co/{repo_id}) and look inside: which tokens it expects, and where its attention
goes. A model of a private repository is read with the Space's secret `HF_TOKEN`, a token that may read it.

`hflm/` is hflm {version}, under the licence in `LICENSE`.
"""


def files(run, repo_id):
    """{path in the Space: bytes} for the model that `run` was pushed to as `repo_id`; what goes up as a Space.

    app.py, requirements.txt, README.md with the Space's front matter, examples.json, and hflm itself. Raises UserError
    for a run without recipe, MissingExtra without gradio.
    """
    try:
        gradio = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra("demo", "a Space", f"hflm push {run} --space") from None
    path = Path(run) / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{run}: no recipe.yaml, so this is no finished run. Name a run folder")
    recipe = load_recipe(str(path))
    found = demo_tabs.found_examples(recipe, demo_tabs.predictions(recipe, run))
    examples = {key: [mask_tokens(row) for row in rows] for key, rows in found.items()}
    ours = importlib.metadata.distribution("hflm-recipes")
    front = {
        "title": recipe.name,
        "sdk": "gradio",
        "sdk_version": gradio,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "models": [repo_id],
        "license": "apache-2.0",
    }
    card = CARD.format(name=recipe.name, repo_id=repo_id, version=ours.version)
    texts = {
        "README.md": f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{card}",
        "app.py": APP.format(repo_id=repo_id),
        "requirements.txt": "".join(f"{line}\n" for line in _requirements(ours)),
        "examples.json": json.dumps(examples, indent=1, ensure_ascii=False) + "\n",
        "LICENSE": _license(ours),
    }
    return {name: text.encode() for name, text in texts.items()} | _source()


def _license(ours):
    """The text of hflm's licence: in what is installed, or beside the source."""
    beside = Path(__file__).parents[2] / "LICENSE"
    return beside.read_text(encoding="utf-8") if beside.is_file() else ours.read_text("licenses/LICENSE")


def _requirements(ours):
    """What hflm imports, "torch==2.15.0" and so on, without the extras; Gradio itself comes with the Space."""
    names = [re.match(r"[\w.-]+", line)[0] for line in ours.requires if "extra ==" not in line]
    # 2.15.0+cpu is a build of 2.15.0 that its index keeps elsewhere.
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


def _source():
    """hflm's own modules and tables, without its recipes."""
    root = Path(__file__).parents[1]
    paths = [path for path in sorted(root.rglob("*")) if path.suffix in (".py", ".json")]
    return {f"hflm/{path.relative_to(root).as_posix()}": path.read_bytes() for path in paths}
