"""Adapters: add one to a model, and merge a saved one into the model that it belongs to."""

import contextlib
import functools
import importlib.util
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import MissingExtra, ModelError, expand_path
from hflm.models.load import ADAPTER_CONFIG, load_model
from hflm.models.vocabulary import extend_embeddings
from hflm.preprocessing import added_ids, first_line, load_tokenizer
from hflm.recipe import TIED_MODULES

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class AdapterBase:
    """The model that an adapter belongs to: an absolute path or a Hub id, and the Hub's revision."""

    path: str
    revision: str | None


def add_adapter(
    model: "PreTrainedModel", adapter: Mapping[str, Any], revision: str | None = None, token_ids: Sequence[int] = ()
) -> "PeftModel":
    """Wrap `model` by a peft adapter; `adapter` holds LoraConfig's own keys beside `type: lora`.

    The adapter records the absolute path of a local base, or its Hub id and `revision`. The embeddings of `token_ids`,
    which the base does not have, are trained, too.
    """
    from peft import LoraConfig, get_peft_model

    options = {key: value for key, value in adapter.items() if key != "type"}
    if options.get("init_lora_weights") == "olora" and model.config.model_type == "gpt2":
        raise ModelError(
            "finetune.adapter.init_lora_weights: peft's OLoRA cannot read GPT-2's transposed matrices. Use pissa"
        )
    if token_ids:
        options["trainable_token_indices"] = {name: list(token_ids) for name in _embedding_names(model)}
    try:
        with _quiet_peft():
            wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", revision=revision, **options))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"finetune.adapter: {first_line(error)}") from error
    for name in wrapped.targeted_module_names:  # a pattern may have matched them
        if model.config.tie_word_embeddings and name.split(".")[-1] in TIED_MODULES:
            raise ModelError(
                f"finetune.adapter.target_modules: it matches {name}, one of the tied embeddings, where an adapter "
                "cannot be merged. Name other modules"
            )
    for config in wrapped.peft_config.values():
        base = config.base_model_name_or_path
        if base and Path(base).exists():
            config.base_model_name_or_path = str(Path(base).resolve())
    if token_ids:
        # peft would save all rows, because there are more of them than in the base; `merge_adapter` makes them again.
        saving: Any = wrapped
        saving.save_pretrained = functools.partial(wrapped.save_pretrained, save_embedding_layers=False)
    return wrapped


def _embedding_names(model: "PreTrainedModel") -> list[str]:
    """The names of the input embedding and, where it is another matrix, of the output layer."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    tied = last is None or last.weight is first.weight
    wanted = [first] if tied else [first, last]
    return [name.split(".")[-1] for each in wanted for name, module in model.named_modules() if module is each]


def check_quantization() -> None:
    """Raises MissingExtra where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("quant", "finetune.quantization")


def adapter_base(folder: Path) -> AdapterBase:
    """The base that an adapter's folder names; a relative path is one from that folder. Raises ModelError."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"'{folder / ADAPTER_CONFIG}' does not say which model it belongs to (base_model_name_or_path)"
        )
    if base.startswith((".", "/", "~")) or base.count("/") > 1 or (folder / base).exists():
        place = folder / expand_path(base)
        if not place.exists():
            raise ModelError(f"'{folder}' is an adapter for '{base}': no such file or folder: '{place}'")
        return AdapterBase(str(place), None)
    return AdapterBase(base, config.get("revision"))


def merge_adapter(
    folder: Path, dtype: str = "float32", quantization: dict[str, Any] | None = None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """The base of a saved adapter with the adapter merged into it, and its tokenizer.

    A base that was trained in 4 or 8 bits (`quantization`) is first rounded in the same way and written out in plain
    numbers, since the adapter was trained on those; so the merged model is plain safetensors again.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    base = adapter_base(folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"'{folder}' holds no adapter_model.safetensors; other formats are not read")
    model, tokenizer = load_model(base.path, base.revision, dtype, quantization)
    if quantization is not None:
        model = _dequantized(model)
    own = load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else tokenizer
    if ids := _added_ids(folder, own, tokenizer):
        model = extend_embeddings(model, own, ids)
    try:
        with _quiet_peft():
            merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"the adapter '{folder}' does not fit '{base.path}': {first_line(error)}") from error
    return merged, own


def _added_ids(folder: Path, own: "PreTrainedTokenizerFast", base: "PreTrainedTokenizerFast") -> list[int]:
    """The tokens of an adapter's tokenizer that its base has not, as far as the adapter trains them."""
    trained = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("trainable_token_indices")
    lists = trained.values() if isinstance(trained, dict) else [trained or ()]
    return sorted({number for each in lists for number in each} & set(added_ids(own, base)))


def _dequantized(model: "PreTrainedModel") -> "PreTrainedModel":
    """A model of the same weights, in plain matrices of the original kind."""
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    config = json.loads(model.config.to_json_string())
    config.pop("quantization_config")
    plain = type(model)(type(model.config).from_dict(config))
    modules = dict(model.named_modules())
    for name, parameter in plain.named_parameters():
        place, _, kind = name.rpartition(".")
        values = dequantize_module_weight(modules[place]) if kind == "weight" else getattr(modules[place], kind)
        transposed = kind == "weight" and isinstance(plain.get_submodule(place), Conv1D)
        quantized = type(modules[place]).__module__.startswith("bitsandbytes")
        parameter.data = (values.T if transposed and quantized else values).detach().to(model.dtype).contiguous()
    return plain


@contextlib.contextmanager
def _quiet_peft() -> Iterator[None]:
    """Leave out warnings that call for no action.

    peft notices by itself that GPT-2's Conv1D stores its weights transposed, and warns each time; and it asks
    transformers for checkpointing by the old name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield
