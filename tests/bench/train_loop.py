"""The other side of train_speed.py: a minimal hand-written training loop over nanoGPT's architecture (no measurement
itself). Prints tokens per second, the median over spans of five steps after the first, as hflm's log lines give it, and
the peak of memory in bytes.
"""

import argparse
import itertools
import resource
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            each.view(B, T, self.heads, -1).transpose(1, 2) for each in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, vocab_size, length, layers, heads, width):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(
                    parameter, std=0.02 / ((2 * layers) ** 0.5 if "c_proj" in name or "c_out" in name else 1)
                )

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        logits = self.lm_head(self.ln_f(self.blocks(x)))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def main():
    parser = argparse.ArgumentParser()
    sizes = {"vocab": 4096, "length": 256, "batch": 8, "layers": 6, "heads": 6, "width": 384}
    for name, value in {**sizes, "accumulation": 1, "steps": 30, "every": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT(chosen.vocab, chosen.length, chosen.layers, chosen.heads, chosen.width).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if chosen.compile else model
    data = torch.randint(0, 256, (chosen.batch * chosen.length * 60,))
    ends = [time.perf_counter()]
    for step in range(1, chosen.steps + 1):
        total = torch.zeros((), device=device)
        for _ in range(chosen.accumulation):
            at = torch.randint(len(data) - chosen.length - 1, (chosen.batch,))
            rows = torch.stack([data[i : i + chosen.length + 1] for i in at]).to(device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = run(rows[:, :-1], rows[:, 1:].contiguous()) / chosen.accumulation
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total.item()
        if step % chosen.every == 0:
            ends.append(time.perf_counter())
    seconds = [end - begin for begin, end in itertools.pairwise(ends)][1:]
    tokens = chosen.every * chosen.accumulation * chosen.batch * chosen.length
    print(tokens / statistics.median(seconds), peak_memory_bytes(device))


def peak_memory_bytes(device):
    """The most that torch held on the GPU, else the process's resident memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
