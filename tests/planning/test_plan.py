"""The plan against the libraries: parameters, FLOPs and kept activations exact; and what it says when it cannot know."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hflm import recipe
from hflm.core import UserError, hardware
from hflm.models import add_adapter, loss, patch_loss
from hflm.models import architecture as shape
from hflm.planning import cost, plan
from hflm.planning import inputs as plan_source

ZERO = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
GPT2 = {"model_type": "gpt2", "n_layer": 3, "n_embd": 64, "n_head": 4, "n_positions": 64, "vocab_size": 500}
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}  # fmt: skip
QWEN2 = {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 4, "tie_word_embeddings": True}
RECIPE = """
name: planned
tokenizer: {train: {algorithm: bpe, vocab_size: 4096}}
model: {preset: gpt2-micro, n_positions: 256}
pretrain:
  data: {path: toy, name: stories, size: 100}
  args: {max_steps: 100, per_device_train_batch_size: 8}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 50}, labels: [negative, neutral, positive]}
finetune: {tasks: [sentiment], args: {num_train_epochs: 2}}
"""


def build(config, device="cpu"):
    """A model of transformers' own for the content of a config.json."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = {key: value for key, value in config.items() if key != "model_type"}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **kind, **special))


def load(folder, text=RECIPE, sets=()):
    (folder / "recipe.yaml").write_text(text)
    return recipe.load_recipe(str(folder / "recipe.yaml"), sets)


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        {**GPT2, "n_inner": 100, "tie_word_embeddings": False},
        LLAMA,
        {**LLAMA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 32},
        {**LLAMA, "model_type": "mistral"},
        {**LLAMA, "model_type": "qwen3", "head_dim": 32},
        QWEN2,
    ],
    ids=lambda config: config["model_type"],
)
def test_parameters_are_those_of_the_library(config):
    counted = shape.parameters(shape.of(config))
    model = build(config, "meta")
    assert sum(counted.values()) == model.num_parameters()
    assert counted["embeddings"] == sum(
        p.numel() for n, p in model.named_parameters() if "wte" in n or "wpe" in n or "embed" in n
    )
    assert counted["mlp"] == sum(p.numel() for name, p in model.named_parameters() if "mlp" in name)
    assert counted["norms"] == sum(p.numel() for name, p in model.named_parameters() if "ln_" in name or "norm" in name)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"r": 3, "use_dora": True},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["c_proj", "o_proj"], "exclude_modules": ["mlp.c_proj", "0.self_attn.o_proj"]},
        {"target_modules": r".*\.[12]\..*(c_fc|up_proj)"},
        {"layers_to_transform": [0, 2], "lora_bias": True},
        {"target_modules": ["c_attn", "c_fc", "q_proj", "up_proj"], "rank_pattern": {"c_fc|up_proj": 2}},
    ],
    ids=str,
)
def test_an_adapters_parameters_are_those_of_peft(config, adapter):
    if config is LLAMA and adapter.get("lora_bias"):
        adapter = {**adapter, "lora_bias": False}  # peft wants a bias in the matrix for it
    wrapped = add_adapter(build(config), {"type": "lora", **adapter})
    trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert shape.adapter_parameters(shape.of(config), adapter) == trained > 0


def step(config, load):
    """(model, inputs) for one forward pass of `load`: rows of two documents, the rest of the labels left out."""
    torch.manual_seed(0)
    model = patch_loss(build(config))
    if load.adapter is not None:
        model = add_adapter(model, {"type": "lora", **load.adapter})
    if load.checkpointing:
        model.activation_checkpointing_enable()
    half = load.length // 2
    ids = torch.randint(1, 500, (load.batch, load.length))
    labels = ids.clone()
    labels[:, : load.length - round(load.length * load.labelled)] = -100
    positions = torch.cat([torch.arange(half), torch.arange(load.length - half)]).expand(load.batch, -1)
    return model.train(), {"input_ids": ids, "labels": labels, "position_ids": positions}


LORA = {"r": 4, "target_modules": "all-linear"}
STEPS = {  # config, load
    "gpt2": ({**GPT2, **ZERO}, cost.Load(4, 64, 0.75)),
    "fused gelu": ({**GPT2, **ZERO, "activation_function": "gelu_pytorch_tanh"}, cost.Load(4, 64, 0.5)),
    "dropout": (GPT2, cost.Load(4, 32, 0.75)),
    "checkpointing": ({**GPT2, **ZERO}, cost.Load(4, 64, 0.75, checkpointing=True)),
    "lora": ({**GPT2, **ZERO}, cost.Load(4, 64, 0.75, adapter={"r": 4})),
    "lora on all": ({**GPT2, **ZERO}, cost.Load(4, 64, 0.75, adapter=LORA)),
    "lora above": ({**GPT2, **ZERO}, cost.Load(4, 64, 0.75, adapter={"r": 4, "layers_to_transform": [1, 2]})),
    "llama": (LLAMA, cost.Load(4, 64, 0.75)),
    "llama lora": (QWEN2, cost.Load(4, 64, 0.75, adapter={"r": 4})),
}  # fmt: skip


