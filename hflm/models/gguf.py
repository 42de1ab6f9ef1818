"""Read a `.gguf` file by converting it once to safetensors."""

import importlib.util
import json
from pathlib import Path

from hflm.core import MissingExtra, ModelError, atomic_folder, file_checksum
from hflm.preprocessing import first_line


def convert_gguf(file: Path) -> Path:
    """The folder with the file's weights as safetensors; made once and kept in the Hugging Face cache."""
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "hflm-gguf" / file_checksum(file)[:32]
    if (folder / "config.json").is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf", f"reading {file.name}")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        if config.model_type == "gpt2":
            # transformers reads these two of a GPT-2 under names that its config does not know.
            config.n_positions, config.n_inner = config.n_ctx, config.feed_forward_length
        if config.model_type == "qwen3":
            from gguf import GGUFReader

            # transformers (5.23) does not read the size of a head, and takes Qwen3Config's default for it.
            config.head_dim = int(GGUFReader(file).fields["qwen3.attention.key_length"].contents())
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"'{file}' cannot be read: {first_line(error)}") from error
    # A model read from GGUF refuses to be saved; one built from its config does not.
    plain_config = json.loads(loaded.config.to_json_string())
    plain_config.pop("quantization_config", None)
    plain = type(loaded)(type(loaded.config).from_dict(plain_config))
    plain.load_state_dict(loaded.state_dict())
    with atomic_folder(folder) as partial:
        plain.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return folder
