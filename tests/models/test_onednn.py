"""fp32 products by oneDNN: the values of a product in fp64, and who computes them, in processes of their own."""

import subprocess
import sys

START = """
import warnings
warnings.simplefilter("error")
import torch
from torch.profiler import ProfilerActivity, profile
from hflm.models import onednn
onednn.register()

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


def run(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


def test_products_have_the_values_of_fp64_whoever_computes_them():
    run(START + VALUES)


DECISIONS = """
import os
import torch
from hflm.models import onednn

table = [
    # AVX-512, seconds of MKL's product over oneDNN's, HFLM_ONEDNN, whether oneDNN is used
    (True, 2.2, "0", False),
    (True, 1.1, "", False),
    (False, 2.2, "", False),
    (True, 2.2, "", True),  # the last one: the kernels stay for the rest of the process
]
for avx512, ratio, switch, used in table:
    torch.cpu.get_capabilities = lambda: {"avx512_f": avx512}
    os.environ["HFLM_ONEDNN"] = switch
    line = onednn.use_where_faster(lambda: ratio)
    assert (bool(line), onednn.register.cache_info().currsize) == (used, int(used)), (avx512, ratio, switch)
print("done")
"""


def test_it_is_used_where_it_is_faster_and_not_turned_off():
    run(DECISIONS)


LOADS = """
import sys, torch
from hflm.models import load_model, onednn, patch_loss
torch.cpu.get_capabilities = lambda: {"avx512_f": True}
onednn.GAIN = 0.0  # whoever asks whether oneDNN is faster turns it on
model, _ = load_model(sys.argv[1])
patch_loss(model)
assert not onednn.register.cache_info().currsize
print("done")
"""


def test_loading_a_model_changes_nothing_in_the_process(tmp_path, tokenizer, tiny):
    tokenizer.save_pretrained(tmp_path / "model")
    tiny.save_pretrained(tmp_path / "model")
    run(LOADS, str(tmp_path / "model"))