MICRO = {"model_type": "gpt2", "vocab_size": 4096, **recipe.PRESETS["gpt2-micro"], **ZERO}


@pytest.mark.parametrize("name", [*STEPS, "gpt2-micro"])
def test_flops_are_those_that_torch_counts(name):
    config, load = {**STEPS, "gpt2-micro": (MICRO, cost.Load(2, 128))}[name]
    model, inputs = step(config, load)
    with FlopCounterMode(display=False) as counter:
        model(**inputs).loss.backward()
    size = shape.of(config)
    counted = counter.get_total_flops()
    if load.adapter is None:  # torch does not count addmm_, by which the loss sums the output layer's gradient
        counted += 2 * load.rows * load.labelled * size.n_embd * size.vocab_size
    assert sum(cost.flops_per_token(size, load).values()) * load.rows == pytest.approx(counted, rel=0.01)


def test_the_loss_takes_as_many_rows_at_a_time_as_is_planned():
    assert (cost.LOSS_ROWS, cost.LOSS_ROWS_ON_GPU) == (loss.CHUNK_ROWS, loss.CHUNK_ROWS_ON_GPU)


def test_a_batch_in_tokens_is_shared_out(tmp_path):
    sets = ["pretrain.batch_tokens=16384", "pretrain.args.per_device_train_batch_size=12"]
    for processes in (1, 4):
        assert plan.plan_recipe(load(tmp_path, sets=sets), "a100", processes).stages[0].tokens_per_step == 16384
    with pytest.raises(UserError, match="cannot be divided evenly among"):
        plan.plan_recipe(load(tmp_path, sets=sets), "a100", 3)


@pytest.mark.parametrize("name", STEPS)
def test_activations_are_those_that_autograd_keeps(name):
    config, load = STEPS[name]
    model, inputs = step(config, load)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs).loss
    del loss
    size = shape.of(config)
    labelled = load.rows * load.labelled
    trains_all = load.adapter is None
    head = 4 * (labelled * size.n_embd + trains_all * size.vocab_size * size.n_embd)  # the loss keeps its own gradients
    expected = cost.activation_bytes(size, load)[0] + head
    assert expected == pytest.approx(sum(kept.values()), rel=0.04)


@pytest.mark.parametrize(
    ("optim", "per_parameter"),
    [("adamw_torch_fused", 8), ("adamw_torch", 8), ("sgd", 0), ("adagrad", 4), ("lion_32bit", 4), ("unheard_of", 8)],
)
def test_optimizer_states(optim, per_parameter):
    assert cost.optimizer_bytes(shape.of(GPT2), cost.Load(1, 1, optim=optim), 1000) == 1000 * per_parameter


def test_muon_keeps_one_state_for_matrices_and_two_for_the_rest():
    from hflm.training.muon import MuonFactory

    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model, inputs = step({**GPT2, **ZERO}, cost.Load(1, 16))
        optimizer = MuonFactory()(model, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, dtype=dtype)
        model(**inputs).loss.backward()
        with FlopCounterMode(display=False) as counter:
            optimizer.step()
        states = [value for state in optimizer.state.values() for value in state.values()]
        held = sum(4 * value.numel() for value in states if value.numel() > 1)
        size, load = shape.of(GPT2), cost.Load(1, 16, optim="muon", orthogonalization=name)
        assert cost.optimizer_bytes(size, load, model.num_parameters()) == held
        assert cost.flops_per_token(size, load)["optimizer"] * 16 == counter.get_total_flops()


def test_sharding_divides_all_but_activations():
    size = shape.of(GPT2)
    alone, shared = (cost.memory(size, cost.Load(2, 64, processes=n, sharded=True))[0] for n in (1, 4))
    for part in ("weights", "gradients", "optimizer"):
        assert shared[part] == pytest.approx(alone[part] / 4, abs=1)
    assert (shared["activations"], shared["logits"]) == (alone["activations"], alone["logits"])
    copies = cost.memory(size, cost.Load(2, 64, processes=4))[0]
    assert copies["weights"] == alone["weights"] and copies["gradients"] == 2 * alone["gradients"]  # DDP's buckets


