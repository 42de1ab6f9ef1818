"""Scores against the model's own loss and the benchmark's sums; what is shown of them, in a terminal and on a page."""

import io
import json
import math
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from hflm.core import ModelError, UserError
from hflm.evaluation import plots
from hflm.inference import LocalModel, attention_weights, score, score_text, score_view, text_windows
from hflm.models import save_pretrained
from hflm.preprocessing import encode, train_tokenizer

LONG = " ".join(f"The dog saw the key {number} times." for number in range(40))


@pytest.fixture
def model(tiny):
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.mul_(8)  # fresh weights make every token about equally likely
    return tiny.eval()


@pytest.mark.parametrize("text", ["The dog saw the key.", "a", "  \n\tThe", "schön 🙂 你好", "<|endoftext|>", LONG])
def test_the_sum_is_that_of_the_benchmark(model, tokenizer, text):
    found = score_text(model, tokenizer, text)
    windows = text_windows(tokenizer, text, 64)
    with torch.inference_mode():
        nats = sum(sum(each) for _, each in LocalModel(model, tokenizer).nats(windows))
    ids = encode(tokenizer, [text])[0]
    assert [token.id for token in found.tokens] == ids
    assert -found.log_p == pytest.approx(nats, rel=1e-5)
    assert found.log_p == pytest.approx(sum(math.log(token.p) for token in found.tokens))
    assert found.perplexity == pytest.approx(math.exp(nats / len(ids)), rel=1e-4)
    assert found.bytes == len(text.encode())
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


def test_the_sum_is_the_models_own_loss(model, tokenizer):
    text = "The cat saw the hat in the mill."
    ids = torch.tensor([[tokenizer.bos_token_id, *encode(tokenizer, [text])[0]]])
    with torch.inference_mode():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert score_text(model, tokenizer, text).log_p == pytest.approx(-loss * (ids.shape[1] - 1), rel=1e-5)


def test_a_token_has_its_rank_and_what_was_more_likely(model, tokenizer):
    found = score_text(model, tokenizer, "The dog saw the key.", positions=2)
    ids = [tokenizer.bos_token_id, *(token.id for token in found.tokens)]
    with torch.inference_mode():
        order = model(input_ids=torch.tensor([ids])).logits[0].argsort(descending=True).tolist()
    for place, token in enumerate(found.tokens):
        assert order[place][token.rank - 1] == token.id
        assert [text for text, _ in token.top] == [score._spelling(tokenizer, each) for each in order[place][:5]]
        ps = [p for _, p in token.top]
        assert ps == sorted(ps, reverse=True)
        assert token.rank > 5 or ps[token.rank - 1] == pytest.approx(token.p, rel=1e-5)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram", "wordpiece"])
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("é 🙂", ["\\xc3", "\\xa9", " ", "\\xf0", "\\x9f", "\\x99", "\\x82"]),
        ("The\n<|endoftext|>", ["The", "\n", "<|endoftext|>"]),
        ("\x1b[31m", ["\x1b[31m"]),
    ],
)
def test_what_tokens_spell(algorithm, text, pieces):
    tokenizer = train_tokenizer(["The dog saw the key in the barn."] * 3, algorithm, 300)
    found = score._spellings(tokenizer, text)
    assert len(found) == len(encode(tokenizer, [text])[0])
    assert "".join(found) == "".join(pieces)
    if text.isascii():
        return
    assert found == pieces


