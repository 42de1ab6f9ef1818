"""Train a tokenizer from text, or load an existing one.

All three algorithms work on bytes (GPT-2's byte alphabet), so that every Unicode text is decoded exactly.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hflm.core import DataError, ModelError, expand_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.trainers import Trainer
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
# WordPiece marks an entry inside a word by a prefix. "##" may occur in the text itself; this character is outside the
# byte alphabet, so it cannot.
INSIDE_WORD = "▁"
# WordPiece gives up on a longer "word" (a line of Chinese is one), and BPE and Unigram are slow on it.
MAX_WORD_LENGTH = 64


def train_tokenizer(
    texts: Iterable[str],
    algorithm: Literal["bpe", "unigram", "wordpiece"] = "bpe",
    vocab_size: int = 8192,
    min_frequency: int = 2,
) -> "PreTrainedTokenizerFast":
    """Train a byte-level tokenizer of at most `vocab_size` entries.

    The only special token is <|endoftext|>, which begins, ends and pads, as GPT-2's does.
    Raises DataError when there is no text.
    """
    from tokenizers import decoders
    from transformers import PreTrainedTokenizerFast

    backend, trainer = _untrained(algorithm, vocab_size, min_frequency)
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for text in texts:
            count += 1
            yield text

    backend.train_from_iterator(counted(), trainer)
    if not count:
        raise DataError("tokenizer.train: there is no text to train on")
    backend.decoder = decoders.ByteLevel()
    if algorithm == "wordpiece":
        backend = _sorted_wordpiece(backend)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def _untrained(algorithm: str, vocab_size: int, min_frequency: int) -> "tuple[Tokenizer, Trainer]":
    """An empty tokenizer of the algorithm and what trains it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    common = {"special_tokens": [END_OF_TEXT], "show_progress": False, "initial_alphabet": alphabet}
    if algorithm == "bpe":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = byte_level
        return backend, trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_frequency, **common)
    if algorithm == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = byte_level
        return backend, trainers.UnigramTrainer(vocab_size=vocab_size, **common)
    backend = Tokenizer(models.WordPiece(unk_token=END_OF_TEXT, continuing_subword_prefix=INSIDE_WORD))
    backend.pre_tokenizer = pre_tokenizers.Sequence([byte_level, pre_tokenizers.FixedLength(MAX_WORD_LENGTH)])
    # Each byte must also exist inside a word, or a text not seen in training could not be encoded. The trainer counts
    # "special" tokens as entries, so that the vocabulary has the size asked for.
    common["special_tokens"] = [END_OF_TEXT, *(INSIDE_WORD + byte for byte in alphabet)]
    options = {"vocab_size": vocab_size, "min_frequency": min_frequency, "continuing_subword_prefix": INSIDE_WORD}
    return backend, trainers.WordPieceTrainer(**options, **common)


def load_tokenizer(path: str | Path, revision: str | None = None) -> "PreTrainedTokenizerFast":
    """An existing tokenizer: a Hub id, a folder or a run. It gets a padding token if it has none (its end of text).

    Raises ModelError when it cannot be found or read.
    """
    from transformers import AutoTokenizer

    folder = expand_path(path)
    if (folder / "model" / "tokenizer.json").is_file():
        folder = folder / "model"
    absent = (
        f"'{path}' has no tokenizer. Put the files of the model's tokenizer there; those of a run's checkpoint are in the "
        "run's tokenizer/"
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder if folder.exists() else path, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        if folder.is_dir() and not any("token" in each.name or "vocab" in each.name for each in folder.iterdir()):
            raise ModelError(absent) from error
        raise ModelError(f"tokenizer '{path}' cannot be loaded: {first_line(error)}") from error
    # Of a GPT-2 without tokenizer files transformers makes an empty one, in which each text has no tokens.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(absent)
    if tokenizer.eos_token is None:
        raise ModelError(f"tokenizer '{path}' has no end-of-text token, so no text could be ended")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text; no special token is added, and text that spells one stays text.

    >>> tokenizer.decode(encode(tokenizer, ["a <|endoftext|> b"])[0])
    'a <|endoftext|> b'
    """
    return [encoding.ids for encoding in plain_backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]


def encode_prompts(tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt; those of an empty one are the token that begins a text, so that something follows it."""
    return [ids or [begin_token(tokenizer)] for ids in encode(tokenizer, prompts)]


def begin_token(tokenizer: "PreTrainedTokenizerFast") -> int:
    """The id that begins a text: the tokenizer's begin of text, else its end of text."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    token = begin if isinstance(begin, int) else end
    assert isinstance(token, int), "hflm loads no tokenizer without an end of text"
    return token


def plain_backend(tokenizer: "PreTrainedTokenizerFast") -> "Tokenizer":
    """The tokenizer's backend, set not to cut or pad, and to read text that spells a special token as text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def first_line(error: Exception) -> str:
    """The first line of a library's error message: what went wrong, without its advice about other things."""
    return str(error).strip().split("\n")[0][:300] or type(error).__name__


def _sorted_wordpiece(backend: "Tokenizer") -> "Tokenizer":
    """The tokenizer with sorted entries: the trainer numbers some in the order of a hash table, which differs each time."""
    from tokenizers import Regex, Tokenizer, decoders, models

    ordered = [END_OF_TEXT, *sorted(backend.get_vocab().keys() - {END_OF_TEXT})]
    vocab = {entry: number for number, entry in enumerate(ordered)}
    complete = Tokenizer(
        models.WordPiece(
            vocab=vocab,
            unk_token=END_OF_TEXT,
            continuing_subword_prefix=INSIDE_WORD,
            max_input_chars_per_word=4 * MAX_WORD_LENGTH,
        )
    )
    complete.add_special_tokens([END_OF_TEXT])
    complete.pre_tokenizer = backend.pre_tokenizer
    complete.decoder = decoders.Sequence([decoders.Replace(Regex(f"^{INSIDE_WORD}"), ""), decoders.ByteLevel()])
    return complete
