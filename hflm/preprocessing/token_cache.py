"""Texts -> token ids in one array of 2 or 4 bytes a token, with the length of each text beside it.

The ids of a corpus are kept under the Hugging Face home by the content of its text and tokenizer, so that no other run
with both encodes it again.
"""

import hashlib
import json
import os
import shutil
import tempfile
from importlib import metadata
from itertools import chain
from pathlib import Path

import numpy as np

from hflm.core import UserError
from hflm.preprocessing.tokenizer import encode, plain

# Texts a call of the tokenizer, so that all cores are used and memory stays bounded.
ENCODE_AT_ONCE = 1000
CHARACTERS_AT_ONCE = 1 << 22
KEPT_FORMAT = 1  # of the files that `kept` writes


def encoded(texts, tokenizer, rows="documents"):
    """Yield (ids, lengths) of some texts at a time: their ids one after the other, and how many each text has.

    A document begins with the begin of text and ends with the end of text; a running text (`rows: lines`) has neither.
    """
    first = [] if rows == "lines" or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    last = [] if rows == "lines" else [tokenizer.eos_token_id]
    for some in batches(texts):
        found = encode(tokenizer, some)
        lengths = np.array([len(ids) for ids in found]) + len(first) + len(last)
        ids = chain.from_iterable(chain.from_iterable((first, ids, last) for ids in found))
        yield np.fromiter(ids, ids_type(tokenizer), lengths.sum()), lengths


def batches(texts):
    """Lists of up to ENCODE_AT_ONCE texts, fewer when they are long; no text is read before it is needed."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == ENCODE_AT_ONCE or size >= CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def ids_type(tokenizer):
    """The smallest type that holds every id: 2 bytes a token for most vocabularies."""
    return np.uint16 if len(tokenizer) <= 1 << 16 else np.int32


def home():
    """Where the ids of corpora are kept: `hflm-packed` under the Hugging Face home."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "hflm-packed"


def kept(texts, tokenizer, rows, keep):
    """(ids, lengths, folder or None): memory-mapped ids, encoded only when no earlier run has kept them."""
    folder = Path(keep) / _content(texts, tokenizer, rows)
    found = folder.is_dir()
    try:
        if not found:
            _write(folder, encoded(texts, tokenizer, rows))
    except OSError as error:
        raise UserError(
            f"{folder}: the encoded corpus cannot be kept there: {error}. Set HF_HOME to a folder that can be written"
        ) from None
    try:
        ids = np.memmap(folder / "ids.bin", ids_type(tokenizer), mode="r")
        lengths = np.load(folder / "lengths.npy")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the encoded corpus there cannot be read: {error}. Remove that folder") from None
    if len(ids) != lengths.sum():
        raise UserError(f"{folder}: the encoded corpus there is damaged. Remove that folder")
    return ids, lengths, folder if found else None


def _write(folder, parts):
    """The folder appears whole or not at all; when another run was faster, its folder stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        lengths = []
        with open(beside / "ids.bin", "wb") as file:
            for ids, some in parts:
                file.write(ids.data)
                lengths.append(some)
            file.flush()
            os.fsync(file.fileno())
        np.save(beside / "lengths.npy", np.concatenate(lengths))
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _content(texts, tokenizer, rows):
    """The hash of all that the ids follow from. Hashing takes about a hundredth of the time of encoding."""
    kind = [KEPT_FORMAT, metadata.version("tokenizers"), rows, tokenizer.bos_token_id, tokenizer.eos_token_id]
    digest = hashlib.blake2b(json.dumps(kind).encode(), digest_size=20)
    digest.update(plain(tokenizer).to_str().encode())
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8))
        digest.update(content)
    return digest.hexdigest()
