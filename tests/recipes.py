"""Tiny recipes for tests that run them: a new model of one block on a vocabulary of a few hundred entries."""

from typing import Any

import yaml


def tiny_recipe(name: str, sections: str, **config: Any) -> str:
    """The YAML of a recipe of such a model with further `sections`; `config` changes the model's."""
    model = {"preset": "gpt2-nano", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 64, **config}
    content = {"name": name, "tokenizer": {"train": {"vocab_size": 400}}, "model": model}
    return yaml.safe_dump(content, sort_keys=False) + sections
