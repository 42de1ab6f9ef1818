"""Load a model: a run, a folder, an adapter, a `.gguf` file or a Hub id. No code from a model's repository runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import ModelError, atomic_folder, expand_path, fingerprint_model
from hflm.models.gguf import convert_gguf
from hflm.preprocessing import first_line, load_tokenizer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ADAPTER_CONFIG = "adapter_config.json"


def load_model(
    path: str | Path,
    revision: str | None = None,
    dtype: str = "float32",
    quantization: dict[str, Any] | None = None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """The model and its tokenizer, from a run, a model folder, a peft adapter's folder, a `.gguf` file or a Hub id.

    quantization: BitsAndBytesConfig's own keys; the matrices of the blocks are then held in 4 or 8 bits.
    Only safetensors are read. Raises ModelError.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    place = locate_model(path)
    if (Path(place) / ADAPTER_CONFIG).is_file():
        from hflm.models.adapters import merge_adapter

        if quantization is not None:
            raise ModelError(
                f"'{path}' is an adapter; quantization needs a complete model. Start from a run or its model/"
            )
        return merge_adapter(Path(place), dtype)
    options = {"quantization_config": BitsAndBytesConfig(**quantization)} if quantization is not None else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            place, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # also damaged files, other shapes
        absent = "" if expand_path(path).exists() else ". No local file or folder has this name either"
        raise ModelError(f"model '{path}' cannot be loaded: {reason(error).rstrip('.')}{absent}") from error
    if quantization is not None:
        _keep_4bit_weights_unpacked(model)
    return model, load_tokenizer(place, revision)


def locate_model(path: str | Path) -> str:
    """Where transformers finds the model: a run's `model/` folder, a converted `.gguf`, or `path` itself.

    Raises ModelError for a path that does not exist or holds no model.
    """
    place = expand_path(path)
    if (place / "model" / "config.json").is_file():
        return str(place / "model")
    if place.is_dir() and not any((place / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
        raise ModelError(
            f"'{path}' holds no finished model (no model/config.json, no config.json, no {ADAPTER_CONFIG})"
        )
    if place.suffix == ".gguf":
        if not place.is_file():
            raise ModelError(f"no such file: '{path}'")
        return str(convert_gguf(place))
    if place.exists() and not place.is_dir():
        raise ModelError(f"'{path}' is no model: expected a run, a folder with a config.json, a .gguf file or a Hub id")
    name = str(path)
    if not place.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(f"no such file or folder: '{path}'")
    return str(place) if place.exists() else name


def model_revision(path: str, wanted: str | None = None) -> str | None:
    """What exactly a loaded model or adapter was: its commit on the Hub, or the fingerprint of its local files."""
    from huggingface_hub import try_to_load_from_cache

    if expand_path(path).exists():
        return fingerprint_model(path)
    cached = (try_to_load_from_cache(path, file, revision=wanted) for file in ("config.json", ADAPTER_CONFIG))
    # .../snapshots/<commit>/config.json; no text where the repository has no such file
    return next((Path(file).parent.name for file in cached if isinstance(file, str)), None)


def save_pretrained(folder: Path, *parts: "PreTrainedModel | PreTrainedTokenizerFast") -> None:
    """Write each part (a model as safetensors, a tokenizer) so that `folder` appears complete or not at all."""
    with atomic_folder(folder) as partial:
        for part in parts:
            part.save_pretrained(partial)


def reason(error: Exception) -> str:
    """Why transformers cannot load a model, on one line."""
    if "trust_remote_code" in str(error):
        return "its repository brings code of its own (auto_map), which hflm never runs. Choose another model"
    return first_line(error)


def _keep_4bit_weights_unpacked(model: "nn.Module") -> None:
    """Keep the first evaluation from packing 4-bit weights for good, after which training could not continue.

    bitsandbytes (0.50) does that in `Linear4bit.forward` on CPUs with AVX-512 and bf16, and has no option against it
    but this attribute, which its documentation does not mention.
    """
    from bitsandbytes.nn import Linear4bit  # type: ignore[import-not-found]

    for module in model.modules():
        if isinstance(module, Linear4bit):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
