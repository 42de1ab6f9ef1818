"""The loss of a model on a few texts, to show what quantization costs."""

from pathlib import Path
from typing import TYPE_CHECKING

from hflm.core import read_json_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROWS = 64
STORED = (
    (
        "The tower was built in 1889 and is 324 metres tall. Visitors reach the top by stairs or by lift, and on a clear "
        "day they see the whole city. It was meant to stand for twenty years, but the radio antenna on its top proved so "
        "useful that nobody wanted to take it down."
    ),
    (
        "Tom and his sister went to the market to buy bread, apples and a little honey. On the way home it began to rain, "
        "so they waited under an old tree and ate two of the apples. When the sun came out again, they ran the rest of the "
        "way."
    ),
    (
        "To make the soup, cut the onions and fry them slowly in butter. Add water, salt and the potatoes, and let it all "
        "cook for half an hour. Serve it hot, with fresh herbs."
    ),
)


def loss_texts(path: str | Path) -> tuple[str, list[str]]:
    """(what the texts are, the texts): prompts with references of a run's benchmark, else three stored paragraphs."""
    texts = []
    for file in sorted((Path(path) / "benchmark" / "predictions").glob("*.jsonl")):
        for row in read_json_lines(file)[:ROWS]:
            if row.get("prompt") and row.get("references"):
                texts.append(f"{row['prompt']} {row['references'][0]}")
    return ("prompts and references of the benchmark", texts) if texts else ("three English paragraphs", [*STORED])


def mean_loss(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", texts: list[str]) -> float:
    """Nats per token over all texts, each cut to the model's context."""
    import torch

    from hflm.models import context_length

    total, count = 0.0, 0
    model.eval()
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids[: context_length(model)]
        if len(ids) < 2:
            continue
        row = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=row).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
        count += len(ids) - 1
    return total / max(count, 1)
