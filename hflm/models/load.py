"""Build a GPT-2 from a config, or load an existing model; adapters; the loss."""

import contextlib
import functools
import hashlib
import importlib.util
import json
import warnings
from pathlib import Path

from hflm.core import MissingExtra, ModelError, atomic_folder, expand_path, fingerprint_model
from hflm.preprocessing import first_line, load_tokenizer
from hflm.recipe import CONFIG_DEFAULTS, TIED_MODULES

ADAPTER = "adapter_config.json"


def build(config, tokenizer):
    """A GPT2LMHeadModel with fresh weights for `tokenizer`; `config` holds GPT2Config's own keys.

    The initialisation is GPT-2's: normal with deviation 0.02, residual projections scaled by 1/sqrt(2 n_layer). So is
    the activation, GELU's tanh approximation, unless `config` names another; by default as one fused operation.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    try:
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **{**CONFIG_DEFAULTS, **config},
            )
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"model: GPT2Config refuses these keys: {first_line(error)}") from error


def load(path, revision=None, dtype="float32", quantization=None):
    """(model, tokenizer) from a run, a model folder, a peft adapter's folder, a `.gguf` file or a Hub id.

    quantization: BitsAndBytesConfig's own keys; the matrices of the blocks are then held in 4 or 8 bits.
    Only safetensors are read and no code from the model's repository runs. Raises ModelError.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    place = locate(path)
    if (Path(place) / ADAPTER).is_file():
        if quantization is not None:
            raise ModelError(
                f"'{path}' is an adapter; quantization needs a whole model. Start from a run or its model/"
            )
        return _merged(Path(place), dtype)
    more = {"quantization_config": BitsAndBytesConfig(**quantization)} if quantization is not None else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            place, revision=revision, dtype=dtype, use_safetensors=True, **more
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model '{path}' cannot be loaded: {first_line(error)}") from error
    if quantization is not None:
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                # On some CPUs the first evaluation would pack its weights for good, and training could not go on.
                module.support_avx512bf16_for_cpu = False
    return model, load_tokenizer(place, revision)


def _merged(folder, dtype):
    """The model that an adapter was trained on with the adapter merged into it, and its tokenizer."""
    from peft import PeftModel

    base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"'{folder / ADAPTER}' does not say which model it belongs to (base_model_name_or_path)")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"'{folder}' holds no adapter_model.safetensors; other formats are not read")
    model, tokenizer = load(base, dtype=dtype)
    try:
        with _peft_warnings():
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the adapter '{folder}' does not fit '{base}': {first_line(error)}") from error
    return model, load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else tokenizer


def locate(path):
    """Where transformers finds the model: a run's `model/` folder, a converted `.gguf`, or `path` itself.

    Raises ModelError for a path that does not exist or holds no model.
    """
    place = expand_path(path)
    if (place / "model" / "config.json").is_file():
        return str(place / "model")
    if place.is_dir() and not any((place / file).is_file() for file in ("config.json", ADAPTER)):
        raise ModelError(f"'{path}' holds no finished model (no model/config.json, no config.json, no {ADAPTER})")
    if place.suffix == ".gguf":
        if not place.is_file():
            raise ModelError(f"no such file: '{path}'")
        return str(_converted(place))
    named = str(path)
    if not place.exists() and (named.startswith((".", "/", "~")) or named.count("/") > 1):
        raise ModelError(f"no such file or folder: '{path}'")
    return str(place) if place.exists() else named


def revision(path, wanted=None):
    """What exactly a loaded model or adapter was: its commit on the Hub, or the fingerprint of its local files."""
    from huggingface_hub import try_to_load_from_cache

    if expand_path(path).exists():
        return fingerprint_model(path)
    cached = (try_to_load_from_cache(path, file, revision=wanted) for file in ("config.json", ADAPTER))
    # .../snapshots/<commit>/config.json; no text where the repository has no such file
    return next((Path(file).parent.name for file in cached if isinstance(file, str)), None)


def context_length(model):
    """The longest sequence the model takes, in tokens. Raises ModelError when its config does not say it."""
    try:
        return model.config.max_position_embeddings
    except AttributeError:
        raise ModelError(f"a {model.config.model_type} does not say how many tokens it takes; choose another") from None


def mend_loss(model, z_loss=0.0):
    """Replace the loss of `model.forward(labels=...)` by the exact mean over labelled tokens; returns the model.

    transformers computes logits for every position and, for GPT-2 under Trainer, divides by one label too many a row.
    Here only positions with a label (B, T) != -100 reach the output layer, a few rows at a time (hflm.models.loss), and
    the sum of -log p is divided by `num_items_in_batch`, the labels of the whole optimizer step, or by the labels at
    hand when it is not given. `z_loss` is hflm.models.loss's, in training only. A model that does more to its logits
    than one matrix product (scaled, capped) computes them in its own forward. Without labels nothing changes.
    """
    import torch
    from transformers.modeling_outputs import CausalLMOutput

    from hflm.models import loss as losses

    plain = model.forward
    head = model.get_output_embeddings()
    direct = _is_one_product(model, head)

    def own_logits(input_ids, labels, z, inputs):
        targets = labels[:, 1:]
        kept = targets != -100
        hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][:, :-1][kept],))
        try:
            logits = plain(input_ids=input_ids, **inputs).logits.float()  # (labels, V)
        finally:
            hook.remove()
        total = torch.nn.functional.cross_entropy(logits, targets[kept], reduction="sum")
        return total + z * logits.logsumexp(-1).square().sum() if z else total, kept.sum()

    # transformers and Trainer read the signature of a model's forward to learn what it takes.
    @functools.wraps(plain)
    def forward(input_ids=None, labels=None, num_items_in_batch=None, **inputs):
        if labels is None:
            return plain(input_ids=input_ids, **inputs)
        # The cache is off: with it on, transformers ignores the borders that position_ids mark.
        inputs["use_cache"] = False
        z = z_loss if model.training else 0.0
        if direct:
            hidden = model.base_model(input_ids=input_ids, **inputs).last_hidden_state  # (B, T, D)
            total, count = losses.labelled(hidden, head.weight, labels, z)
        else:
            total, count = own_logits(input_ids, labels, z, inputs)
        return CausalLMOutput(loss=total / (count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch))

    model.forward = forward
    # Trainer counts labels from the second token on only for this loss type.
    model.loss_type = "ForCausalLM"
    return model


