import doctest
import importlib
import json
import math
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from hflm.core import DataError, ModelError
from hflm.evaluation import metrics

ENGLISH = ["the cat sat on the mat .", "a dog runs", "there is nothing here", "", "hello world again my friend"]
ENGLISH_REFERENCES = [
    ("the cat sat on a mat .", "a cat is on the mat ."),
    ("the dog is running",),
    ("there was nothing here", "nothing is here", "here is nothing"),
    ("an empty prediction",),
    ("hello world again my friend",),
]
GERMAN = ["Zwei Männer sind draußen .", "Ein Hund läuft über die Straße.", "Nichts"]
GERMAN_REFERENCES = [
    ("Zwei junge Männer sind im Freien.",),
    ("Ein Hund läuft über eine Straße.",),
    ("Überhaupt nichts hier.",),
]
CHINESE = ["他在北京工作。", "今天天气很好", "我不知道"]
CHINESE_REFERENCES = [("他在北京上班。",), ("今天天气非常好。",), ("我们都不知道。",)]
JAPANESE = ["東京は大きいです。", "私は猫が好き"]
JAPANESE_REFERENCES = [("東京はとても大きいです。",), ("私は犬が好きです",)]

TEXTS = {
    "english": (ENGLISH, ENGLISH_REFERENCES),
    "german": (GERMAN, GERMAN_REFERENCES),
    "chinese": (CHINESE, CHINESE_REFERENCES),
    "japanese": (JAPANESE, JAPANESE_REFERENCES),
}


def streams(references):
    most = max(map(len, references))
    return [[refs[i] if i < len(refs) else None for refs in references] for i in range(most)]


@pytest.mark.parametrize(
    "language, tokenize, asian",
    [("english", "13a", False), ("german", "13a", False), ("chinese", "zh", True), ("japanese", "char", True)],
)
def test_translation_metrics_are_sacrebleus_own(language, tokenize, asian):
    import sacrebleu

    predictions, references = TEXTS[language]
    expected = {
        "bleu": sacrebleu.corpus_bleu(predictions, streams(references), tokenize=tokenize).score,
        "chrf": sacrebleu.corpus_chrf(predictions, streams(references)).score,
        "ter": sacrebleu.corpus_ter(predictions, streams(references), normalized=asian, asian_support=asian).score,
    }
    scores = metrics.score(["bleu", "chrf", "ter"], predictions, references, resamples=50)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected, abs=1e-9)
    assert f"tok:{tokenize}" in scores["bleu"].signature
    assert f"asian:{'yes' if asian else 'no'}" in scores["ter"].signature


def test_sacrebleus_signature_says_how_many_references():
    signature = metrics.score(["bleu"], ENGLISH, ENGLISH_REFERENCES, resamples=2)["bleu"].signature
    assert signature.startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    signature = metrics.score(["chrf"], GERMAN, GERMAN_REFERENCES, resamples=2)["chrf"].signature
    assert signature.startswith("nrefs:1|")


def test_tokenized_predictions_bring_no_advice(caplog, capsys):
    metrics.score(["bleu"], ["a b c ."] * 200, [("a b c .",)] * 200, resamples=2)
    assert not caplog.records
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "language, unicode", [("english", False), ("german", True), ("chinese", True), ("japanese", True)]
)
def test_rouge_is_rouge_scores_own(language, unicode):
    from rouge_score.rouge_scorer import RougeScorer

    from hflm.evaluation.metrics.summarization import TYPES, UnicodeTokenizer

    predictions, references = TEXTS[language]
    scorer = RougeScorer(TYPES, use_stemmer=True, tokenizer=UnicodeTokenizer() if unicode else None)
    each = [scorer.score_multi(refs, prediction) for prediction, refs in zip(predictions, references, strict=True)]
    expected = {name: 100 * sum(one[name].fmeasure for one in each) / len(each) for name in TYPES}
    scores = metrics.score(TYPES, predictions, references, resamples=50)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected, abs=1e-9)
    assert ("Unicode words" in scores["rouge1"].signature) is unicode


