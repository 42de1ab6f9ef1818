"""Train a tokenizer from text, or take an existing one.

All three algorithms work on bytes (GPT-2's byte alphabet), so that every Unicode text comes back exactly.
"""

from hflm.core import DataError, ModelError, expand_path

END_OF_TEXT = "<|endoftext|>"
# WordPiece marks a piece inside a word by a prefix. "##" may stand in the text itself; this character is outside the
# byte alphabet, so it cannot.
INSIDE_WORD = "▁"
# WordPiece gives up on a longer "word" (a line of Chinese is one), and BPE and Unigram are slow on it.
LONGEST_WORD = 64


def train(texts, algorithm="bpe", vocab_size=8192, min_frequency=2):
    """Train a byte-level tokenizer on an iterable of strings: a transformers tokenizer of at most `vocab_size` entries.

    The only special token is <|endoftext|>, which begins, ends and pads, as GPT-2's does.
    Raises DataError when there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False)
    common = {"special_tokens": [END_OF_TEXT], "show_progress": False, "initial_alphabet": alphabet}
    if algorithm == "bpe":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = bytelevel
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_frequency, **common)
    elif algorithm == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = bytelevel
        trainer = trainers.UnigramTrainer(vocab_size=vocab_size, **common)
    else:
        backend = Tokenizer(models.WordPiece(unk_token=END_OF_TEXT, continuing_subword_prefix=INSIDE_WORD))
        backend.pre_tokenizer = pre_tokenizers.Sequence([bytelevel, pre_tokenizers.FixedLength(LONGEST_WORD)])
        trainer = trainers.WordPieceTrainer(
            vocab_size=max(vocab_size - len(alphabet), len(alphabet) + 1),
            min_frequency=min_frequency,
            continuing_subword_prefix=INSIDE_WORD,
            **common,
        )
    read = 0

    def counted():
        nonlocal read
        for text in texts:
            read += 1
            yield text

    backend.train_from_iterator(counted(), trainer)
    if not read:
        raise DataError("tokenizer.train: there is no text to train on")
    backend.decoder = decoders.ByteLevel()
    if algorithm == "wordpiece":
        backend = _complete_wordpiece(backend, alphabet)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load(path, revision=None):
    """An existing tokenizer: a Hub id, a folder or a run. It gets a padding token if it has none (its end of text).

    Raises ModelError when it cannot be found or read.
    """
    from transformers import AutoTokenizer

    place = expand_path(path)
    if (place / "model" / "tokenizer.json").is_file():
        place = place / "model"
    try:
        tokenizer = AutoTokenizer.from_pretrained(place if place.exists() else path, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"tokenizer '{path}' cannot be loaded: {first_line(error)}") from error
    if tokenizer.eos_token is None:
        raise ModelError(f"tokenizer '{path}' has no end-of-text token, so no text could be ended")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode(tokenizer, texts):
    """Token ids of each text, as lists; no special token is added, and text that spells one stays text.

    >>> tokenizer.decode(encode(tokenizer, ["a <|endoftext|> b"])[0])
    'a <|endoftext|> b'
    """
    return [encoding.ids for encoding in plain(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]


def plain(tokenizer):
    """The tokenizer's backend, set to cut and pad nothing, and to read text that spells a special token as text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def first_line(error):
    """The first line of a library's error message: what went wrong, without its advice about other things."""
    return str(error).strip().split("\n")[0][:300] or type(error).__name__


def _complete_wordpiece(backend, alphabet):
    """Every byte must exist inside a word too, or a text not seen in training could not be written.

    The trainer numbers some entries in the order of a hash table, another one each time: here they stand by their text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models

    entries = backend.get_vocab().keys() | {INSIDE_WORD + byte for byte in alphabet}
    ordered = [END_OF_TEXT, *sorted(entries - {END_OF_TEXT})]
    vocab = {entry: number for number, entry in enumerate(ordered)}
    complete = Tokenizer(
        models.WordPiece(
            vocab=vocab,
            unk_token=END_OF_TEXT,
            continuing_subword_prefix=INSIDE_WORD,
            max_input_chars_per_word=4 * LONGEST_WORD,
        )
    )
    complete.add_special_tokens([END_OF_TEXT])
    complete.pre_tokenizer = backend.pre_tokenizer
    complete.decoder = decoders.Sequence([decoders.Replace(Regex(f"^{INSIDE_WORD}"), ""), decoders.ByteLevel()])
    return complete
