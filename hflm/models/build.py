"""Build a GPT-2 from a config, and what can be asked of any model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hflm.core import ModelError
from hflm.preprocessing import first_line
from hflm.recipe import CONFIG_DEFAULTS

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast


def build_model(config: Mapping[str, Any], tokenizer: "PreTrainedTokenizerFast") -> "GPT2LMHeadModel":
    """A GPT2LMHeadModel with fresh weights for `tokenizer`; `config` holds GPT2Config's own keys.

    The initialisation is GPT-2's: normal with deviation 0.02, residual projections scaled by 1/sqrt(2 n_layer). So is
    the activation, GELU's tanh approximation, unless `config` names another; by default as one fused operation.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    special: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **special, **{**CONFIG_DEFAULTS, **config}))
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"model: GPT2Config refuses these keys: {first_line(error)}") from error


def context_length(model: "PreTrainedModel") -> int:
    """The longest sequence the model takes, in tokens. Raises ModelError when its config does not say it."""
    try:
        return model.config.max_position_embeddings
    except AttributeError:
        raise ModelError(f"a {model.config.model_type} does not say how many tokens it takes; choose another") from None
