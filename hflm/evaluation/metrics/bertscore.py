"""BERTScore (Zhang et al. 2020) by bert-score, with an encoder from a local folder: nothing is fetched.

The package chooses, loads and cuts models by their names. Here the folder's safetensors are loaded and its matching is
called directly; transformers 5 also ignores the `add_prefix_space` that it gives to `encode`, so the tokenizer has it.
"""

import functools
import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hflm.core import MissingExtra, ModelError, arithmetic, expand_path, fingerprint_files
from hflm.evaluation.metrics.summed import References, SummedMetric, Values

BATCH = 64  # texts that are encoded at once


def check(folder: str) -> None:
    """Raise MissingExtra without the package, ModelError where `folder` holds no model."""
    if importlib.util.find_spec("bert_score") is None:
        raise MissingExtra("bertscore", "the metric bertscore")
    if not expand_path(folder).joinpath("config.json").is_file():
        raise ModelError(
            f"bertscore_model: {folder} is not a folder with a model (it has no config.json). "
            "Download an encoder such as roberta-large there first"
        )


class BertScore(SummedMetric):
    """F of greedily matched token vectors, the best of an example's references; an empty text matches nothing.

    `model` is the encoder's folder. Its vectors come from the layer that the authors tuned for a model of the folder's
    name ("roberta-large": 17), else from the last one; the signature names it.
    """

    NAMES = ("bertscore",)
    DESCRIPTION = "BERTScore F, 0 to 100 and without rescaling, by bert-score."

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    def statistics(self, predictions: Sequence[str], references: Sequence[References]) -> np.ndarray:
        """(n, 2): F from 0 to 1, and 1."""
        from bert_score.utils import bert_cos_score_idf

        model, tokenizer, self.signature = _loaded(str(expand_path(self.model)))
        rows, predicted, expected = [], [], []
        for row, (prediction, refs) in enumerate(zip(predictions, references, strict=True)):
            for reference in refs:
                if prediction.strip() and reference.strip():
                    rows.append(row)
                    predicted.append(prediction)
                    expected.append(reference)
        best = np.zeros(len(predictions))
        if rows:
            weights = defaultdict(lambda: 1.0, {tokenizer.cls_token_id: 0, tokenizer.sep_token_id: 0})
            found = bert_cos_score_idf(
                model, expected, predicted, tokenizer, weights, batch_size=BATCH, device=str(model.device)
            )  # (pairs, 3): precision, recall, F
            np.maximum.at(best, rows, found[:, 2].double().numpy())
        return np.column_stack([best, np.ones(len(predictions))])

    def aggregate(self, sums: np.ndarray) -> Values:
        return {"bertscore": 100 * sums[:, 0] / sums[:, 1]}


@functools.lru_cache(maxsize=1)
def _loaded(folder: str) -> tuple[Any, Any, str]:
    """(model, tokenizer, signature) of an encoder's folder."""
    check(folder)
    from bert_score.utils import model2layers
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    tuned = {name.split("/")[-1]: layer for name, layer in model2layers.items()}
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        layers: int = config.num_hidden_layers
        layer = min(tuned.get(Path(folder).name, layers), layers)
        model = AutoModel.from_pretrained(
            folder,
            num_hidden_layers=layer,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, add_prefix_space=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"bertscore_model: {folder}: {error}") from error
    # Some tokenizers do not know how much their model reads; RoBERTa keeps two positions for itself.
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    if tokenizer.model_max_length == config.max_position_embeddings and config.model_type == "roberta":
        tokenizer.model_max_length -= 2
    files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
    digest = fingerprint_files(files).removeprefix("sha256:")[:16]
    signature = f"bert-score {version('bert-score')}, F, {Path(folder).name} {digest}, layer {layer}, no idf, unscaled"
    return model.eval().to(arithmetic.at_hand()), tokenizer, signature
