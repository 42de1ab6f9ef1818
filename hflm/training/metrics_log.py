"""What a training stage displays and logs: loss, tokens per second, FLOP/s and their fraction of the peak."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from hflm.core import atomic_write_text, format_duration, hardware

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


@dataclass(frozen=True)
class Peak:
    """The FLOP/s that one device can reach, and the source of that number."""

    flops_per_second: float
    source: str


def peak(device: torch.device, autocast: bool) -> Peak | None:
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


def flops_per_token(model: "PreTrainedModel | PeftModel", row_tokens: int, label_share: float = 1.0) -> float:
    """Training FLOPs of one token in a row of `row_tokens`: 6 N + 12 L H Q T (PaLM, arXiv 2204.02311, appendix B).

    N leaves out what multiplies nothing: the table of positions, and that of tokens where the output layer has weights of
    its own. A frozen weight's gradient is not computed, so that it counts 4 and not 6. Only the share of the tokens that
    are labels reaches the output layer.
    """
    output_layer = model.get_output_embeddings()
    assert output_layer is not None, "a causal model has an output layer"
    head, table = output_layer.weight, model.get_input_embeddings().weight
    parameters = [
        each
        for name, each in model.named_parameters()
        if not name.endswith("wpe.weight") and (each is head or each is not table)
    ]
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    config = model.config
    attention = 12 * config.num_hidden_layers * config.hidden_size * row_tokens
    without_labels = (1 - label_share) * head.numel() * (6 if head.requires_grad else 4)
    return 4 * sum(each.numel() for each in parameters) + 2 * trained + attention - without_labels


class MetricsLog(TrainerCallback):
    """Displays a bar or lines, and writes each log line into metrics.jsonl, once."""

    def __init__(
        self,
        stage: str,
        folder: Path,
        tokens_per_row: float,
        flops_per_token: float,
        rows_per_epoch: int | None = None,
        scores: Sequence[str] = (),
    ) -> None:
        self.stage, self.folder, self.tokens_per_row = stage, Path(folder), tokens_per_row
        self.flops_per_token = flops_per_token
        self.rows_per_epoch = rows_per_epoch  # a stream has none
        self.scores = scores  # those of tasks that the line displays, without their `eval_`
        self.path = self.folder / "metrics.jsonl"
        self.bar: tqdm | None = None
        self.peak: Peak | None = None
        self.processes = 1
        self.displayed: dict[str, str] = {}
        self.speeds: list[float] = []

    def tokens_at(self, step: int, args: "TrainingArguments") -> int:
        """Tokens seen after `step` optimizer steps; the last one of an epoch takes what rows are left."""
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        seen, epoch = step * rows, self.rows_per_epoch
        if epoch is not None:
            epochs, begun = divmod(step, -(-epoch // rows))
            seen = epochs * epoch + min(begun * rows, epoch)
        return round(seen * self.tokens_per_row)

    @property
    def speed(self) -> dict[str, Any]:
        """{tokens_per_second, flops_per_second, mfu, ...}: the median over the log lines, for environment.json."""
        if not self.speeds:
            return {}
        # The first line includes the warm-up.
        tokens_per_second = statistics.median(self.speeds[1:] or self.speeds)
        speed = {"tokens_per_second": round(tokens_per_second), **self._rates(tokens_per_second)}
        if self.peak is not None:
            speed |= {"peak_flops_per_second": self.peak.flops_per_second, "peak_source": self.peak.source}
        return speed

    def _rates(self, tokens_per_second: float) -> dict[str, float]:
        flops_per_second = round(tokens_per_second * self.flops_per_token)
        rates: dict[str, float] = {"flops_per_second": flops_per_second}
        if self.peak is not None:
            fraction = flops_per_second / (self.peak.flops_per_second * self.processes)
            # A peak that is exceeded was measured while other programs used the CPU.
            if fraction <= 1:
                rates["mfu"] = round(fraction, 4)
        return rates

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> None:
        # All processes at once, so that those of one machine compete for its cores as they will in training.
        self.peak, self.processes = peak(args.device, args.bf16), args.world_size
        self.first_step, self.started = state.global_step, time.monotonic()
        self.line_step, self.line_time = state.global_step, self.started
        self.step_time, self.paused_seconds = self.started, 0.0
        if not state.is_world_process_zero:
            return
        kept = _entries_until(self.path, state.global_step)
        atomic_write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
        if self.bar is not None:
            self.bar.close()  # of an attempt that a failed step ended
        # A bar on a terminal, a line now and then in a log file.
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.stage,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.step_time = time.monotonic()
        if self.bar is not None:
            self.bar.update(1)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._pause()

    def on_save(self, *_: Any, **__: Any) -> None:
        self._pause()

    def _pause(self) -> None:
        """Evaluating and saving is not training: its seconds do not count for the speed."""
        now = time.monotonic()
        self.paused_seconds += now - max(self.step_time, self.line_time)
        self.step_time = now

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        now = time.monotonic()
        entry = {"step": state.global_step, **logs, "seconds": round(now - self.started, 3)}
        entry.pop("total_flos", None)
        is_training_line = "loss" in logs and state.global_step > self.line_step
        if is_training_line:
            entry["tokens"] = self.tokens_at(state.global_step, args)
            new = entry["tokens"] - self.tokens_at(self.line_step, args)
            speed = new / (now - self.line_time - self.paused_seconds)
            entry |= {"tokens_per_second": round(speed), **self._rates(speed)}
            self.speeds.append(speed)
            self.line_step, self.line_time, self.paused_seconds = state.global_step, now, 0.0
        with open(self.path, "a") as lines:
            lines.write(json.dumps(entry) + "\n")
        self._display(entry, state, now, is_training_line)

    def _display(self, entry: dict[str, Any], state: "TrainerState", now: float, is_training_line: bool) -> None:
        assert self.bar is not None
        texts = {"loss": "loss {:.3f}", "eval_loss": "val {:.3f}"}
        texts |= {f"eval_{score}": f"{score} {{:.3g}}" for score in self.scores}
        for key, text in {**texts, "tokens_per_second": "{:,} tok/s"}.items():
            if key in entry:
                self.displayed[key] = text.format(entry[key])
        summary = "  ".join(self.displayed.values())
        self.bar.set_postfix_str(summary)
        if self.bar.disable and is_training_line:
            steps_left, steps_done = state.max_steps - state.global_step, state.global_step - self.first_step
            left = format_duration(steps_left * (now - self.started) / steps_done)
            print(f"{self.stage} {state.global_step}/{state.max_steps}  {summary}  {left} left", file=sys.stderr)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class EvaluationCallback(TrainerCallback):
    """Hands the scores of each evaluation on, with the fraction of the steps that are done."""

    def __init__(self, receive: Callable[[float, dict[str, float]], None]) -> None:
        self.receive = receive

    def on_evaluate(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            self.receive(state.global_step / state.max_steps, metrics)


def _entries_until(metrics: Path, step: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to `step`: what a resumed run repeats must not be in it twice."""
    if not step or not metrics.is_file():
        return []
    entries = [json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}")]
    return [entry for entry in entries if entry["step"] <= step]