def test_bytes_of_a_sentencepiece_vocabulary():
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers import models as backends
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: number for number, piece in enumerate(["<unk>", "</s>", "▁", "a", "<0xC3>", "<0xA9>"])}
    backend = Tokenizer(backends.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert score._spellings(tokenizer, "a éa") == ["a", " ", "\\xc3", "\\xa9", "a"]


def test_a_padded_vocabulary(model, tokenizer):
    model.resize_token_embeddings(len(tokenizer) + 7, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] *= 100
    top = [text for token in score_text(model, tokenizer, "The dog").tokens for text, _ in token.top]
    assert any(text == f"(token {len(tokenizer) + 3})" for text in top)


BAD = [
    ("", UserError, "there is no text to score"),
    ("The \udcff", UserError, "the text is not UTF-8"),
]


@pytest.mark.parametrize(("text", "error", "words"), BAD)
def test_no_text(model, tokenizer, text, error, words):
    for asked in (score_text, attention_weights):
        with pytest.raises(error, match=words):
            asked(model, tokenizer, text)


def test_a_damaged_model(model, tokenizer):
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        score_text(model, tokenizer, "The dog")


def test_attention_rows_sum_to_one_and_never_look_ahead(model, tokenizer):
    weights, labels = attention_weights(model, tokenizer, "The dog saw 🙂.")
    size = len(labels)
    assert labels[0] == "(begin)" and "\\xf0" in labels
    assert weights.shape == (2, 2, size, size)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert (weights[..., np.triu(np.ones((size, size), dtype=bool), 1)] == 0).all()
    assert weights.std() > 0.01, "all the same would be no attention"


def test_too_much_text_for_a_picture(model, tokenizer):
    with pytest.raises(UserError, match="the text has 64 tokens, more than 63 cannot be drawn. Shorten it"):
        attention_weights(model, tokenizer, "?" * 64)
    assert attention_weights(model, tokenizer, "?" * 63)[0].shape[-1] == 64


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_grid_is_a_picture_of_any_size_and_any_label(size):
    labels = ["$\\frac$", " 中", "\n", "x" * 50, *"?" * 60][:size]
    weights = np.tril(np.ones((3, 2, size, size)))
    drawn = plots.attention(weights / weights.sum(-1, keepdims=True), labels)
    assert drawn.startswith(b"\x89PNG")


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and the strip's text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.strip, self.inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = self.inside or "strip" in dict(attributes).get("class", "")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "div"

    def handle_data(self, data):
        if self.inside:
            self.strip += data


def test_the_page_is_inert_whatever_the_text_and_the_model_are_called(model, tokenizer):
    text = "<script>alert(1)</script>\" onmouseover='x' {{ 7 * 7 }}\x1b\n<img src=http://h/>"
    written = score_view.page(score_text(model, tokenizer, text), "runs/<b>m", b"\x89PNG")
    page = Page(written)
    assert page.strip == text.replace("\n", "↵\n").replace("\x1b", "\\u001b")
    tags, attributes = {tag for tag, _ in page.tags}, {name for _, found in page.tags for name in found}
    assert not tags & {"script", "b", "a", "link", "iframe", "form", "object"}
    assert not {name for name in attributes if name.startswith("on") or name in ("href", "style")}
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["data:image/png;base64,iVBORw=="]
    titles = [attributes["title"] for _, attributes in page.tags if "title" in attributes]
    assert len(titles) == len(encode(tokenizer, [text])[0])
    assert all(title.count("\n") == 6 for title in titles), "a token, expected: and five tokens"


def shown(found, **options):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80, **options)
    score_view.show(found, console)
    return console.file.getvalue()


def test_the_terminal_shows_colours_only_where_there_are_some(model, tokenizer):
    found = score_text(model, tokenizer, "[bold] \x1b[31m\n")
    coloured = shown(found, force_terminal=True, color_system="truecolor")
    assert "\x1b[31m" not in coloured and "\\u001b" in coloured and "p at least 0.5" in coloured
    assert "\x1b[38;2;" in coloured
    plain = shown(found)
    assert plain.startswith("[bold] \\u001b[31m↵\n")
    assert "\x1b" not in plain and "p at least" not in plain
    assert f"{found.log_p:,.3f} nats" in plain


def test_the_table_of_a_long_text_holds_the_least_likely(model, tokenizer):
    found = score_text(model, tokenizer, LONG)
    plain = shown(found)
    assert f"The 60 least likely of {len(found.tokens)} tokens" in plain
    assert f" {min(token.log_p for token in found.tokens):.3f} " in plain
    assert f" {max(token.log_p for token in found.tokens):.3f} " not in plain


def hflm(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "hflm", *map(str, arguments)], capture_output=True, **options)


def test_the_command(model, tokenizer, tmp_path):
    save_pretrained(tmp_path / "run" / "model", model, tokenizer)
    files = "--html", tmp_path / "out" / "page.html", "--attention", tmp_path / "out" / "heads.png"
    done = hflm("score", tmp_path / "run", "-", "--json", *files, input="The dög.\n".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert "".join(token["text"] for token in found["tokens"]) == "The d\\xc3\\xb6g.\n"
    assert found["log_p"] == pytest.approx(score_text(model, tokenizer, "The dög.\n").log_p, rel=1e-5)
    assert (tmp_path / "out" / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    done = hflm("score", tmp_path / "run", "-", input=b"\xff")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"the text is not UTF-8\n")
