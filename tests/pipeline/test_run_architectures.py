"""A whole run with another architecture than GPT-2's."""

import contextlib
import json
from pathlib import Path

import gguf
import pytest

from hflm.evaluation import read_results
from hflm.pipeline import run_recipe
from hflm.publishing import export_model
from hflm.recipe import load_recipe

RECIPE = """
name: modern
tokenizer: {train: {algorithm: bpe, vocab_size: 300}}
model:
  architecture: ARCHITECTURE
  num_hidden_layers: 1
  num_attention_heads: 2
  num_key_value_heads: 1
  head_dim: 16
  hidden_size: 32
  intermediate_size: 64
  max_position_embeddings: 128
pretrain:
  data: {path: toy, name: stories, size: 200}
  validation: 0.1
  args: {max_steps: 4, optim: muon, learning_rate: 5.0e-3}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 60}, labels: [negative, neutral, positive]}
  translation: {data: {path: toy, name: translation, size: 60}, source: english, target: lumo, max_new_tokens: 8}
finetune: {tasks: [sentiment, translation], adapter: {type: lora, r: 4}, args: {max_steps: 4, learning_rate: 3.0e-3}}
benchmark: {tasks: [sentiment, translation], resamples: 50}
"""


@pytest.mark.parametrize("architecture", [pytest.param("llama", marks=pytest.mark.slow), "qwen3"])
def test_a_run_from_the_tokenizer_to_the_exported_model(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "modern.yaml").write_text(RECIPE.replace("ARCHITECTURE", architecture))
    with contextlib.chdir(tmp_path):
        run_recipe(load_recipe("modern.yaml"), "run")
        config = json.loads(Path("run/model/config.json").read_text())
        assert (config["model_type"], config["num_key_value_heads"]) == (architecture, 1)
        results = read_results(Path("run/benchmark/results.json"))
        assert {name: task.n for name, task in results.tasks.items()} == {"sentiment": 60, "translation": 60}
        stages = json.loads(Path("run/environment.json").read_text())["stages"]
        compared = stages["pretrain"]["plan"]
        assert compared["predicted"]["parameters"] == compared["measured"]["parameters"]
        written = export_model("run", "gguf")
        assert gguf.GGUFReader(written).fields["general.architecture"].contents() == architecture
