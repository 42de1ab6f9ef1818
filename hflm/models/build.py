"""Build a new model from a config, and what can be asked of any model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hflm.core import ModelError
from hflm.preprocessing import first_line
from hflm.recipe import ARCHITECTURES, CONFIG_DEFAULTS

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def build_model(config: Mapping[str, Any], tokenizer: "PreTrainedTokenizerFast") -> "PreTrainedModel":
    """A causal language model with fresh weights for `tokenizer`.

    config: `model_type` (one of hflm.recipe.ARCHITECTURES; a GPT-2 without it) and the keys of its configuration class.
    The initialisation is transformers'; a GPT-2's is normal with deviation 0.02, residual projections scaled by
    1/sqrt(2 n_layer). A GPT-2's activation is GELU's tanh approximation, unless `config` names another; by default as
    one fused operation.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    family = config.get("model_type", "gpt2")
    keys = {key: value for key, value in config.items() if key != "model_type"}
    special: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    options = {**CONFIG_DEFAULTS[family], **keys}
    try:
        made = AutoConfig.for_model(family, vocab_size=len(tokenizer), **special, **options)
        return AutoModelForCausalLM.from_config(made)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"model: {ARCHITECTURES[family]} refuses these keys: {first_line(error)}") from error


def context_length(model: "PreTrainedModel | PeftModel") -> int:
    """The longest sequence the model takes, in tokens. Raises ModelError when its config does not say it."""
    try:
        return model.config.max_position_embeddings
    except AttributeError:
        raise ModelError(f"a {model.config.model_type} does not say how many tokens it takes; choose another") from None
