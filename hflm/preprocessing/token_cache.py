"""Texts -> token ids in one array of 2 or 4 bytes a token, and the length of each text.

The ids of a corpus are cached under the Hugging Face home by the content of its text and tokenizer, so that another run
with both does not encode them again.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hflm.core import UserError
from hflm.preprocessing.tokenizer import encode, plain_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Texts per call of the tokenizer, so that all cores are used and memory stays bounded.
BATCH_TEXTS = 1000
BATCH_CHARACTERS = 1 << 22
CACHE_FORMAT = 1  # of the files that `encode_cached` writes

RowKind = Literal["documents", "lines"]


def encode_in_batches(
    texts: Iterable[str], tokenizer: "PreTrainedTokenizerFast", rows: RowKind = "documents"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, lengths) of one batch of texts after the other: their concatenated ids, and how many each text has.

    A document begins with the begin of text and ends with the end of text; a running text (`rows="lines"`) has neither.
    """
    first = [] if rows == "lines" or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    last = [] if rows == "lines" else [tokenizer.eos_token_id]
    for batch in batches(texts):
        encoded = encode(tokenizer, batch)
        lengths = np.array([len(ids) for ids in encoded]) + len(first) + len(last)
        ids = chain.from_iterable(chain.from_iterable((first, ids, last) for ids in encoded))
        yield np.fromiter(ids, token_dtype(tokenizer), lengths.sum()), lengths


def batches(texts: Iterable[str], most: int = BATCH_TEXTS) -> Iterator[list[str]]:
    """Lists of up to `most` texts, fewer when they are long; no text is read before it is needed."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == most or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def token_dtype(tokenizer: "PreTrainedTokenizerFast") -> type[np.uint16] | type[np.int32]:
    """The smallest type that holds every id: 2 bytes a token for most vocabularies."""
    return np.uint16 if len(tokenizer) <= 1 << 16 else np.int32


def cache_folder() -> Path:
    """The folder of cached token ids: `hflm-packed` under the Hugging Face home."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "hflm-packed"


def encode_cached(
    texts: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    rows: RowKind,
    cache: Path,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, Path | None]:
    """(ids, lengths, folder or None): memory-mapped ids, encoded only where `cache` does not hold them.

    The folder is None when the texts were encoded by this call. `on_progress` receives the part of them that is encoded.
    """
    folder = Path(cache) / _content_key(texts, tokenizer, rows)
    exists = folder.is_dir()
    try:
        if not exists:
            _write(folder, _reported(encode_in_batches(texts, tokenizer, rows), len(texts), on_progress))
    except OSError as error:
        raise UserError(
            f"{folder}: the encoded corpus cannot be cached: {error}. Set HF_HOME to a writable folder with enough space"
        ) from None
    try:
        ids = np.memmap(folder / "ids.bin", token_dtype(tokenizer), mode="r")
        lengths = np.load(folder / "lengths.npy")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the cached corpus cannot be read: {error}. Remove that folder") from None
    if len(ids) != lengths.sum():
        raise UserError(f"{folder}: the cached corpus is damaged. Remove that folder")
    return ids, lengths, folder if exists else None


def _reported(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], texts: int, on_progress: Callable[[float], None] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    encoded = 0
    for ids, lengths in batches:
        yield ids, lengths
        encoded += len(lengths)
        if on_progress is not None:
            on_progress(encoded / texts)


def _write(folder: Path, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """The folder appears complete or not at all; when another run was faster, its folder stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        lengths = []
        with open(partial / "ids.bin", "wb") as file:
            for ids, of_batch in batches:
                file.write(ids.data)
                lengths.append(of_batch)
            file.flush()
            os.fsync(file.fileno())
        np.save(partial / "lengths.npy", np.concatenate(lengths))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _content_key(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast", rows: RowKind) -> str:
    """The hash of all that determines the ids. Hashing takes about a hundredth of the time of encoding."""
    version = [CACHE_FORMAT, metadata.version("tokenizers"), rows, tokenizer.bos_token_id, tokenizer.eos_token_id]
    digest = hashlib.blake2b(json.dumps(version).encode(), digest_size=20)
    digest.update(plain_backend(tokenizer).to_str().encode())
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8))
        digest.update(content)
    return digest.hexdigest()
