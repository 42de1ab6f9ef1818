"""The Colab notebook, executed by a real kernel on a recipe that is too small to learn anything."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import hflm

NOTEBOOK = Path(hflm.__file__).parent.parent / "recipes" / "quickstart.ipynb"
SMALL = """
RECIPE, RUN, REPO_ID, KEEP_CHECKPOINTS, LOST = "quickstart", "run", None, False, False
CHANGES = ["tokenizer.train.vocab_size=400", "model.n_layer=1", "model.n_embd=32", "benchmark.resamples=20"]
CHANGES += ["pretrain.args.max_steps=2", "finetune.args.max_steps=2"]
for task in ("translation", "summarization", "sentiment", "qa"):
    CHANGES += [f"tasks.{task}.data.size=40", f"tasks.{task}.splits.test=test[:4]"]
"""


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code(notebook))


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [parameters] = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = SMALL
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.execution_count for cell in code(notebook))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == len(list((tmp_path / "run" / "plots").glob("*.png"))) + 1 > 2
    printed = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "3: It was a sunny morning." in printed
    assert "log P(text) = -" in printed
    assert (tmp_path / "run" / "benchmark" / "results.json").is_file()


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