@pytest.mark.parametrize(
    "prediction, reference, rouge1",
    [
        ("Männer", "Männer", 100),
        ("Männer", "Mönner", 0),  # rouge-score's own tokenizer would see "nner" twice
        ("北京大学", "北京", 200 / 3),
        ("कि", "की", 0),  # words that differ in one vowel sign
        ("আমি খাই", "আমি যাই", 50),
        ("Cafe\u0301 noir", "café Noir", 100),
        ("Привет мир", "привет, мир!", 100),
    ],
)
def test_rouge_reads_words_of_every_script(prediction, reference, rouge1):
    assert metrics.score(["rouge1"], [prediction], [(reference,)])["rouge1"].value == pytest.approx(rouge1)


def test_a_few_foreign_letters_leave_english_to_the_default_tokenizer():
    references = [("the runner was running in the café",), *[("she sleeps in a very quiet house tonight",)] * 20]
    predictions = ["the runners run in the café"] + ["she slept"] * 20
    assert "Porter" in metrics.score(["rouge1"], predictions, references, resamples=2)["rouge1"].signature


LABELS = ["negative", "neutral", "positive"]


@pytest.mark.parametrize("allowed", [LABELS, ["positive", "negative", "neutral"], None])
def test_classification_metrics_are_scikit_learns_own(allowed):
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    draw = random.Random(3)
    references = draw.choices(LABELS, weights=[5, 1, 3], k=200)
    predictions = [word if draw.random() < 0.6 else draw.choice(LABELS) for word in references]
    expected = {
        "accuracy": accuracy_score(references, predictions),
        "macro_f1": f1_score(references, predictions, average="macro"),
        "mcc": matthews_corrcoef(references, predictions),
    }
    scores = metrics.score(list(expected), predictions, [(word,) for word in references], labels=allowed)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected, abs=1e-9)
    assert all(score.ci95[0] < score.value < score.ci95[1] for score in scores.values())


def test_a_prediction_outside_the_labels_is_wrong():
    from sklearn.metrics import f1_score, matthews_corrcoef

    references = ["a", "a", "b", "b", "b"]
    predictions = ["a", "maybe", "b", "", "a"]
    other = ["a", "other", "b", "other", "a"]
    scores = metrics.score(["accuracy", "macro_f1", "mcc"], predictions, [(r,) for r in references], labels=["a", "b"])
    assert scores["accuracy"].value == pytest.approx(2 / 5)
    assert scores["macro_f1"].value == pytest.approx(f1_score(references, other, labels=["a", "b"], average="macro"))
    assert scores["mcc"].value == pytest.approx(matthews_corrcoef(references, other))


@pytest.mark.parametrize(
    "predictions, references, mcc, macro_f1",
    [
        (["a", "a"], ["a", "a"], 0, 1),  # MCC is undefined with one class: scikit-learn says 0
        (["b", "b"], ["a", "a"], 0, 0),
        (["a", "a"], ["a", "b"], 0, (2 / 3) / 2),
    ],
)
def test_undefined_classification_metrics_are_quiet(predictions, references, mcc, macro_f1):
    scores = metrics.score(["mcc", "macro_f1"], predictions, [(r,) for r in references], labels=["a", "b", "unused"])
    assert (scores["mcc"].value, scores["macro_f1"].value) == pytest.approx((mcc, macro_f1))
    assert all(math.isfinite(bound) for score in scores.values() for bound in score.ci95)