def _is_one_product(model, head):
    """Whether a model's logits are its last hidden state times the output layer's weight, and nothing more: it tries."""
    import torch

    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    was_training = model.training
    model.eval()
    ids = torch.arange(4, device=model.device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.no_grad():
        logits = model(**inputs).logits
        product = head(model.base_model(**inputs).last_hidden_state)
    model.train(was_training)
    return torch.allclose(logits, product, rtol=1e-3, atol=1e-4)


def add_adapter(model, adapter):
    """Wrap `model` by a peft adapter; `adapter` holds LoraConfig's own keys beside `type: lora`."""
    from peft import LoraConfig, get_peft_model

    options = {key: value for key, value in adapter.items() if key != "type"}
    if options.get("init_lora_weights") == "olora" and model.config.model_type == "gpt2":
        raise ModelError(
            "finetune.adapter.init_lora_weights: peft's OLoRA cannot read GPT-2's transposed matrices. Use pissa"
        )
    try:
        with _peft_warnings():
            wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"finetune.adapter: {first_line(error)}") from error
    for name in wrapped.targeted_module_names:  # a pattern may have found them
        if model.config.tie_word_embeddings and name.split(".")[-1] in TIED_MODULES:
            raise ModelError(
                f"finetune.adapter.target_modules: it takes in {name}, one of the tied embeddings, where an adapter "
                "cannot be merged. Name other modules"
            )
    return wrapped


def check_quantization():
    """Raises MissingExtra where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("quant", "finetune.quantization")


def merge(wrapped, adapter_folder, quantized=False):
    """Save the adapter in a folder of its own and return the plain model with the adapter merged into it.

    A quantized base is first written out as the numbers it stood for in training, since the adapter has learnt to mend
    those; so the merged model is plain safetensors again.
    """
    from peft import PeftModel

    wrapped.save_pretrained(adapter_folder)
    if not quantized:
        return wrapped.merge_and_unload()
    plain = _dequantized(wrapped.unload())
    with _peft_warnings():
        return PeftModel.from_pretrained(plain, str(adapter_folder)).merge_and_unload()


def _dequantized(model):
    """A model of the same weights, in plain matrices of the original kind."""
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    config = json.loads(model.config.to_json_string())
    config.pop("quantization_config")
    fresh = type(model)(type(model.config).from_dict(config))
    modules = dict(model.named_modules())
    for name, parameter in fresh.named_parameters():
        place, _, kind = name.rpartition(".")
        values = dequantize_module_weight(modules[place]) if kind == "weight" else getattr(modules[place], kind)
        transposed = kind == "weight" and isinstance(fresh.get_submodule(place), Conv1D)
        held = type(modules[place]).__module__.startswith("bitsandbytes")
        parameter.data = (values.T if transposed and held else values).detach().to(model.dtype).contiguous()
    return fresh


@contextlib.contextmanager
def _peft_warnings():
    """Leave out what nobody can act on.

    peft finds out by itself that GPT-2's Conv1D stores its weights transposed, and says so each time; and it asks
    transformers for checkpointing by the old name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def gather(model):
    """Put whole weights in place of the parts that FSDP2 has left in each process; every process must call it.

    Afterwards the model can be saved and merged by one process, but no longer be run.
    """
    import torch
    from torch.distributed.tensor import DTensor

    whole = {}  # by identity, so that tied weights stay tied
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                if id(parameter) not in whole:
                    values = parameter.detach().full_tensor().cpu()
                    whole[id(parameter)] = parameter, torch.nn.Parameter(values, parameter.requires_grad)
                module.register_parameter(name, whole[id(parameter)][1])


def save(folder, *parts):
    """Write each part (a model as safetensors, a tokenizer) so that `folder` appears whole or not at all."""
    with atomic_folder(folder) as beside:
        for part in parts:
            part.save_pretrained(beside)


def _converted(file):
    """The folder with a `.gguf` file's weights as safetensors; made once and kept in the Hugging Face cache."""
    from huggingface_hub.constants import HF_HOME

    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = Path(HF_HOME) / "hflm-gguf" / digest[:32]
    if (folder / "config.json").is_file():
        return folder
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MissingExtra("gguf", f"reading {file.name}") from None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        if config.model_type == "gpt2":
            # transformers reads these two of a GPT-2 under names that its config does not know.
            config.n_positions, config.n_inner = config.n_ctx, config.feed_forward_length
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"'{file}' cannot be read: {first_line(error)}") from error
    # A model read from GGUF refuses to be saved; one built from its config does not.
    config = json.loads(loaded.config.to_json_string())
    config.pop("quantization_config", None)
    fresh = type(loaded)(type(loaded.config).from_dict(config))
    fresh.load_state_dict(loaded.state_dict())
    save(folder, fresh, tokenizer)
    return folder
