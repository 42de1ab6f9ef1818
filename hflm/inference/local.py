"""The answers of a model on this machine, in batches: text, labels by their likelihood, the likelihood of text.

Rows are sorted by length and share a budget of tokens a batch; prompts are padded on the left. The common prefix of all
prompts (an instruction, solved examples) runs once, and the common prefix of some rows (the passage of several
questions) once a batch. A row that has ended leaves its batch.
"""

import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hflm.core import ModelError
from hflm.inference.batching import batch_prefixes, group_by_prefix, token_batches
from hflm.inference.search import reproducible, search_texts
from hflm.inference.stopping import cut_at_stop, end_of_text, end_tokens, padding_token
from hflm.inference.windows import TextWindow
from hflm.preprocessing import encode, encode_prompts, encode_rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BATCH_TOKENS = 2**17  # the first attempt; halved each time the memory is too small
CPU_BATCH_TOKENS = 2**13
CPU_READ_TOKENS = 2**10  # of rows that are only read: larger batches are padded more and no faster
MAX_LOGITS = 2**26  # of one batch of text, 256 MB in fp32
MIN_SHARED_PREFIX = 2  # tokens; a shorter one is not worth the copy of its cache into each batch

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Prompts:
    """Prompts whose common prefix was run: its length and cache, and for each row the ids that follow.

    `groups` are rows with a common prefix of `prefix_lengths[group]` further tokens.
    """

    ids: list[list[int]]
    shared: int
    cache: Any
    groups: list[int]
    prefix_lengths: list[int]


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine, asked in batches of `batch_tokens` (None: as many as fit into memory).

    `share_prefixes`: what several prompts have in common runs once.

    Each method yields (rows, answers) of one batch after the other, longest rows first. `done` are rows that have
    an answer already: they are left out, and the other batches stay as they would have been.
    With `rendered` the prompts were made by a chat template, and their special tokens are meant.
    The model computes in the number format of its weights (hflm.core.arithmetic.inference_dtype), without autocast;
    with `widens`, weights in float32 are searched in float64 (hflm.inference.search), which a model in training is not.
    Call the methods under torch.inference_mode(), with the model in eval mode.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    batch_tokens: int | None = None
    share_prefixes: bool = True
    widens: bool = True
    rendered: bool = False

    def texts(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        stop: Sequence[str],
        done: AbstractSet[int] = frozenset(),
        *,
        generation: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (),
    ) -> Iterator[tuple[list[int], list[str]]]:
        """A continuation of each prompt, cut before the first stop string, without outer white space.

        It is greedy, or chosen as `generation` says (GenerationConfig's options, hflm.recipe.decoding); `seeds` are
        those of sampled rows. Of the model's own generation settings only its end tokens count, no temperature and no
        repetition penalty.
        """
        if generation:
            yield from self._searched(prompts, max_new_tokens, stop, done, generation, seeds or range(len(prompts)))
            return
        run = self._run_shared_prefix(prompts)

        def answer(batch: list[int]) -> list[str]:
            return self._continue(run, batch, max_new_tokens, stop)

        lengths = [run.shared + len(row) + max_new_tokens for row in run.ids]
        yield from self._batches(lengths, run.groups, answer, done, CPU_BATCH_TOKENS)

    def _searched(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        stop: Sequence[str],
        done: AbstractSet[int],
        generation: Mapping[str, Any],
        seeds: Sequence[int],
    ) -> Iterator[tuple[list[int], list[str]]]:
        ids = self._encode(prompts)
        ends = end_tokens(self.model, self.tokenizer)

        def answer(batch: list[int]) -> list[str]:
            rows, own = [ids[row] for row in batch], [seeds[row] for row in batch]
            return search_texts(self.model, self.tokenizer, rows, generation, max_new_tokens, stop, ends, own)

        beams = generation.get("num_beams", 1)
        lengths = [beams * (len(row) + max_new_tokens) for row in ids]
        with reproducible(self.model, self.widens):
            yield from self._batches(lengths, range(len(ids)), answer, done, CPU_BATCH_TOKENS)

    def likelihoods(
        self,
        prompts: Sequence[str],
        choices: Sequence[str],
        done: AbstractSet[int] = frozenset(),
        *,
        include_end: bool = True,
    ) -> Iterator[tuple[list[int], list[list[float]]]]:
        """log P(" choice" and the end of text | prompt) in nats: a list of one number a choice for each row.

        A target of fine-tuning ends in the end of text, too (hflm.preprocessing.pack_examples). Without it
        (`include_end=False`, lm-eval's rule) a choice whose tokens begin another choice's, such as 1 and 10, is never
        less likely than that one. The prompt runs once; all first tokens are read from its last position, and the
        other tokens continue its cache.
        """
        run = self._run_shared_prefix(prompts)
        end = [end_of_text(self.tokenizer)] if include_end else []
        labels = [[*ids, *end] for ids in encode(self.tokenizer, [f" {choice}" for choice in choices])]

        def answer(batch: list[int]) -> list[list[float]]:
            return self._label_log_likelihoods(run, batch, labels)

        read = [len(row) + max(map(len, labels)) for row in run.ids]
        if self.model.device.type == "cpu":  # a token of the shared prefix takes memory in each row, and no computation
            lengths = [max(own, (run.shared + own) * CPU_READ_TOKENS // CPU_BATCH_TOKENS) for own in read]
        else:
            lengths = [run.shared + own for own in read]
        yield from self._batches(lengths, run.groups, answer, done, CPU_READ_TOKENS)

    def nats(
        self, windows: Sequence[TextWindow], done: AbstractSet[int] = frozenset()
    ) -> Iterator[tuple[list[int], list[float]]]:
        """The summed -log p, in nats, of the scored tokens of each window of `text_windows`."""

        def answer(batch: list[int]) -> list[float]:
            return self._window_nats([windows[row] for row in batch])

        most = max(1, MAX_LOGITS // self.model.config.vocab_size)
        lengths = [len(window.ids) for window in windows]
        yield from self._batches(lengths, range(len(windows)), answer, done, CPU_READ_TOKENS, most)

    def _batches(
        self,
        lengths: Sequence[int],
        groups: Sequence[int],
        answer: Callable[[list[int]], list[Answer]],
        done: AbstractSet[int],
        cpu_tokens: int,
        most: int = sys.maxsize,
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        default = cpu_tokens if self.model.device.type == "cpu" else BATCH_TOKENS
        budget = min(self.batch_tokens or default, most)
        waiting = list(token_batches(lengths, budget, groups))
        while waiting:
            batch = [row for row in waiting.pop(0) if row not in done]
            if not batch:
                continue
            try:
                answers = answer(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise ModelError(
                        f"the memory of {self.model.device} is too small for a single row of {lengths[batch[0]]} tokens"
                    ) from None
                budget //= 2
                rows = [*batch, *(row for later in waiting for row in later)]
                parts = token_batches([lengths[row] for row in rows], budget, [groups[row] for row in rows])
                waiting = [[rows[place] for place in part] for part in parts]
            else:
                yield batch, answers

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        return (encode_rendered if self.rendered else encode_prompts)(self.tokenizer, list(prompts))

    def _run_shared_prefix(self, prompts: Sequence[str]) -> _Prompts:
        ids = self._encode(prompts)
        shared = len(os.path.commonprefix(ids)) if ids else 0
        # Each row keeps a token of its own to predict from.
        shared = min([shared, *(len(row) - 1 for row in ids)])
        cache = None
        if shared < MIN_SHARED_PREFIX or not self.share_prefixes:
            shared = 0
        else:
            first = torch.tensor([ids[0][:shared]], device=self.model.device)
            cache = self.model(input_ids=first, use_cache=True, logits_to_keep=1).past_key_values
        ids = [row[shared:] for row in ids]
        return _Prompts(ids, shared, cache, *group_by_prefix(ids))

    def _read(self, run: _Prompts, batch: list[int]) -> tuple[Any, torch.Tensor]:
        """Run the prompts of B rows: (output with the logits of the last position, attention mask (B, T))."""
        ids, groups = [run.ids[row] for row in batch], [run.groups[row] for row in batch]
        cache = copy.deepcopy(run.cache)
        mask = torch.ones((1, run.shared), dtype=torch.int64, device=self.model.device)
        prefixes = batch_prefixes(ids, groups, run.prefix_lengths) if self.share_prefixes else None
        if prefixes is not None:
            first = {group: place for place, group in enumerate(groups)}
            output, mask = self._forward([ids[place][: prefixes[place]] for place in first.values()], mask, cache)
            number = {group: number for number, group in enumerate(first)}
            repeated = torch.tensor([number[group] for group in groups], device=self.model.device)
            cache, mask = output.past_key_values, mask[repeated]
            cache.batch_select_indices(repeated)
            ids = [row[prefix:] for row, prefix in zip(ids, prefixes, strict=True)]
        return self._forward(ids, mask, cache)

    def _forward(self, ids: list[list[int]], mask: torch.Tensor, cache: Any) -> tuple[Any, torch.Tensor]:
        """Run the next ids of B rows, padded on the left, after a cache of B rows or of one that all share."""
        length = max(map(len, ids))
        if cache is not None and len(mask) < len(ids):
            cache.batch_repeat_interleave(len(ids))
        input_ids = [[padding_token(self.tokenizer)] * (length - len(row)) + row for row in ids]
        new = [[0] * (length - len(row)) + [1] * len(row) for row in ids]
        mask = torch.cat([mask.expand(len(ids), -1), torch.tensor(new, device=self.model.device)], dim=1)
        output = self.model(
            input_ids=torch.tensor(input_ids, device=self.model.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -length:],  # counted without the padding
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output, mask

    def _continue(self, run: _Prompts, batch: list[int], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        ends = end_tokens(self.model, self.tokenizer)
        output, mask = self._read(run, batch)
        positions = mask.sum(-1) - 1
        rows: list[int] = list(range(len(batch)))
        new: list[list[int]] = [[] for _ in batch]
        for _ in range(max_new_tokens):
            following = output.logits[:, -1].argmax(-1)
            for row, token in zip(rows, following.tolist(), strict=True):
                new[row].append(token)
            texts = self.tokenizer.batch_decode([new[row] for row in rows], skip_special_tokens=True)
            unfinished = [
                place
                for place, row in enumerate(rows)
                if new[row][-1] not in ends
                and len(new[row]) < max_new_tokens
                and cut_at_stop(texts[place], stop) == texts[place]
            ]
            if not unfinished:
                break
            cache = output.past_key_values
            if len(unfinished) < len(rows):
                kept = torch.tensor(unfinished, device=self.model.device)
                cache.batch_select_indices(kept)
                following, mask, positions = following[kept], mask[kept], positions[kept]
                rows = [rows[place] for place in unfinished]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            positions = positions + 1
            output = self.model(
                input_ids=following[:, None],
                attention_mask=mask,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
            )
        return [cut_at_stop(text, stop).strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _label_log_likelihoods(self, run: _Prompts, batch: list[int], labels: list[list[int]]) -> list[list[float]]:
        output, mask = self._read(run, batch)
        positions = mask.sum(-1) - 1
        first = output.logits[:, -1]  # (B, V)
        columns = []
        for label in labels:
            total = _log_p(first, torch.tensor(label[0], device=first.device))
            if len(label) > 1:
                rest = torch.tensor([label[:-1]], device=self.model.device).expand(len(batch), -1)
                continued = self.model(
                    input_ids=rest,
                    attention_mask=torch.cat([mask, torch.ones_like(rest)], dim=1),
                    position_ids=positions[:, None] + torch.arange(1, len(label), device=self.model.device),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
                following = torch.tensor(label[1:], device=first.device)
                total = total + _log_p(continued.logits, following).sum(-1)
                output.past_key_values.crop(1 - len(label))  # back to the prompt alone
            columns.append(total)
        return torch.stack(columns, dim=1).tolist()

    def _window_nats(self, windows: list[TextWindow]) -> list[float]:
        length = max(len(window.ids) for window in windows)
        ids = torch.full((len(windows), length), padding_token(self.tokenizer))
        mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, window in enumerate(windows):
            size = len(window.ids)
            ids[row, :size] = torch.tensor(window.ids)
            mask[row, :size] = 1
            scored[row, size - window.scored : size] = 1
        ids, mask, scored = (each.to(self.model.device) for each in (ids, mask, scored))
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        return (-_log_p(logits, ids[:, 1:]).double() * scored[:, 1:]).sum(1).tolist()


def _log_p(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log p of `tokens` (...) under `logits` (B, ..., V), in fp32: (B, ...)."""
    logits = logits.float()
    chosen = logits.gather(-1, tokens.expand(logits.shape[:-1])[..., None])[..., 0]
    return chosen - logits.logsumexp(-1)
