"""Exported models answer as the model here does: read back exactly, by ONNX Runtime, and by llama.cpp where it is."""

import re
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from conftest import SIZES
from huggingface_hub import constants
from tokenizers import pre_tokenizers

from hflm.core import MissingExtra, ModelError, UserError
from hflm.models import add_adapter, build_model, context_length, load_model, save_pretrained
from hflm.preprocessing import encode, load_tokenizer, train_tokenizer
from hflm.publishing import export_model
from hflm.publishing.export import trim_vocabulary, write_gguf
from hflm.publishing.export.loss import loss_texts, mean_loss

TEXT = "The dog saw the key in 123 barns:\n  it's \t 🙂 schön <|endoftext|>"


@pytest.fixture
def gpt2(tiny):
    with torch.no_grad():
        for name, parameter in tiny.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if "ln" in name else 0.2))  # no bias is zero any more
    return tiny.eval()


@pytest.fixture
def llama(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 80}
    return LlamaForCausalLM(
        LlamaConfig(
            **config,
            num_hidden_layers=2,
            max_position_embeddings=128,
            initializer_range=0.3,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
            tie_word_embeddings=False,
            vocab_size=len(tokenizer),
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    ).eval()


@pytest.fixture
def qwen3(tokenizer):
    torch.manual_seed(0)
    sizes = {**SIZES["qwen3"], "head_dim": 24, "initializer_range": 0.3, "tie_word_embeddings": False}
    made = build_model(sizes, tokenizer).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)  # no norm's weight is one any more
    return made


@pytest.fixture(params=["gpt2", "llama", "qwen3"])
def model(request):
    return request.getfixturevalue(request.param)


def logits(model, tokenizer, text=TEXT):
    with torch.inference_mode():
        return model(input_ids=torch.tensor(encode(tokenizer, [text]))).logits[0].float()


def test_a_padded_vocabulary_is_cut_back(model, tokenizer):
    expected = logits(model, tokenizer)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    assert logits(model, tokenizer).shape[1] > expected.shape[1]
    assert trim_vocabulary(model, tokenizer) is model
    assert torch.equal(logits(model, tokenizer), expected)
    assert model.config.vocab_size == len(tokenizer) == model.get_output_embeddings().weight.shape[0]


def test_the_folder_of_a_run_holds_what_from_takes(gpt2, tokenizer, tmp_path):
    gpt2.resize_token_embeddings(512, mean_resizing=False)
    save_pretrained(tmp_path / "run" / "model", gpt2, tokenizer)
    expected = logits(gpt2, tokenizer)[:, : len(tokenizer)]
    written = export_model(str(tmp_path / "run"))
    assert written == tmp_path / "run" / "export" / "run"
    assert torch.equal(logits(load_model(str(written))[0], tokenizer), expected)
    assert export_model(str(tmp_path / "run"), dtype="bfloat16") == written, "it replaces its own"
    assert load_model(str(written), dtype="auto")[0].dtype == torch.bfloat16