@pytest.mark.parametrize(
    "prediction, references, exact, f1",
    [
        ("Denver Broncos", ("Denver Broncos",), 100, 100),
        ("the Denver Broncos.", ("Denver Broncos",), 100, 100),
        ("Broncos", ("The Denver Broncos", "Broncos of Denver"), 0, 200 / 3),
        ("Broncos", ("The Denver Broncos", "broncos!"), 100, 100),
        ("in 1066", ("1066",), 0, 200 / 3),
        ("1066", ("1067",), 0, 0),
        ("", ("1066",), 0, 0),
        ("Saint-Denis", ("Saint Denis",), 0, 0),  # punctuation goes without leaving a space
        ("an apple", ("apple",), 100, 100),
        ("U.S.", ("US",), 100, 100),
        ("“US”", ("US",), 0, 0),  # the official script removes ASCII punctuation only
        ("a b a b", ("a b",), 0, 200 / 3),  # "a" is an article; "b b" against "b"
        ("the", ("a",), 100, 100),
        # unanswerable
        ("", ("",), 100, 100),
        ("unanswerable", ("",), 100, 100),
        (" Unanswerable.", ("",), 100, 100),
        ("Paris", ("",), 0, 0),
        ("unanswerable", ("Paris",), 0, 0),
        # Chinese, by characters and without its punctuation
        ("1791年。", ("1791年",), 100, 100),
        ("《红楼梦》", ("红楼梦",), 100, 100),
        ("曹雪芹写的", ("曹雪芹",), 0, 75),
        ("北京 大学", ("北京大学",), 100, 100),
        ("Männer", ("Manner",), 0, 0),
    ],
)
def test_squad(prediction, references, exact, f1):
    scores = metrics.score(["exact_match", "f1"], [prediction], [references])
    assert (scores["exact_match"].value, scores["f1"].value) == pytest.approx((exact, f1), abs=1e-9)


