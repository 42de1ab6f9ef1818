"""What a model answers, in batches: greedy text, labels by their likelihood, the likelihood of text.

Rows are sorted by length and share a budget of tokens a batch; prompts are padded on the left. What all prompts begin
with (an instruction, solved examples) runs once, and what some rows of a batch begin with (the passage of several
questions) once a batch. A row that has ended leaves its batch.
"""

import copy
import os
import sys
from dataclasses import dataclass

import torch

from hflm.core import ModelError
from hflm.inference import batching as grouping
from hflm.preprocessing import encode, plain_backend

BATCH_TOKENS = 2**17  # where trying begins; halved each time the memory is too small
CPU_BATCH_TOKENS = 2**13
CPU_READ_TOKENS = 2**10  # of rows that are only read: larger batches are padded more and no faster
MOST_LOGITS = 2**26  # of one batch of text, 256 MB in fp32
LEAST_SHARED = 2  # tokens that prompts must share before it pays to copy their cache into each batch


@dataclass(frozen=True)
class Started:
    """Prompts whose common beginning is run: its length and cache, and for each row the ids that follow.

    `groups` are rows that begin alike after that; `heads[group]` tokens of theirs are the same.
    """

    ids: list
    shared: int
    cache: object
    groups: list
    heads: list


@dataclass(frozen=True)
class Local:
    """A model on this machine that is asked in batches of `batch_tokens` (None: as many as fit, found by trying).

    Each method yields (rows, answers) of one batch after the other, longest rows first. `done` are rows that are
    answered already: they are left out, and the other batches stay as they would have been.
    Use it under torch.inference_mode(), with the model in eval mode.
    """

    model: object
    tokenizer: object
    batch_tokens: int | None = None

    def texts(self, prompts, max_new_tokens, stop, done=frozenset()):
        """Greedy continuations of each prompt, cut before the first stop string, without outer white space.

        The model's own generation settings (a temperature, a repetition penalty) do not matter, its end tokens do.
        """
        started = self._start(prompts)

        def answer(batch):
            return self._continue(started, batch, max_new_tokens, stop)

        lengths = [started.shared + len(row) + max_new_tokens for row in started.ids]
        yield from self._batches(lengths, started.groups, answer, done, CPU_BATCH_TOKENS)

    def likelihoods(self, prompts, choices, done=frozenset()):
        """log P(" choice" | prompt) in nats: a list of one number a choice for each row.

        The prompt runs once; all first tokens are read from its last position, and longer choices continue its cache.
        """
        started = self._start(prompts)
        labels = encode(self.tokenizer, [" " + choice for choice in choices])

        def answer(batch):
            return self._label_logs(started, batch, labels)

        lengths = [started.shared + len(row) + max(map(len, labels)) for row in started.ids]
        yield from self._batches(lengths, started.groups, answer, done, CPU_READ_TOKENS)

    def nats(self, windows, done=frozenset()):
        """The summed -log p, in nats, of the scored tokens of each window of `text_windows`."""

        def answer(batch):
            return self._window_nats([windows[row] for row in batch])

        most = max(1, MOST_LOGITS // self.model.config.vocab_size)
        lengths = [len(ids) for ids, _, _ in windows]
        yield from self._batches(lengths, range(len(windows)), answer, done, CPU_READ_TOKENS, most)

    def _batches(self, lengths, groups, answer, done, cpu, most=sys.maxsize):
        start = cpu if self.model.device.type == "cpu" else BATCH_TOKENS
        budget = min(self.batch_tokens or start, most)
        waiting = list(grouping.batches(lengths, budget, groups))
        while waiting:
            batch = [row for row in waiting.pop(0) if row not in done]
            if not batch:
                continue
            try:
                found = answer(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise ModelError(
                        f"the memory of {self.model.device} is too small for a single row of {lengths[batch[0]]} tokens"
                    ) from None
                budget //= 2
                rows = [*batch, *(row for later in waiting for row in later)]
                parts = grouping.batches([lengths[row] for row in rows], budget, [groups[row] for row in rows])
                waiting = [[rows[place] for place in part] for part in parts]
            else:
                yield batch, found

    def _start(self, prompts):
        """Started: what all prompts share is run."""
        ids = encode(self.tokenizer, prompts)
        shared = len(os.path.commonprefix(ids)) if ids else 0
        # Each row keeps a token of its own to predict from.
        shared = min([shared, *(len(row) - 1 for row in ids)])
        cache = None
        if shared < LEAST_SHARED:
            shared = 0
        else:
            first = torch.tensor([ids[0][:shared]], device=self.model.device)
            cache = self.model(input_ids=first, use_cache=True, logits_to_keep=1).past_key_values
        ids = [row[shared:] for row in ids]
        return Started(ids, shared, cache, *grouping.grouped(ids))

    def _read(self, started, batch):
        """Run the prompts of B rows: (output with the logits of the last position, attention mask (B, T))."""
        ids, groups = [started.ids[row] for row in batch], [started.groups[row] for row in batch]
        cache = copy.deepcopy(started.cache)
        mask = torch.ones((1, started.shared), dtype=torch.int64, device=self.model.device)
        heads = grouping.heads(ids, groups, started.heads)
        if heads is not None:
            first = {group: place for place, group in enumerate(groups)}
            beginnings = [ids[place][: heads[place]] for place in first.values()]
            output, mask = self._run(beginnings, mask, cache)
            number = {group: number for number, group in enumerate(first)}
            repeated = torch.tensor([number[group] for group in groups], device=self.model.device)
            cache, mask = output.past_key_values, mask[repeated]
            cache.batch_select_indices(repeated)
            ids = [row[head:] for row, head in zip(ids, heads, strict=True)]
        return self._run(ids, mask, cache)

    def _run(self, ids, mask, cache):
        """Run the next ids of B rows, padded on the left, after a cache of B rows or of one that all share."""
        length = max(map(len, ids))
        if cache is not None and len(mask) < len(ids):
            cache.batch_repeat_interleave(len(ids))
        padding = self.tokenizer.pad_token_id
        input_ids = [[padding] * (length - len(row)) + row for row in ids]
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

    def _continue(self, started, batch, max_new_tokens, stop):
        ends = end_tokens(self.model, self.tokenizer)
        output, mask = self._read(started, batch)
        positions = mask.sum(-1) - 1
        rows, new = list(range(len(batch))), [[] for _ in batch]
        for _ in range(max_new_tokens):
            following = output.logits[:, -1].argmax(-1)
            for row, token in zip(rows, following.tolist(), strict=True):
                new[row].append(token)
            texts = self.tokenizer.batch_decode([new[row] for row in rows], skip_special_tokens=True)
            open_rows = [
                place
                for place, row in enumerate(rows)
                if new[row][-1] not in ends
                and len(new[row]) < max_new_tokens
                and cut_at(texts[place], stop) == texts[place]
            ]
            if not open_rows:
                break
            cache = output.past_key_values
            if len(open_rows) < len(rows):
                kept = torch.tensor(open_rows, device=self.model.device)
                cache.batch_select_indices(kept)
                following, mask, positions = following[kept], mask[kept], positions[kept]
                rows = [rows[place] for place in open_rows]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            positions = positions + 1
            output = self.model(
                input_ids=following[:, None],
                attention_mask=mask,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
            )
        return [cut_at(text, stop).strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _label_logs(self, started, batch, labels):
        output, mask = self._read(started, batch)
        positions = mask.sum(-1) - 1
        first = output.logits[:, -1].float().log_softmax(-1)  # (B, V)
        columns = []
        for label in labels:
            total = first[:, label[0]]
            if len(label) > 1:
                rest = torch.tensor([label[:-1]], device=self.model.device).expand(len(batch), -1)
                continued = self.model(
                    input_ids=rest,
                    attention_mask=torch.cat([mask, torch.ones_like(rest)], dim=1),
                    position_ids=positions[:, None] + torch.arange(1, len(label), device=self.model.device),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
                logs = continued.logits.float().log_softmax(-1)  # (B, len(label) - 1, V)
                for step, token in enumerate(label[1:]):
                    total = total + logs[:, step, token]
                output.past_key_values.crop(1 - len(label))  # back to the prompt alone
            columns.append(total)
        return torch.stack(columns, dim=1).tolist()

    def _window_nats(self, windows):
        length = max(len(ids) for ids, _, _ in windows)
        ids = torch.full((len(windows), length), self.tokenizer.pad_token_id)
        mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, (window, count, _) in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
            scored[row, len(window) - count : len(window)] = 1
        ids, mask, scored = (each.to(self.model.device) for each in (ids, mask, scored))
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return (losses.double() * scored[:, 1:]).sum(1).tolist()


def text_windows(tokenizer, text, context_length):
    """Cut a text for scoring: a list of (ids, scored, bytes).

    Every token of the text is predicted exactly once, the first one from the begin-of-text token. Windows of
    `context_length` overlap by half, so that all but the first half window have at least half a context before them;
    the last `scored` ids of a window count, and `bytes` are the UTF-8 bytes that they spell.
    """
    encoding = plain_backend(tokenizer).encode(text, add_special_tokens=False)
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = [begin, *encoding.ids]
    windows, done, spelt = [], 1, 0
    while done < len(ids):
        end = min(len(ids), done + (context_length - 1 if done == 1 else context_length // 2))
        last = len(text) if end == len(ids) else encoding.offsets[end - 2][1]
        windows.append((ids[max(0, end - context_length) : end], end - done, len(text[spelt:last].encode())))
        done, spelt = end, last
    return windows


def end_tokens(model, tokenizer):
    """The ids at which an answer ends: the tokenizer's end of text and what the model's generation config names."""
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}


def cut_at(text, stop):
    """The text before the first of the stop strings.

    >>> cut_at(" Paris\\nQuestion: ...", ["\\n"])
    ' Paris'
    """
    # A stop string at the very beginning (a model that opens with a line break) would leave nothing to score.
    start = len(text) - len(text.lstrip())
    ends = [end for end in (text.find(mark, start) for mark in stop) if end >= 0]
    return text[: min(ends)] if ends else text