def test_an_adapter_is_merged(gpt2, tokenizer, tmp_path):
    save_pretrained(tmp_path / "base", gpt2, tokenizer)
    adapted = add_adapter(gpt2, {"type": "lora", "r": 2, "init_lora_weights": False})
    adapted.save_pretrained(tmp_path / "adapter")
    adapter = tmp_path / "adapter" / "adapter_config.json"
    adapter.write_text(
        adapter.read_text().replace(
            '"base_model_name_or_path": null', f'"base_model_name_or_path": "{tmp_path / "base"}"'
        )
    )
    written = export_model(str(tmp_path / "adapter"), output=tmp_path / "merged")
    expected = logits(adapted.eval(), tokenizer)
    torch.testing.assert_close(logits(load_model(str(written))[0], tokenizer), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_gguf_file_holds_every_weight(model, tokenizer, tmp_path, dtype):
    model.to(getattr(torch, dtype))
    path = write_gguf(model, tokenizer, tmp_path / "new" / "m.gguf", "m")
    reader = gguf.GGUFReader(path)
    parameters = list(model.parameters())
    assert sum(int(tensor.n_elements) for tensor in reader.tensors) == sum(each.numel() for each in parameters)
    kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    for tensor in reader.tensors:
        flat = len(tensor.shape) == 1 or tensor.name.startswith("position")
        assert tensor.tensor_type.name == ("F32" if flat else kinds[dtype]), tensor.name
    # Matrices are stored in another order or transposed; as sets of numbers they are the same.
    values = [gguf.quants.dequantize(tensor.data, tensor.tensor_type).ravel() for tensor in reader.tensors]
    found, expected = np.concatenate(values), torch.cat([each.float().flatten() for each in parameters])
    assert np.array_equal(np.sort(found), np.sort(expected.detach().numpy()))


def test_a_gguf_file_is_read_back_as_the_same_model(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    write_gguf(model, tokenizer, tmp_path / "m.gguf", "m")
    read, its_tokenizer = load_model(str(tmp_path / "m.gguf"))
    assert context_length(read) == context_length(model)
    assert encode(its_tokenizer, [TEXT]) == encode(tokenizer, [TEXT])
    assert its_tokenizer.eos_token_id == tokenizer.eos_token_id
    state = read.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    torch.testing.assert_close(logits(read, tokenizer), logits(model, tokenizer))


def test_what_a_gguf_file_says_of_its_tokenizer(gpt2, tokenizer, tmp_path):
    tokenizer = train_tokenizer(["The dog saw the key."] * 3, "bpe", 300)
    tokenizer.add_tokens(["<name>"])
    tokenizer.chat_template = "{{ messages[0].content }}"
    gpt2.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    fields = gguf.GGUFReader(write_gguf(gpt2, tokenizer, tmp_path / "m.gguf", "dog")).fields
    found = {key: fields[key].contents() for key in fields}
    assert found["general.name"] == "dog"
    assert len(found["tokenizer.ggml.tokens"]) == len(tokenizer)
    assert found["tokenizer.ggml.token_type"].count(gguf.TokenType.CONTROL) == 1
    assert found["tokenizer.ggml.token_type"][-1] == gguf.TokenType.USER_DEFINED
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert found["gpt2.context_length"] == 64


def other_tokenizer(algorithm="bpe", **backend):
    tokenizer = train_tokenizer(["The dog saw the key in the barn."] * 3, algorithm, 300)
    for name, value in backend.items():
        setattr(tokenizer.backend_tokenizer, name, value)
    return tokenizer


REFUSED = [
    ("unigram", {}, lambda: other_tokenizer("unigram"), "only byte-level BPE"),
    ("wordpiece", {}, lambda: other_tokenizer("wordpiece"), "only byte-level BPE"),
    ("prefix", {}, lambda: other_tokenizer(pre_tokenizer=pre_tokenizers.ByteLevel()), "only byte-level BPE"),
    (
        "no cutting",
        {},
        lambda: other_tokenizer(pre_tokenizer=pre_tokenizers.ByteLevel(False, True, False)),
        "only byte",
    ),
    ("activation", {"activation_function": "relu"}, other_tokenizer, "activation_function 'relu' cannot be written"),
    ("scale", {"scale_attn_by_inverse_layer_idx": True}, other_tokenizer, "scale_attn_by_inverse_layer_idx True"),
    ("architecture", {"model_type": "opt"}, other_tokenizer, "a opt cannot be written as GGUF here"),
]


@pytest.mark.parametrize(("config", "make", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_gguf_cannot_hold_is_refused_and_leaves_nothing(gpt2, tmp_path, config, make, words):
    for key, value in config.items():
        object.__setattr__(gpt2.config, key, value)
    with pytest.raises(ModelError, match=words):
        write_gguf(gpt2, make(), tmp_path / "m.gguf", "m")
    assert not list(tmp_path.iterdir())


def test_a_rotation_that_is_stretched_is_refused(llama, tokenizer, tmp_path):
    llama.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    with pytest.raises(ModelError, match="rope_type linear"):
        write_gguf(llama, tokenizer, tmp_path / "m.gguf", "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quantize", ["q8_0", "q5_0", "q4_0"])
def test_a_quantized_file_is_the_model_whose_loss_is_reported(tokenizer, tmp_path, monkeypatch, caplog, quantize):
    from transformers import LlamaConfig, LlamaForCausalLM

    caplog.set_level("INFO", "hflm")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 96,
        "initializer_range": 0.3,
    }
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=len(tokenizer), **ids)).eval()
    save_pretrained(tmp_path / "m", model, tokenizer)
    written = export_model(str(tmp_path / "m"), "gguf", quantize=quantize)
    assert written.name == f"m-{quantize}.gguf"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(written).tensors}
    assert kinds["token_embd.weight"] == "Q8_0" and kinds["blk.0.attn_q.weight"] == quantize.upper()
    before, after = (float(text) for text in re.findall(r"([0-9.]+)(?: nats per token)? in ", caplog.messages[-1]))
    _, texts = loss_texts(tmp_path / "m")
    assert before == pytest.approx(mean_loss(model, tokenizer, texts), abs=1e-4) and before != after
    read, _ = load_model(str(written))  # dequantized by transformers
    assert after == pytest.approx(mean_loss(read, tokenizer, texts), abs=2e-3)