def test_every_turn_of_the_assistant_is_counted_as_labels(tmp_path):
    turns = [("user", "u" * 100), ("assistant", "a" * 60), ("user", "u" * 100), ("assistant", "a" * 40)]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (tmp_path / "chat.jsonl").write_text((json.dumps(row) + "\n") * 20)
    recipe_text = f"""
name: p
tokenizer: {{train: {{vocab_size: 1000}}}}
model: {{preset: gpt2-nano}}
tasks: {{talk: {{kind: chat, data: {{path: {tmp_path}/chat.jsonl}}}}}}
finetune: {{tasks: [talk], args: {{max_steps: 2}}}}
"""
    (tmp_path / "r.yaml").write_text(recipe_text)
    (stage,) = plan.plan_recipe(recipe.load_recipe(tmp_path / "r.yaml"), device="a100").stages
    assert 100 / 360 < stage.labelled_share < 110 / 300  # the roles and the ends stand beside the texts


def command(*arguments, cwd):
    code = "import sys; sys.argv[0] = 'hflm'\nfrom hflm import cli\ntry:\n    cli.main()\nfinally:\n"
    code += "    print(*sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(Path(recipe.__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, "plan", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_named_device_needs_no_torch_and_the_command_gives_json_and_tables(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = command("r.yaml", "--json", "--device", "a100", cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    found = json.loads(done.stdout)
    assert found["total_parameters"] == sum(found["parameters"].values()) == 4_273_664
    pretrain, finetune = found["stages"]
    assert pretrain["tokens"] == 100 * 8 * 256
    assert pretrain["epochs"] == pytest.approx(pretrain["tokens"] / pretrain["corpus_tokens"])
    assert pretrain["flops"] == pretrain["tokens"] * sum(pretrain["flops_per_token"].values())
    assert pretrain["fits"] and pretrain["seconds"] > 0
    assert 0 < finetune["labelled_share"] < 0.5
    assert found["compute_optimal"]["tokens_for_the_model"] == 20 * 4_273_664
    done = command("r.yaml", "--device", "H100", "--processes", "8", "--price-per-hour", "3", cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    for words in ("4.27 M parameters", "8 processes on h100", "memory, logits", "It fits.", "price", "Hoffmann"):
        assert words in done.stdout


def test_a_device_that_is_not_known(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = command("r.yaml", "--device", "abacus", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("--device abacus: not known here. Known: t4, ")


@pytest.mark.parametrize(
    ("files", "place", "parameters", "note"),
    [
        ({"m/config.json": GPT2}, "m", 186_176, None),
        ({"run/model/config.json": LLAMA}, "run", 193_472, None),
        ({"a/adapter_config.json": {"base_model_name_or_path": "m"}, "m/config.json": GPT2}, "a", 186_176, None),
        ({"a/adapter_config.json": {"base_model_name_or_path": "../m"}, "m/config.json": GPT2}, "a", 186_176, None),
        ({"a/adapter_config.json": {}}, "a", None, "does not say which model it belongs to"),
        ({"m.gguf": {}}, "m.gguf", None, "a .gguf file is read only when it runs"),
        ({}, "nobody/never", None, "the Hub's cache does not hold it"),
        ({}, "./no where", None, "the Hub's cache does not hold it"),
        ({"m/readme.json": {}}, "m", None, "it holds no config.json"),
        ({"m/config.json": {"model_type": "opt"}}, "m", None, "known for GPT-2 and Llama, not for opt"),
    ],
)
def test_a_model_to_start_from(tmp_path, monkeypatch, files, place, parameters, note):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace("{preset: gpt2-micro, n_positions: 256}", "{from: BASE}").replace("BASE", f'"{place}"')
    found = plan.plan_recipe(load(tmp_path, text), "a100")
    assert found.total_parameters == parameters
    if note is None:
        assert [stage.stage for stage in found.stages] == ["pretrain", "finetune"]
    else:
        assert found.stages == () and any(note in line for line in found.notes)


def test_a_model_of_another_kind_has_as_many_parameters_as_its_files_say(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "opt"}')
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, tmp_path / "m" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace("{preset: gpt2-micro, n_positions: 256}", "{from: m}")
    assert plan.plan_recipe(load(tmp_path, text), "a100").total_parameters == 22


@pytest.mark.parametrize(
    ("sets", "advised"),
    [
        (["pretrain.args.per_device_train_batch_size=4096"], "pretrain.args.per_device_train_batch_size"),
        (["model.preset=gpt2-xl", "pretrain.args.per_device_train_batch_size=1"], "pretrain.args.fsdp"),
    ],
)
def test_what_does_not_fit_comes_with_changes_that_do(tmp_path, sets, advised):
    sets = [*sets, "tokenizer.train.vocab_size=50000"]
    stage = plan.plan_recipe(load(tmp_path, sets=sets), "t4").stages[0]
    assert not stage.fits
    assert stage.peak_bytes + hardware.LIBRARIES_BYTES > stage.available_bytes == 16e9
    key = advised.rsplit(".", 1)[1]
    (change,) = [change for change in stage.advice if change.startswith(key)]
    processes = int(change.split()[3]) if key == "fsdp" else 1
    value = change.split()[1]
    again = plan.plan_recipe(load(tmp_path, sets=[*sets, f"{advised}={value}"]), "t4", processes).stages[0]
    assert again.fits and again.advice == ()


def test_an_unknown_corpus_has_unknown_epochs_unless_its_tokens_are_set(tmp_path):
    text = RECIPE.replace("{path: toy, name: stories, size: 100}", "{path: some/corpus}").replace(
        "max_steps: 100, ", ""
    )
    found = plan.plan_recipe(load(tmp_path, text), "h100")
    stage = found.stages[0]
    assert (stage.steps, stage.tokens, stage.epochs, stage.seconds) == (None, None, None, None)
    assert any("some/corpus is not known here. Say it with --corpus-tokens" in note for note in found.notes)
    stage = plan.plan_recipe(load(tmp_path, text), "h100", corpus_tokens=1_000_000).stages[0]
    assert stage.steps == -(-1_000_000 * 3 // (8 * 256))
    assert stage.epochs == pytest.approx(3, rel=0.01)


def test_a_local_corpus_is_counted_by_its_bytes(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.txt").write_text("one two three\n" * 1000)
    (tmp_path / "corpus" / "test.txt").write_text("not counted\n" * 1000)
    text = RECIPE.replace("{path: toy, name: stories, size: 100}", f"{{path: {tmp_path / 'corpus'}}}")
    stage = plan.plan_recipe(load(tmp_path, text), "h100").stages[0]
    assert stage.corpus_tokens == round(14_000 / plan_source.bytes_per_token(4096))


def test_a_corpus_under_an_unknown_home_is_an_error(tmp_path):
    text = RECIPE.replace("{path: toy, name: stories, size: 100}", "{path: ~nosuch/corpus.txt}")
    with pytest.raises(UserError, match="no such home folder"):
        plan.plan_recipe(load(tmp_path, text), "h100")


@pytest.mark.slow
def test_an_earlier_run_of_the_recipe_says_how_fast_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "planned"
    (run / "pretrain").mkdir(parents=True)
    (run / "environment.json").write_text('{"processes": 1}')
    (run / "pretrain" / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0, "tokens_per_second": 2048}\n')
    (run / "recipe.yaml").write_text(recipe.dump_recipe(load(tmp_path)))
    stage = plan.plan_recipe(load(tmp_path)).stages[0]
    assert (stage.tokens_per_second, stage.seconds) == (2048, 100)
    assert stage.speed_source == "measured by the earlier run in runs/planned"
    larger = plan.plan_recipe(
        load(tmp_path, RECIPE.replace("preset: gpt2-micro", "preset: gpt2-micro, n_layer: 20"))
    ).stages[0]
    assert "measured by the earlier run" not in larger.speed_source
    assert plan.plan_recipe(load(tmp_path), "h100").stages[0].tokens_per_second != 2048
    assert plan.plan_recipe(load(tmp_path), processes=2).stages[0].tokens_per_second != 2048


def test_a_recipe_that_only_measures_has_no_stages(tmp_path):
    text = "name: b\nmodel: {from: nobody/never}\n" + RECIPE[RECIPE.index("tasks:") : RECIPE.index("finetune")]
    found = plan.plan_recipe(load(tmp_path, text + "benchmark: {tasks: [sentiment]}\n"), "l4")
    assert found.stages == ()


def test_processes_of_the_recipe_are_planned_with(tmp_path):
    assert plan.plan_recipe(load(tmp_path, sets=["processes=4"]), "l4").stages[0].tokens_per_step == 4 * 8 * 256
    assert plan.plan_recipe(load(tmp_path, sets=["processes=4"]), "l4", 2).processes == 2


def test_a_device_unknown_to_plan_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="--device x: not known here"):
        plan.plan_recipe(load(tmp_path), "x")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100pcie"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", None),  # no L4
        ("NVIDIA RTX A4000", None),  # no A40
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_device_is_known_by_its_drivers_name(name, key):
    assert hardware.key_of(name) == key
