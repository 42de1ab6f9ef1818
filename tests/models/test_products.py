"""fp32 products by oneDNN: the values of a product in fp64, and who computes them, in processes of their own."""

import os
import shutil
import subprocess
import sys

import pytest

from hflm.core import hardware
from hflm.models import load as models
from hflm.models import onednn as products
from hflm.preprocessing import packing as pack
from hflm.training import trainer as train

START = """
import warnings
warnings.simplefilter("error")
import torch
from torch.profiler import ProfilerActivity, profile
from hflm.models import onednn as products
products.register()

def calls(product):
    "How often oneDNN is asked while `product` runs, and what it gives."
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        result = product()
    return sum("_linear_pointwise" in each.key and each.count for each in seen.key_averages()), result

def near(found, exact):
    torch.testing.assert_close(found.double(), exact.double(), rtol=1e-5, atol=1e-3)
"""

VALUES = """
torch.manual_seed(0)
draw = torch.randn
large, other, bias = draw(64, 256), draw(256, 128), draw(128)
wide = draw(64, 512)[:, ::2]
tables = [
    # left, right, added, whether oneDNN computes it
    (large, other, None, True),
    (large, other, bias, True),
    (other.t(), large.t(), None, True),
    (wide, other, bias, True),
    (large, draw(256, 500)[:, 100:228], bias, True),
    (large, draw(500, 256)[100:228].t(), None, True),
    (large, draw(500, 600)[:128, 7:263].t(), draw(256)[::2], True),
    (draw(64, 512).t(), draw(64, 128), None, True),
    (draw(64, 512).t()[:300], draw(64, 500)[:, :128], None, True),
    (draw(64, 1).expand(64, 256), other, None, True),
    (large, other, draw(64, 128), False),
    (large, other, draw(1), False),
    (large[:1], other.repeat(1, 40), None, False),
    (large[:2], other[:, :2], bias[:2], False),
    (large[:0], other, bias, False),
    (large[:, :0], other[:0], bias, False),
    (large.double(), other.double(), bias.double(), False),
    (large.bfloat16(), other.bfloat16(), None, False),
    (large.to(torch.complex64).conj(), other.to(torch.complex64), None, False),
    (large.long(), other.long(), None, False),
]
for number, (left, right, added, expected) in enumerate(tables):
    count, found = calls(lambda: left @ right if added is None else torch.addmm(added, left, right))
    assert (count == 1) == expected, (number, count)
    assert found.dtype is left.dtype, number
    precise = torch.complex128 if left.is_complex() else torch.float64
    exact = left.to(precise) @ right.to(precise)
    exact = exact if added is None else exact + added
    coarse = {"rtol": 0.02, "atol": 0.2} if left.dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-3}
    torch.testing.assert_close(found.to(precise), exact, **coarse)

count, found = calls(lambda: torch.addmm(bias, large, other, beta=0.5, alpha=2))
assert count == 0
near(found, 0.5 * bias.double() + 2 * (large.double() @ other.double()))
for alpha in (1, -0.5):
    total = draw(64, 128)
    exact = total.double() + alpha * (large.double() @ other.double())
    count, found = calls(lambda: total.addmm_(large, other, alpha=alpha))
    assert count == (alpha == 1) and found is total
    near(total, exact)
tall, total = draw(256, 2500), draw(2500, 128)  # more rows than are summed at a time, of a transposed matrix
exact = total.double() + tall.t().double() @ other.double()
count, found = calls(lambda: total.addmm_(tall.t(), other))
assert count == 3 and found is total
near(total, exact)
assert torch.equal(large @ other, large @ other)
refused = [
    (lambda: large @ other[:9], "shapes cannot be multiplied"),
    (lambda: large @ other.double(), "same dtype"),
    (lambda: torch.mm(bias, other), "must be a matrix"),
    (lambda: torch.mm(draw(2, 3, 256), other), "must be a matrix"),
    (lambda: torch.addmm(bias, other[0], other), "must be a matrix"),
    (lambda: torch.addmm(draw(9), large, other), "must match"),
    (lambda: draw(1, 128).addmm_(large, other), "Bad in-place call"),
    (lambda: draw(70, 128).addmm_(large, other), "Bad in-place call"),
    (lambda: draw(1, 8).addmm_(draw(4, 5), draw(5, 8)), "Bad in-place call"),
]
for number, (product, words) in enumerate(refused):
    try:
        product()
    except RuntimeError as error:
        assert words in str(error), (number, error)
    else:
        raise AssertionError(number)

layer = torch.nn.Linear(256, 128)
rows = draw(4, 16, 256, requires_grad=True)
count, loss = calls(lambda: layer(rows).square().sum())
assert count == 1
count, _ = calls(loss.backward)
assert count == 2
again = torch.nn.Linear(256, 128).double()
again.load_state_dict(layer.state_dict())
same = rows.detach().double().requires_grad_()
again(same).square().sum().backward()
near(rows.grad, same.grad)
near(layer.weight.grad, again.weight.grad)
near(layer.bias.grad, again.bias.grad)
with torch.autocast("cpu", torch.bfloat16):
    count, found = calls(lambda: layer(rows))
assert count == 0 and found.dtype is torch.bfloat16
print("done")
"""