def test_quantization_is_for_gguf(tmp_path):
    with pytest.raises(UserError, match="--quantize q8_0 is for --to gguf"):
        export_model(str(tmp_path), "folder", quantize="q8_0")


@pytest.mark.parametrize("form", ["gguf", "onnx"])
def test_without_the_package_the_command_that_installs_it_is_named(gpt2, tokenizer, tmp_path, monkeypatch, form):
    save_pretrained(tmp_path / "m", gpt2, tokenizer)
    monkeypatch.setitem(sys.modules, form, None)
    with pytest.raises(MissingExtra, match=rf"hflm-recipes\[{form}\]"):
        export_model(str(tmp_path / "m"), form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_lies_at_the_output_is_not_removed(tmp_path):
    for form in ("folder", "onnx", "gguf"):
        with pytest.raises(UserError, match="by --output"):
            export_model("org/model", form, tmp_path)
    assert tmp_path.exists()


def test_onnx_gives_the_same_logits_at_any_size(gpt2, tokenizer, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    save_pretrained(tmp_path / "m", gpt2, tokenizer)
    written = export_model(str(tmp_path / "m"), "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(str(written / "model.onnx"))
    for shape in [(1, 1), (1, 64), (3, 7)]:
        ids = torch.randint(len(tokenizer), shape)
        mask = torch.ones_like(ids)
        mask[-1, : shape[1] // 3] = 0
        (found,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.inference_mode():
            expected = gpt2(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(torch.from_numpy(found)[mask == 1], expected[mask == 1], atol=1e-4, rtol=1e-4)
    assert encode(load_tokenizer(written), [TEXT]) == encode(tokenizer, [TEXT])


@pytest.mark.parametrize("cutting", ["gpt-2", "smollm"])
def test_llama_cpp_writes_the_same_text(model, tokenizer, tmp_path, cutting):
    llama_cpp = pytest.importorskip("llama_cpp")
    if cutting == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = other_tokenizer(pre_tokenizer=pre_tokenizers.Sequence([digits, bytelevel]))
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    path = write_gguf(model, tokenizer, tmp_path / "m.gguf", "m")
    asked = llama_cpp.Llama(str(path), n_ctx=64, verbose=False, n_threads=1)
    (ids,) = encode(tokenizer, ["The dog saw 123 keys:\n\n  it's \t 🙂 <|endoftext|>"])
    spelt = tokenizer.decode(ids).encode()
    assert asked.tokenize(spelt, add_bos=True, special=False) == ids, "no begin-of-text is added"
    ids = ids[:24]
    found = list(zip(asked.generate(ids, temp=0, top_k=1, repeat_penalty=1), range(24), strict=False))
    with torch.inference_mode():
        expected = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    assert [token for token, _ in found] == expected[0, len(ids) :].tolist()


def test_the_command(gpt2, tokenizer, tmp_path):
    save_pretrained(tmp_path / "runs" / "dog" / "model", gpt2, tokenizer)
    command = [sys.executable, "-m", "hflm", "export", "--to", "gguf"]
    done = subprocess.run([*command, "."], cwd=tmp_path / "runs" / "dog", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "export/dog.gguf\n", "")
    assert [path.name for path in (tmp_path / "runs" / "dog" / "export").iterdir()] == ["dog.gguf"]
    done = subprocess.run([*command, "nowhere/at/all"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no such file or folder: 'nowhere/at/all'\n"
