"""BERTScore with a tiny random encoder, against the package's own scorer."""

import pytest

from hflm.core import MissingExtra, ModelError
from hflm.evaluation import metrics

pytest.importorskip("bert_score")

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on a mat dog ran".split()  # noqa: SIM905
PREDICTIONS = ["the cat sat", "a dog ran", "the mat", "on the mat"]
REFERENCES = [("the cat sat",), ("the dog ran", "a cat sat on a mat"), ("a dog",), ("the cat", "on a mat", "mat")]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("encoders") / "tiny")


def saved(folder, **config):
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, initializer_range=0.5, **{**sizes, **config})
    ).save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def values(encoder, predictions=PREDICTIONS, references=REFERENCES):
    return metrics.measure(["bertscore"], predictions, references, bertscore_model=str(encoder)).each()["bertscore"]


def test_it_is_the_packages_own_score(encoder):
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=str(encoder), num_layers=3, device="cpu")
    scorer._tokenizer.model_max_length = 32
    expected = scorer.score(PREDICTIONS, [list(refs) for refs in REFERENCES])[2].tolist()
    found = values(encoder)
    assert found == pytest.approx([100 * each for each in expected], abs=1e-4)
    assert found[0] == pytest.approx(100, abs=1e-3) and len({round(each, 3) for each in found}) == 4
    score = metrics.score(["bertscore", "chrf"], PREDICTIONS, REFERENCES, bertscore_model=str(encoder))["bertscore"]
    assert score.value == pytest.approx(sum(found) / 4)
    assert score.ci95[0] < score.value < score.ci95[1]


def test_empty_and_long_texts(encoder):
    predictions = ["", "cat", " \n", "the cat " * 100, ""]
    references = [("cat",), ("",), ("",), ("the cat " * 100,), ("", "the")]
    assert values(encoder, predictions, references) == pytest.approx([0, 0, 0, 100, 0], abs=1e-3)
    assert values(encoder, [""], [("",)]) == [0]


def test_the_signature_names_model_and_layer_but_no_folder(encoder, tmp_path):
    known = saved(tmp_path / "distilbert-base-uncased", num_hidden_layers=7)  # the authors tuned layer 5
    signatures = [
        metrics.score(["bertscore"], ["a"], [("a",)], bertscore_model=str(each))["bertscore"].signature
        for each in (encoder, known)
    ]
    assert ", F, tiny " in signatures[0] and ", layer 3, no idf, unscaled" in signatures[0]
    assert ", F, distilbert-base-uncased " in signatures[1] and ", layer 5, " in signatures[1]
    assert str(encoder.parent) not in signatures[0]


def test_roberta_reads_its_first_word_as_a_word(tmp_path):
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"thecasdog"]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    RobertaTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = RobertaModel(RobertaConfig(vocab_size=len(vocab), max_position_embeddings=34, pad_token_id=1, **sizes))
    model.save_pretrained(tmp_path)
    from hflm.evaluation.metrics.bertscore import _loaded

    _, tokenizer, _ = _loaded(str(tmp_path))
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("the")) == ["<s>", "Ġ", "t", "h", "e", "</s>"]
    assert values(tmp_path, ["the " * 50], [("the " * 50,)]) == pytest.approx([100], abs=1e-3)


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "is not a folder with a model"),
        ({"config.json": "{}"}, "bertscore_model: "),
        ({"config.json": '{"model_type": "bert"}', "pytorch_model.bin": "x"}, "bertscore_model: "),
    ],
)
def test_a_folder_without_an_encoder(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        values(tmp_path)


def test_a_hub_id_is_no_folder_and_nothing_is_fetched():
    with pytest.raises(ModelError, match="roberta-large is not a folder with a model"):
        values("roberta-large")


def test_the_extra_is_named_before_training(encoder, monkeypatch):
    from hflm.evaluation.metrics import bertscore
    from hflm.pipeline.reading import check_metrics
    from hflm.tasks import Summarization

    task = Summarization(kind="summarization", data={"path": "x"}, metrics=["bertscore"], bertscore_model=str(encoder))
    check_metrics(task)
    monkeypatch.setattr(bertscore.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="--extra bertscore"):
        check_metrics(task)