def test_english_normalisation_is_squads_official_one():
    import re
    import string

    def official(text):  # from SQuAD's evaluate-v1.1.py, step by step
        text = "".join(character for character in text.lower() if character not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    from hflm.evaluation.metrics.qa import normalise

    draw = random.Random(0)
    letters = "aA tThe.n-'\"é“”–—ß\tи0 $%_"
    for _ in range(2000):
        text = "".join(draw.choices(letters, k=12))
        assert normalise(text, "en") == official(text)


@pytest.mark.parametrize(
    "texts, tokenizer",
    [
        (["Two men are outside."], "13a"),
        (["Zwei Männer"], "13a"),
        (["Привет, мир"], "13a"),
        (["他在北京工作。"], "zh"),
        (["他在GPT公司里工作吗"], "zh"),
        (["他在优の良品店里买了很多很多好吃的东西，然后坐车回家了。"], "zh"),
        (["東京はとても大きいです。"], "char"),
        (["カタカナ"], "char"),
        (["안녕하세요 세계"], "char"),
        (["The word 北京 means Beijing"], "13a"),
        (["123 ..."], "13a"),
        (["ภาษาไทยง่ายมาก"], "char"),
        (["ຂ້ອຍມັກກິນເຂົ້າ"], "char"),
        (["ខ្ញុំចូលចិត្តបាយ"], "char"),
        (["ကျွန်တော်ထမင်းကြိုက်တယ်"], "char"),
        (["བོད་ཀྱི་སྐད་ཡིག"], "char"),
        (["मैं घर जाता हूँ।"], "13a"),
        ([""], "13a"),
    ],
)
def test_bleu_tokenizer_follows_the_script(texts, tokenizer):
    from hflm.core import bleu_tokenizer

    assert bleu_tokenizer(texts) == tokenizer


def test_language_modeling_is_weighted_by_tokens_and_bytes():
    nats, tokens, size = np.array([10.0, 100.0]), np.array([5, 20]), np.array([20, 130])
    scores = metrics.language_modeling(nats, tokens, size, resamples=500)
    assert scores["perplexity"].value == pytest.approx(math.exp(110 / 25))
    assert scores["bits_per_byte"].value == pytest.approx(110 / math.log(2) / 150)
    assert scores["perplexity"].ci95 == pytest.approx((math.exp(2), math.exp(5)))


@pytest.mark.parametrize(
    "nats, error, message",
    [([], DataError, "no text"), ([math.nan], ModelError, "not finite"), ([math.inf], ModelError, "not finite")],
)
def test_language_modeling_without_a_likelihood(nats, error, message):
    with pytest.raises(error, match=message):
        metrics.language_modeling(nats, [1] * len(nats), [1] * len(nats))


def test_a_hopeless_model_still_has_a_finite_perplexity():
    assert math.isfinite(metrics.language_modeling([1e6], [1], [1])["perplexity"].value)


def nats(*shares):
    """Log-likelihoods whose softmax gives these shares, off by a constant as a model's are."""
    return [math.log(share) - 3 for share in shares]


@pytest.mark.parametrize(
    "shares, right, bins, error, seen",
    [
        # sure and right
        ([(1 - 1e-12, 1e-12)] * 4, [1, 1, 1, 1], 15, 0, [(4, 1, 1)]),
        # sure and wrong
        ([(1 - 1e-12, 1e-12)] * 4, [0, 0, 0, 0], 15, 1, [(4, 1, 0)]),
        # 0.8 sure, and right 4 times in 5
        ([(0.1, 0.1, 0.8)] * 5, [1, 1, 0, 1, 1], 10, 0, [(5, 0.8, 0.8)]),
        # two bins of five: (0.4, 0.6] holds 0.6 with accuracy 1/2; (0.8, 1] holds 0.9 and 0.95 with accuracy 1
        ([(0.6, 0.4), (0.4, 0.6), (0.9, 0.1), (0.05, 0.95)], [1, 0, 1, 1], 5, 0.0875, [(2, 0.6, 0.5), (2, 0.925, 1)]),
        # one bin: |3/4 - 0.7|
        ([(0.6, 0.4), (0.4, 0.6), (0.7, 0.3), (0.1, 0.9)], [1, 0, 1, 1], 1, 0.05, [(4, 0.7, 0.75)]),
        # three labels, none likelier than another
        ([(1 / 3, 1 / 3, 1 / 3)] * 3, [1, 0, 0], 2, 0, [(3, 1 / 3, 1 / 3)]),
    ],
)
def test_calibration(shares, right, bins, error, seen):
    from hflm.evaluation.metrics.calibration import calibration

    # 0.6 is an edge of five bins: hold it inside, whatever the rounding.
    found = calibration([[value * (1 - 1e-9) for value in nats(*each)] for each in shares], right, bins)
    assert found.expected_calibration_error == pytest.approx(error, abs=1e-8)
    assert [(each.count, each.confidence, each.accuracy) for each in found.bins] == [
        (count, pytest.approx(confidence, abs=1e-8), pytest.approx(accuracy)) for count, confidence, accuracy in seen
    ]
    assert all(each.low < each.confidence <= each.high and isinstance(each.count, int) for each in found.bins)


@pytest.mark.parametrize(
    "likelihoods, error, message",
    [([], DataError, "no answers"), ([[0, math.nan]], ModelError, "not finite"), ([[-math.inf, 0]], ModelError, "not")],
)
def test_calibration_without_likelihoods(likelihoods, error, message):
    from hflm.evaluation.metrics.calibration import calibration

    with pytest.raises(error, match=message):
        calibration(likelihoods, [True] * len(likelihoods))


def test_compute_and_combine_work_without_a_network_or_a_cache_folder(tmp_path):
    script = f"""
import json, evaluate
from hflm.evaluation.metrics.classification import Accuracy, MacroF1, Mcc
from hflm.evaluation.metrics.likelihood import LanguageModeling
from hflm.evaluation.metrics.qa import Squad
from hflm.evaluation.metrics.summarization import Rouge
from hflm.evaluation.metrics.translation import Bleu, ChrF, Ter
predictions, references = {ENGLISH!r}, {list(map(list, ENGLISH_REFERENCES))!r}
found = evaluate.combine([Bleu(), ChrF(), Ter(), Rouge(), Squad()])
found = found.compute(predictions=predictions, references=references)
words = evaluate.combine([Accuracy(labels=["a", "b"]), MacroF1(), Mcc()])
found |= words.compute(predictions=["a", "b", "b"], references=["a", "a", "b"])
found |= LanguageModeling().compute(nats=[1.0, 2.0], tokens=[2, 3], bytes=[4, 5])
one = Bleu()
for prediction, refs in zip(predictions, references):
    one.add(prediction=prediction, reference=refs)
assert one.compute()["bleu"] == found["bleu"]
for empty in ({{}}, {{"predictions": [], "references": []}}):
    try:
        Accuracy().compute(**empty)
    except Exception as error:
        assert type(error).__name__ == "DataError", error
    else:
        raise AssertionError("nothing was scored")
print(json.dumps(found))
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = ["bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match", "f1"]
    scores = metrics.score(names, ENGLISH, ENGLISH_REFERENCES, resamples=2)
    assert {name: found[name] for name in names} == {name: scores[name].value for name in names}
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["perplexity"] == pytest.approx(math.exp(3 / 5))
    assert not (tmp_path / "hf" / "metrics").exists()


def test_per_example_values():
    from sacrebleu import sentence_bleu

    names = ["exact_match", "bleu", "rougeL", "accuracy"]
    values = metrics.measure(names, ENGLISH, ENGLISH_REFERENCES).each()
    assert list(values) == names
    expected = [
        sentence_bleu(prediction, list(refs), use_effective_order=True).score
        for prediction, refs in zip(ENGLISH, ENGLISH_REFERENCES, strict=True)
    ]
    assert values["bleu"] == pytest.approx(expected, abs=1e-9)
    assert values["accuracy"] == [0, 0, 0, 0, 1]
    assert sum(values["rougeL"]) / 5 == pytest.approx(
        metrics.score(["rougeL"], ENGLISH, ENGLISH_REFERENCES)["rougeL"].value
    )


@pytest.mark.parametrize("names", [["bleu", "chrf", "ter"], ["rouge1", "f1", "exact_match"], ["accuracy", "mcc"]])
@pytest.mark.parametrize(
    "predictions, references", [(["one word"], [("two words",)]), (["same"] * 7, [("same",)] * 7), ([""], [("x",)])]
)
def test_degenerate_samples_have_an_interval_of_no_width(names, predictions, references):
    for score in metrics.score(names, predictions, references, resamples=40).values():
        assert score.ci95 == (score.value, score.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.score(["bleu"], [], []),
        lambda: metrics.measure(["accuracy"], [], []),
        lambda: metrics.score(["accuracy"], ["a"], [("c",)], labels=["a", "b"]),
        lambda: metrics.score(["blue"], ["a"], [("a",)]),
        lambda: metrics.measure([], [], []),
    ],
)
def test_what_cannot_be_scored_is_a_data_error(call):
    with pytest.raises(DataError):
        call()


def test_resampled_sums_are_sums_of_whole_resamples():
    statistics = np.column_stack([np.ones(50), np.arange(50.0)])
    sums = metrics.resampled_sums(statistics, 300, seed=1)
    assert sums.shape == (300, 2)
    assert (sums[:, 0] == 50).all()
    assert sums[:, 1].std() == pytest.approx(np.sqrt(50) * np.arange(50).std(), rel=0.15)
    assert (sums == metrics.resampled_sums(statistics, 300, seed=1)).all()
    assert (sums != metrics.resampled_sums(statistics, 300, seed=2)).any()


def test_chunks_of_the_bootstrap_do_not_change_it():
    statistics = np.arange(60.0).reshape(30, 2)
    chunked = metrics.resampled_sums(statistics, 100, seed=5, max_weights=30 * 7)
    assert (chunked == metrics.resampled_sums(statistics, 100, seed=5)).all()


def test_the_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(0)
    covered = Counter()
    for trial in range(300):
        right = generator.binomial(1, 0.8, size=400).astype(float)
        means = metrics.resampled_sums(right[:, None], 400, seed=trial)[:, 0] / 400
        low, high = metrics.interval(means, right.mean())
        covered[bool(low <= 0.8 <= high)] += 1
    assert 0.91 <= covered[True] / 300 <= 0.98


@pytest.mark.parametrize("module", ["core.scripts", "evaluation.metrics.qa"])
def test_the_documentation_is_right(module):
    found = doctest.testmod(importlib.import_module(f"hflm.{module}"))
    assert found.attempted and not found.failed


def test_importing_the_package_is_light():
    script = (
        "import sys, hflm.evaluation.metrics, hflm.tasks\n"
        "print(sorted({'torch', 'evaluate', 'datasets'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )


def tokens_by_sacrebleu(tokenize, prediction, reference):
    import sacrebleu

    return sacrebleu.corpus_bleu([prediction], [[reference]], tokenize=tokenize).score


# A text, and the same with one word changed: (prediction, reference, sacreBLEU's tokenizer, ROUGE-1 of the two)
SCRIPTS = {
    "Hindi": ("मैं रोज़ बाज़ार जाता हूँ ।", "मैं रोज़ स्कूल जाता हूँ ।", "13a", 80),
    "Hindi, one mark": ("यह बात कि अब सच है", "यह बात की अब सच है", "13a", 500 / 6),
    "Bengali": ("আমি প্রতিদিন বাজারে যাই ।", "আমি প্রতিদিন স্কুলে যাই ।", "13a", 75),
    "Tamil": ("நான் தினமும் சந்தைக்கு செல்கிறேன் .", "நான் தினமும் பள்ளிக்கு செல்கிறேன் .", "13a", 75),
    "Thai": ("ฉันไปตลาดทุกวัน", "ฉันไปโรงเรียนทุกวัน", "char", None),
    "Khmer": ("ខ្ញុំទៅផ្សាររាល់ថ្ងៃ", "ខ្ញុំទៅសាលារាល់ថ្ងៃ", "char", None),
    "Lao": ("ຂ້ອຍໄປຕະຫຼາດທຸກມື້", "ຂ້ອຍໄປໂຮງຮຽນທຸກມື້", "char", None),
    "Burmese": ("ကျွန်တော်နေ့တိုင်းဈေးသွားတယ်", "ကျွန်တော်နေ့တိုင်းကျောင်းသွားတယ်", "char", None),
    "Javanese": ("ꦲꦏꦸꦩꦁꦏꦠ꧀ꦱꦧꦼꦤ꧀ꦢꦶꦤ", "ꦲꦏꦸꦩꦔꦤ꧀ꦱꦧꦼꦤ꧀ꦢꦶꦤ", "char", None),
    "Tibetan": ("ང་ཉིན་ལྟར་ཁྲོམ་ལ་འགྲོ", "ང་ཉིན་ལྟར་སློབ་གྲྭ་ལ་འགྲོ", "char", 1000 / 13),
    "Arabic": ("أذهب إلى السوق كل يوم", "أذهب إلى المدرسة كل يوم", "13a", 80),
    "Vietnamese": ("Tôi đi chợ mỗi ngày", "Tôi đi học mỗi ngày", "13a", 80),
    "Chinese": ("我每天去市场", "我每天去学校", "zh", 400 / 6),
    "Japanese": ("わたしは毎日いちばへ行く", "わたしは毎日がっこうへ行く", "char", None),
    "Korean": ("나는 매일 시장에 간다", "나는 매일 학교에 간다", "char", 700 / 9),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_scores_between_nothing_and_all(name):
    """One changed word of a text costs a part of each score; BLEU is sacreBLEU's with the tokenizer of the script."""
    import unicodedata

    prediction, reference, tokenize, rouge1 = SCRIPTS[name]
    names = ["bleu", "chrf", "ter", "rouge1", "rougeL", "f1", "exact_match"]
    found = metrics.score(names, [prediction], [(reference,)], resamples=2)
    values = {metric: score.value for metric, score in found.items()}
    composed = [unicodedata.normalize("NFC", text) for text in (prediction, reference)]
    assert values["bleu"] == pytest.approx(tokens_by_sacrebleu(tokenize, *composed))
    assert f"|tok:{tokenize}|" in found["bleu"].signature and found["bleu"].signature.endswith("|norm:NFC")
    assert 0 < values["bleu"] < 100 and 0 < values["chrf"] < 100 and 0 < values["ter"] < 100
    assert 0 < values["rouge1"] < 100 and 0 < values["f1"] < 100 and values["exact_match"] == 0
    assert rouge1 is None or values["rouge1"] == pytest.approx(rouge1)
    assert values["f1"] == pytest.approx(values["rouge1"]), "the same words, where no punctuation is counted"
    decomposed = unicodedata.normalize("NFD", reference)
    same = metrics.score(names, [decomposed], [(reference,)], resamples=2)
    assert {metric: score.value for metric, score in same.items()} == pytest.approx(
        {**dict.fromkeys(names, 100), "ter": 0}
    )


@pytest.mark.parametrize(
    "language, prediction, reference, exact, f1",
    [
        ("de", "das Haus", "Haus", 100, 100),
        ("de", "„Das Haus“", "ein Haus!", 100, 100),
        (None, "„Häuser“", "Häuser", 100, 100),
        (None, "die Häuser", "Häuser", 0, 200 / 3),
        ("es", "¿La casa?", "una casa", 100, 100),
        ("vi", "cái nhà", "nhà", 100, 100),
        (None, "cái nhà", "nhà", 0, 200 / 3),
        ("hi", "दिल्ली।", "दिल्ली", 100, 100),
        (None, "नई दिल्ली।", "दिल्ली", 0, 200 / 3),
        ("ar", "المدينة،", "مدينة", 100, 100),
        (None, "المدينة،", "مدينة", 0, 0),
        (None, "مدينة؟", "مدينة", 100, 100),
        ("zh", "《红楼梦》", "红楼梦", 100, 100),
        ("zh", "在GPT里", "GPT", 0, 50),
        ("zh", "红 楼 梦", "红楼梦", 100, 100),  # MLQA compares the characters, as words with single spaces
        ("zh", "在 GPT 4 里", "在GPT 4里", 100, 100),
        ("zh", "在 GPT 4 里", "在GPT4里", 0, 4 / 7 * 100),
        (None, "서울 시", "서울시", 0, 100),  # KorQuAD's exact match keeps the spaces of Korean
        (None, "กรุงเทพฯ", "กรุงเทพ", 0, 1200 / 13),
        ("en", "The “US”", "US", 0, 0),  # SQuAD's script removes ASCII punctuation only
        ("en", "the US.", "US", 100, 100),
    ],
)
def test_answers_of_other_languages_follow_mlqas_rules(language, prediction, reference, exact, f1):
    scores = metrics.score(["exact_match", "f1"], [prediction], [(reference,)], language=language, resamples=2)
    assert (scores["exact_match"].value, scores["f1"].value) == pytest.approx((exact, f1))
    if language not in (None, "en"):
        assert f"({language})" in scores["f1"].signature


def test_a_letter_of_a_script_keeps_its_marks():
    from hflm.core import split_words

    assert split_words("कि की") == ["कि", "की"]
    assert split_words("ที่นี่") == ["ที่", "นี่"]
    assert split_words("می‌خواهم") == ["می‌خواهم"]
    assert split_words("Cafe\u0301") == ["café"]


def test_a_metric_imports_its_own_libraries_only():
    script = (
        "import sys\n"
        "from hflm.evaluation import metrics\n"
        "metrics.measure(['accuracy'], ['a'], [('a',)])\n"
        "metrics.measure(['f1'], ['a'], [('a',)])\n"
        "print(sorted({'nltk', 'rouge_score', 'sacrebleu'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
