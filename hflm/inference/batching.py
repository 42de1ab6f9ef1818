"""Which rows are answered together: groups of prompts with a common prefix, batches within a budget of tokens."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence


def group_by_prefix(ids: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """Group rows with a common prefix, where running the prefix once saves tokens: (group of each row, prefix lengths).

    Each row keeps at least one token after the prefix of its group. In the order of their ids, a row joins the group
    before it if that saves more tokens than the others lose by the shorter prefix.

    >>> group_by_prefix([[7, 8, 9, 1], [5, 5], [7, 8, 9, 2, 2]])
    ([1, 0, 1], [1, 3])
    """
    groups, prefix_lengths, size = [0] * len(ids), [], 0
    previous: list[int] = []
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        common = min(len(os.path.commonprefix([previous, ids[row]])), len(ids[row]) - 1)
        if size and size * (prefix_lengths[-1] - common) < common:
            prefix_lengths[-1], size = min(prefix_lengths[-1], common), size + 1
        else:
            prefix_lengths.append(len(ids[row]) - 1)
            size = 1
        groups[row], previous = len(prefix_lengths) - 1, ids[row][: prefix_lengths[-1]]
    return groups, prefix_lengths


def batch_prefixes(ids: Sequence[list[int]], groups: list[int], prefix_lengths: list[int]) -> list[int] | None:
    """The tokens of each row that run once for its group in this batch; None where that saves no padded tokens.

    A row that is alone in the batch is cut so that its rest is as long as the longest rest, which costs nothing.
    """
    rows = Counter(groups)
    rests = [len(row) - prefix_lengths[group] for row, group in zip(ids, groups, strict=True) if rows[group] > 1]
    if not rests:
        return None
    longest = max(rests)
    prefixes = [
        prefix_lengths[group] if rows[group] > 1 else max(0, len(row) - longest)
        for row, group in zip(ids, groups, strict=True)
    ]
    longest = max(len(row) - prefix for row, prefix in zip(ids, prefixes, strict=True))
    tokens = len(rows) * max(prefixes) + len(ids) * longest
    return prefixes if tokens < len(ids) * max(map(len, ids)) else None


def token_batches(lengths: Sequence[int], token_budget: int, groups: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers, longest first, in batches that hold at most `token_budget` tokens when padded (or a single row).

    Rows of a group stay together, at the place of its longest row.

    >>> list(token_batches([2, 9, 3, 8], token_budget=16, groups=[0, 1, 2, 3]))
    [[1], [3, 2], [0]]
    """
    longest_of: dict[int, int] = {}
    for length, group in zip(lengths, groups, strict=True):
        longest_of[group] = max(length, longest_of.get(group, 0))
    order = [
        (-longest_of[group], group, -length, row)
        for row, (length, group) in enumerate(zip(lengths, groups, strict=True))
    ]
    batch: list[int] = []
    longest = 0
    for *_, row in sorted(order):
        if batch and (len(batch) + 1) * longest > token_budget:
            yield batch
            batch = []
        longest = longest if batch else longest_of[groups[row]]
        batch.append(row)
    if batch:
        yield batch
