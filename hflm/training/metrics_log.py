"""What a training stage shows and writes down: loss, tokens per second, FLOP/s and how much of the peak they are."""

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from hflm.core import atomic_write_text, format_duration, hardware, logger


@dataclass(frozen=True)
class Peak:
    """The FLOP/s that one device can reach, and where that number comes from."""

    flops_per_second: float
    source: str


def peak(device, autocast):
    """The Peak of a torch.device; None for a GPU that hflm.core.hardware does not know, or that computes in fp32.

    A CPU's is measured: the best of a few products of 1024 x 1024 matrices, in bf16 when `autocast`. Takes 0.2 s.
    """
    if device.type == "cpu":
        matrix = torch.ones(1024, 1024, dtype=torch.bfloat16 if autocast else torch.float32)
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - started)
        return Peak(2 * 1024**3 / min(seconds), f"measured, {'bf16' if autocast else 'fp32'} matrix products")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = hardware.key_of(name)
    return Peak(hardware.DEVICES[known][1], f"data sheet of {known}, bf16") if known and autocast else None


def flops_per_token(model, row_tokens):
    """Training FLOPs of one token in a row of `row_tokens`: 6 N + 12 L H Q T (PaLM, arXiv 2204.02311, appendix B).

    N leaves out the table of positions, which multiplies nothing. A frozen weight's gradient is not computed, so that
    it counts 4 and not 6.
    """
    parameters = [each for name, each in model.named_parameters() if not name.endswith("wpe.weight")]
    learnt = sum(each.numel() for each in parameters if each.requires_grad)
    config = model.config
    attention = 12 * config.num_hidden_layers * config.hidden_size * row_tokens
    return 4 * sum(each.numel() for each in parameters) + 2 * learnt + attention


class Progress(TrainerCallback):
    """Shows a bar or lines, and writes each log line into metrics.jsonl, once."""

    def __init__(self, stage, folder, tokens_per_row, flops_per_token):
        self.stage, self.folder, self.tokens_per_row = stage, Path(folder), tokens_per_row
        self.rows_per_epoch = None  # a stream has none
        self.flops_per_token = flops_per_token
        self.bar = self.peak = self.flops_per_second = None
        self.shown, self.speeds = {}, []

    def say(self, text):
        logger.info(f"{self.stage}: {text}")

    def tokens_at(self, step, args):
        """Tokens seen after `step` optimizer steps; the last one of an epoch takes what rows are left."""
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        seen, whole = step * rows, self.rows_per_epoch
        if whole is not None:
            epochs, begun = divmod(step, -(-whole // rows))
            seen = epochs * whole + min(begun * rows, whole)
        return round(seen * self.tokens_per_row)

    @property
    def speed(self):
        """{tokens_per_second, flops_per_second, mfu, ...}: the median over the log lines, for environment.json."""
        if not self.speeds:
            return {}
        # The first line holds the warming up.
        tokens_per_second = statistics.median(self.speeds[1:] or self.speeds)
        found = self._rates(tokens_per_second)
        if self.peak is not None:
            found |= {"peak_flops_per_second": self.peak.flops_per_second, "peak_source": self.peak.source}
        return {"tokens_per_second": round(tokens_per_second), **found}

    def _rates(self, tokens_per_second):
        rates = {"flops_per_second": round(tokens_per_second * self.flops_per_token)}
        if self.peak is not None:
            rates["mfu"] = round(rates["flops_per_second"] / (self.peak.flops_per_second * self.processes), 4)
        return rates

    def on_train_begin(self, args, state, control, **_):
        # All processes at once, so that those of one machine share its cores as they will in training.
        self.peak, self.processes = peak(args.device, args.bf16), args.world_size
        self.first_step, self.begun = state.global_step, time.monotonic()
        self.line, self.stepped, self.idle = (state.global_step, self.begun), self.begun, 0.0
        if not state.is_world_process_zero:
            return
        self.metrics = self.folder / "metrics.jsonl"
        kept = _entries_until(self.metrics, state.global_step)
        atomic_write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))
        if self.bar is not None:
            self.bar.close()  # of an attempt that a failed step ended
        # A bar where somebody watches, a line now and then in a log file.
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.stage,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def on_step_end(self, args, state, control, **_):
        self.stepped = time.monotonic()
        if self.bar is not None:
            self.bar.update(1)

    def on_evaluate(self, args, state, control, **_):
        self._paused()

    def on_save(self, args, state, control, **_):
        self._paused()

    def _paused(self):
        """Evaluating and saving is not training: its seconds do not count for the speed."""
        now = time.monotonic()
        self.idle += now - max(self.stepped, self.line[1])
        self.stepped = now

    def on_log(self, args, state, control, logs=None, **_):
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        now = time.monotonic()
        entry = {"step": state.global_step, **logs, "seconds": round(now - self.begun, 3)}
        entry.pop("total_flos", None)
        steps = state.global_step - self.line[0]
        if "loss" in logs and steps:
            entry["tokens"] = self.tokens_at(state.global_step, args)
            new = entry["tokens"] - self.tokens_at(self.line[0], args)
            speed = new / (now - self.line[1] - self.idle)
            entry |= {"tokens_per_second": round(speed), **self._rates(speed)}
            self.speeds.append(speed)
            left = (state.max_steps - state.global_step) * (now - self.begun) / (state.global_step - self.first_step)
            self.line, self.idle = (state.global_step, now), 0.0
        with open(self.metrics, "a") as lines:
            lines.write(json.dumps(entry) + "\n")
        for key, text in (("loss", "loss {:.3f}"), ("eval_loss", "val {:.3f}"), ("tokens_per_second", "{:,} tok/s")):
            if key in entry:
                self.shown[key] = text.format(entry[key])
        words = "  ".join(self.shown.values())
        self.bar.set_postfix_str(words)
        if self.bar.disable and "loss" in logs and steps:
            print(
                f"{self.stage} {state.global_step}/{state.max_steps}  {words}  {format_duration(left)} left",
                file=sys.stderr,
            )

    def on_train_end(self, args, state, control, **_):
        if self.bar is not None:
            self.bar.close()


def _entries_until(metrics, step):
    """The lines of metrics.jsonl up to `step`: what a resumed run repeats must not stand there twice."""
    if not step or not metrics.is_file():
        return []
    entries = [json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}")]
    return [entry for entry in entries if entry["step"] <= step]
