"""The Trainer of a stage: steps that can be watched, skipped and repeated, an exact evaluation, rows that stream."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import get_sampler
from torch.utils.data import DataLoader, RandomSampler
from transformers import EarlyStoppingCallback, Trainer

from hflm.training import recovery
from hflm.training.best_model import KeepBest, has_stopped
from hflm.training.divergence import Guard
from hflm.training.evaluation import TaskScorer, ValidationSet, loss_metrics, plain_model

Tensors = dict[str, torch.Tensor]  # a batch, (B, T) each


class StageTrainer(Trainer):
    """Trainer whose steps are watched by a Guard, skipped after a rollback and repeated after an out-of-memory.

    With `epoch_rows` an epoch takes only so many of the rows, chosen anew each time. An evaluation measures the loss of
    each of `validation` and the tasks of `scorer`.
    """

    def __init__(
        self,
        guard: Guard,
        validation: Mapping[str, ValidationSet],
        scorer: TaskScorer | None = None,
        early: EarlyStoppingCallback | None = None,
        best: KeepBest | None = None,
        **options: Any,
    ) -> None:
        unused: Any = []  # `evaluate` has `validation`, but Trainer asks for a data set
        super().__init__(eval_dataset=unused, **options)
        self.guard, self.validation, self.scorer = guard, validation, scorer
        self.early, self.best = early, best
        self.epoch_rows: int | None = None
        self.micro_rows = self.args.train_batch_size  # rows of a forward pass
        self.eval_micro_rows = self.args.eval_batch_size
        self.step_batches: list[Tensors] = []  # the micro-batches of the current optimizer step
        self.done = 0  # how many of them have their gradients

    # Data

    def get_train_dataloader(self) -> Any:
        args = self.args
        options = {
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory,
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
        }
        if self.guard.source is not None:
            options.pop("num_workers")  # known from `resume`
            collate: Any = self.data_collator
            return self.guard.source.batches(args.train_batch_size, collate, **options)
        if self.epoch_rows is None or args.train_sampling_strategy != "random":
            return super().get_train_dataloader()
        sampler = RandomSampler(self.train_dataset, num_samples=self.epoch_rows)  # type: ignore[arg-type]
        loader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            args.train_batch_size,
            sampler=sampler,
            collate_fn=self.data_collator,
            drop_last=args.dataloader_drop_last,
            **options,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Tensors], num_batches: int, device: torch.device
    ) -> tuple[list[Tensors], Any]:
        if self.state.global_step >= self.state.max_steps or has_stopped(self.early):
            # Resumed from the checkpoint of the last step: Trainer compares the number of steps only after one more.
            self.control.should_training_stop = self.guard.was_finished = True
            return [], None
        self.step_batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.done = 0
        return self.step_batches, num_items

    def rows_of(self, step: int) -> list[int]:
        """The row numbers of the batch of `step` (from 1); of a stream, their place in it."""
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if self.guard.source is not None:
            return list(range((step - 1) * per_step, step * per_step))
        loader: Any = self.callback_handler.train_dataloader
        per_epoch = -(-len(loader) // self.args.gradient_accumulation_steps)
        epoch, place = divmod(step - 1, per_epoch)
        sampler: Any = get_sampler(loader)
        loader.set_epoch(epoch)
        return [int(row) for row in sampler][place * per_step : (place + 1) * per_step]

    # Steps

    def training_step(self, model: torch.nn.Module, inputs: Tensors, num_items_in_batch: Any = None) -> torch.Tensor:
        if self.state.global_step + 1 in self.guard.skipped:
            loss = torch.zeros((), device=self.args.device)  # no gradients, so that the optimizer changes nothing
        else:
            loss = self._step_within_memory(model, inputs, num_items_in_batch)
        self.guard.add(loss)
        return loss

    def _step_within_memory(self, model: torch.nn.Module, inputs: Tensors, num_items_in_batch: Any) -> torch.Tensor:
        """The loss of a micro-batch after its backward pass; after an out-of-memory, of its rows in smaller parts.

        The pass that failed may have left some gradients: those of the whole optimizer step are computed again.
        """
        pending = [inputs]
        while True:
            try:
                losses = [self._step_in_parts(model, each, num_items_in_batch) for each in pending]
                break
            except RuntimeError as error:
                self.micro_rows = recovery.halve_micro_batch(self, error, self.micro_rows)
                self.eval_micro_rows = max(1, self.eval_micro_rows // 2)
            recovery.free_memory(model)
            pending = [*self.step_batches[: self.done], inputs]
        self.done += 1
        return losses[-1]

    def _step_in_parts(self, model: torch.nn.Module, inputs: Tensors, num_items_in_batch: Any) -> torch.Tensor:
        losses = []
        for part in recovery.split_batch(inputs, self.micro_rows):
            losses.append(super().training_step(model, part, num_items_in_batch))
        return torch.stack(losses).sum()

    # Evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """{"eval_loss": the mean of -log p over all labels, ...}, exactly, with any batch size and number of processes.

        Trainer's own is a mean of the batches' means, which depends on both. `eval_<set>_loss`, `eval_bits_per_byte` and
        `eval_<task>_<metric>` follow where there are several sets, sizes in bytes and tasks.
        """
        started = time.monotonic()
        metrics = self.evaluation_losses()
        if self.scorer is not None:
            with plain_model(self.model) as plain:
                metrics |= {f"eval_{name}": value for name, value in self.scorer(plain).items()}
            recovery.release_memory()
        metrics["eval_runtime"] = round(time.monotonic() - started, 3)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluation_losses(self) -> dict[str, float]:
        """The losses of the validation sets, {} without any. Every process calls it."""
        model: Any = self.model
        training = model.training
        model.eval()
        sums = {name: self._sum_nll_of_all(each) for name, each in self.validation.items()}
        model.train(training)
        return loss_metrics(sums, self.validation) if sums else {}

    def _sum_nll_of_all(self, validation: ValidationSet) -> tuple[float, float]:
        """(the sum of -log p, the number of labels) of a validation set, over all processes."""
        while True:
            try:
                nll, labels = self._sum_nll(validation.rows, self.eval_micro_rows)
                break
            except RuntimeError as error:
                self.eval_micro_rows = recovery.halve_micro_batch(self, error, self.eval_micro_rows)
        if self.args.world_size > 1:
            total = torch.tensor([nll, labels], dtype=torch.float64, device=self.args.device)
            torch.distributed.all_reduce(total)
            nll, labels = total.tolist()
        return nll, labels

    def _sum_nll(self, rows: Any, rows_at_once: int) -> tuple[float, int]:
        """(the sum of -log p, the number of labels) of this process's part of some packed rows."""
        model: Any = self.model
        process, processes = self.args.process_index, self.args.world_size
        sums, labels = [], 0
        for start in range(0, len(rows), rows_at_once * processes):
            group = rows[start : start + rows_at_once * processes]
            batch = self.data_collator(group[process::processes] or group[:1])
            if len(group) <= process:
                batch["labels"].fill_(-100)  # as many forward passes as the others, of nothing
            labels += int((batch["labels"][:, 1:] != -100).sum())
            batch = {name: each.to(self.args.device) for name, each in batch.items()}
            with torch.no_grad():
                sums.append(model(**batch, num_items_in_batch=1).loss)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return torch.stack(sums).cpu().double().sum().item(), labels

    # Checkpoints

    def save_model(self, output_dir: str | None = None, *args: Any, **options: Any) -> None:
        """As Trainer's; a checkpoint begins with it, and Guard.on_save ends it."""
        self.guard.writing = Path(output_dir or self.guard.folder)
        super().save_model(output_dir, *args, **options)
