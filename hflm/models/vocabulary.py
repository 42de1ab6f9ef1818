"""Rows of the embeddings for tokens that were added to a model's tokenizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hflm.preprocessing import pieces_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MULTIPLE = 64  # matrices of such sizes are multiplied faster


def extend_embeddings(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", ids: Sequence[int]
) -> "PreTrainedModel":
    """Give each of the added `ids` of `tokenizer` a row, the mean of the rows that its text had before; returns the model.

    Input and output embeddings (V, D) alike, which may be one matrix. A vocabulary that is a multiple of 64 stays one;
    what that adds is the mean of all earlier rows, so that it is no likelier than an average token.
    """
    import torch

    first: Any = model.get_input_embeddings()
    size = first.weight.shape[0]
    if max(ids) >= size:
        multiple = MULTIPLE if size % MULTIPLE == 0 else None
        model.resize_token_embeddings(max(ids) + 1, pad_to_multiple_of=multiple, mean_resizing=False)
    pieces = pieces_of(tokenizer, ids)
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    layers = [layer for layer in layers if layer is not None]
    values = [layer.weight for layer in layers]
    values += [layer.bias for layer in layers if isinstance(getattr(layer, "bias", None), torch.Tensor)]
    with torch.no_grad():
        for value in {id(each): each for each in values}.values():
            value[size:] = value[:size].float().mean(0)
            for number, own in pieces.items():
                value[number] = value[own].float().mean(0)
    return model