COMPILED = """
products.register_compiled()
layer, rows = torch.nn.Linear(256, 128), torch.randn(64, 256)
expected = torch.tanh(layer(rows)).sum()
with warnings.catch_warnings():
    warnings.simplefilter("default")
    run = torch.compile(lambda rows: torch.tanh(layer(rows)).sum())
    run(rows).backward()
layer.zero_grad()
count, found = calls(lambda: run(rows))
assert count == 1
count, _ = calls(found.backward)
assert count == 1  # of the weight; the rows need none
near(found, expected)
near(layer.weight.grad, torch.autograd.grad(torch.tanh(layer(rows)).sum(), layer.weight)[0])
print("done")
"""


PLAIN = """
import torch
layer, rows = torch.nn.Linear(256, 128), torch.randn(64, 256)
torch.compile(lambda rows: torch.tanh(layer(rows)).sum())(rows).backward()
print("done")
"""


def run(code, **environment):
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


def test_products_have_the_values_of_fp64_whoever_computes_them():
    run(START + VALUES)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_what_is_compiled_calls_the_same_products_whatever_was_kept_on_disk(tmp_path):
    run(PLAIN, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    run(START + COMPILED, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))


CPUS = [
    # vendor, family, flags, AMD's with AVX-512, the fp32 rate where numpy reaches 100 GFLOP/s
    ("AuthenticAMD", 26, "avx2 avx512f", True, 185e9),
    ("AuthenticAMD", 25, "avx2 avx512f", True, 100e9),
    ("AuthenticAMD", 25, "avx2", False, 100e9),
    ("GenuineIntel", 6, "avx2 avx512f", False, 100e9),
]


@pytest.mark.parametrize(("vendor", "family", "flags", "ours", "rate"), CPUS)
def test_which_cpus_it_is_for(monkeypatch, vendor, family, flags, ours, rate):
    told = f"vendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n"
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: told)
    monkeypatch.setattr(hardware, "matmul_rate", lambda: 100e9)
    assert hardware.amd_avx512() is ours
    assert hardware._cpu().fp32_flops == pytest.approx(rate)
    asked = []
    monkeypatch.setattr(products, "register", lambda: asked.append("eager"))
    monkeypatch.setattr(products, "register_compiled", lambda: asked.append("compiled"))
    products.speed_up()
    products.speed_up(compiled=True)
    assert asked == (["eager", "eager", "compiled"] if ours else [])


@pytest.fixture
def asked(monkeypatch):
    """What `speed_up` was asked."""
    asked = []
    monkeypatch.setattr(products, "speed_up", lambda compiled=False: asked.append(compiled))
    return asked


def test_it_is_asked_wherever_a_model_is_built_loaded_or_trained(tmp_path, asked, tokenizer, tiny):
    assert asked.pop() is False  # to build tiny
    tokenizer.save_pretrained(tmp_path / "model")
    tiny.save_pretrained(tmp_path / "model")
    model, _ = models.load(str(tmp_path / "model"))
    assert asked.pop() is False
    rows = pack.pack_documents(["One dog saw the key."], tokenizer, 32).rows
    for compiled in (False, True):
        with pytest.raises(ZeroDivisionError):  # at the first batch: only the beginning is of interest
            train.train(
                models.mend_loss(model),
                rows,
                tmp_path / "run",
                {"max_steps": 1, "torch_compile": compiled},
                stage="pretrain",
                seed=0,
                collate=lambda rows: 1 / 0,
                tokens_per_row=32,
                row_tokens=32,
            )
        assert asked.pop() is compiled
