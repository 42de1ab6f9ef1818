"""What a model answers, in batches: greedy text, labels by their likelihood, the likelihood of text.

Rows are sorted by length and share a budget of tokens a batch; prompts are padded on the left.
"""

import numpy as np
import torch
from transformers import GenerationConfig, StoppingCriteria

from hflm.tokenizer import encode

MOST_LOGITS = 2**26  # of one batch of text, 256 MB in fp32
STOP_TAIL = 16  # newest tokens that are searched for a stop string at each step


def prepare(model, tokenizer):
    """Make the model answer greedily whatever its own generation settings are (a temperature, a repetition penalty)."""
    ends = model.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])})
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model.eval()


def generate_texts(model, tokenizer, prompts, max_new_tokens, stop, batch_tokens, progress=None):
    """Greedy continuations of each prompt, cut before the first stop string, without outer white space."""
    ids = encode(tokenizer, prompts)
    texts = [""] * len(prompts)
    for batch in batches([len(prompt) + max_new_tokens for prompt in ids], batch_tokens):
        input_ids, attention_mask = _left_padded(
            [ids[number] for number in batch], tokenizer.pad_token_id, model.device
        )
        output = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stopping_criteria=[StopAt(stop, tokenizer, input_ids.shape[1])] if stop else None,
        )
        for number, row in zip(batch, output[:, input_ids.shape[1] :], strict=True):
            texts[number] = cut_at(tokenizer.decode(row, skip_special_tokens=True), stop).strip()
        if progress is not None:
            progress.update(len(batch))
    return texts


def label_likelihoods(model, tokenizer, prompts, choices, batch_tokens, progress=None):
    """log P(" choice" | prompt) in nats, an array (len(prompts), len(choices)).

    The prompt runs once; all first tokens are read from its last position, and longer choices continue its cache.
    """
    ids = encode(tokenizer, prompts)
    labels = encode(tokenizer, [" " + choice for choice in choices])
    found = np.zeros((len(prompts), len(choices)))
    for batch in batches([len(prompt) + max(map(len, labels)) for prompt in ids], batch_tokens):
        input_ids, mask = _left_padded([ids[number] for number in batch], tokenizer.pad_token_id, model.device)
        # Counted without the padding, as generate() counts.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        first = output.logits[:, -1].float().log_softmax(-1)  # (B, V)
        for column, label in enumerate(labels):
            total = first[:, label[0]]
            if len(label) > 1:
                rest = torch.tensor([label[:-1]], device=model.device).expand(len(batch), -1)
                steps = torch.arange(1, len(label), device=model.device)
                continued = model(
                    input_ids=rest,
                    attention_mask=torch.cat([mask, torch.ones_like(rest)], dim=1),
                    position_ids=positions[:, -1:] + steps,
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
                logs = continued.logits.float().log_softmax(-1)  # (B, len(label) - 1, V)
                for step, token in enumerate(label[1:]):
                    total = total + logs[:, step, token]
                output.past_key_values.crop(1 - len(label))  # back to the prompt alone
            found[batch, column] = total.cpu().numpy()
        if progress is not None:
            progress.update(len(batch))
    return found


def text_windows(tokenizer, text, context_length):
    """Cut a text for scoring: a list of (ids, scored, bytes).

    Every token of the text is predicted exactly once, the first one from the begin-of-text token. Windows of
    `context_length` overlap by half, so that all but the first half window have at least half a context before them;
    the last `scored` ids of a window count, and `bytes` are the UTF-8 bytes that they spell.
    """
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = [begin, *encoding.ids]
    windows, done, spelt = [], 1, 0
    while done < len(ids):
        end = min(len(ids), done + (context_length - 1 if done == 1 else context_length // 2))
        last = len(text) if end == len(ids) else encoding.offsets[end - 2][1]
        windows.append((ids[max(0, end - context_length) : end], end - done, len(text[spelt:last].encode())))
        done, spelt = end, last
    return windows


def window_nats(model, windows, pad_token_id, batch_tokens, progress=None):
    """The summed -log p, in nats, of the scored tokens of each window: an array (len(windows),)."""
    budget = min(batch_tokens, max(1, MOST_LOGITS // model.config.vocab_size))
    nats = np.zeros(len(windows))
    for batch in batches([len(ids) for ids, _, _ in windows], budget):
        length = max(len(windows[number][0]) for number in batch)
        ids = torch.full((len(batch), length), pad_token_id)
        mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, number in enumerate(batch):
            window, count, _ = windows[number]
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
            scored[row, len(window) - count : len(window)] = 1
        ids, mask, scored = ids.to(model.device), mask.to(model.device), scored.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        nats[batch] = (losses.double() * scored[:, 1:]).sum(1).cpu().numpy()
        if progress is not None:
            progress.update(len(batch))
    return nats


def batches(lengths, budget):
    """Group row numbers, longest first, so that a padded batch holds at most `budget` tokens (or a single row).

    >>> list(batches([2, 9, 3, 8], budget=16))
    [[1], [3, 2], [0]]
    """
    batch, longest = [], 0
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        longest = longest if batch else lengths[number]
        batch.append(number)
    if batch:
        yield batch


def cut_at(text, stop):
    """The text before the first of the stop strings.

    >>> cut_at(" Paris\\nQuestion: ...", ["\\n"])
    ' Paris'
    """
    # A stop string at the very beginning (a model that opens with a line break) would leave nothing to score.
    start = len(text) - len(text.lstrip())
    ends = [end for end in (text.find(mark, start) for mark in stop) if end >= 0]
    return text[: min(ends)] if ends else text


class StopAt(StoppingCriteria):
    """Ends a row when its new text holds a stop string after something that is not white space."""

    def __init__(self, stop, tokenizer, prompt_length):
        self.stop, self.tokenizer, self.prompt_length = stop, tokenizer, prompt_length
        self.begun = None

    def __call__(self, input_ids, scores, **_):
        new = input_ids[:, self.prompt_length :]
        if self.begun is None:
            self.begun = [False] * len(new)
        ended = []
        for row, text in enumerate(self.tokenizer.batch_decode(new[:, -STOP_TAIL:], skip_special_tokens=True)):
            inner = text if self.begun[row] else text.lstrip()
            self.begun[row] = self.begun[row] or bool(inner)
            ended.append(any(mark in inner for mark in self.stop))
        return torch.tensor(ended, device=input_ids.device)


def _left_padded(ids, pad_token_id, device):
    """Lists of ids -> (input_ids, attention_mask), each (B, T) int64."""
    length = max(map(len, ids))
    padded = [[pad_token_id] * (length - len(row)) + row for row in ids]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)
