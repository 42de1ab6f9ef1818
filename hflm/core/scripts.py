"""Words of any script, and a table of the scripts whose words are not separated by spaces or are scored in other units.

| script | word of ROUGE and QA's F1 | BLEU and TER | n-grams of cleaning |
| --- | --- | --- | --- |
| Han | character | sacreBLEU's `zh` | character |
| kana | character | `char` | character |
| Hangul | syllable | `char` | word between spaces |
| Thai, Lao, Khmer, Myanmar, Tai, Javanese, Balinese | letter with its marks | `char` | character |
| Tibetan | syllable (between two tsheg) | `char` | syllable |
| all others | letters with their marks | `13a` | word |

Nothing of it needs a dictionary, a model or a network, as segmentation into words of these scripts would.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """`characters` is the inside of a character class; `unit` what is a word, "letter" with its marks or "syllable".

    `has_separators`: words or syllables are separated in writing. `bleu` is sacreBLEU's tokenizer.
    """

    name: str
    characters: str
    unit: str
    has_separators: bool
    bleu: str


SCRIPTS = (
    Script(
        "Han",
        "\u2e80-\u2fdf\u3005\u3007\u31c0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
        "letter",
        False,
        "zh",
    ),
    Script("kana", "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f", "letter", False, "char"),
    Script("Hangul", "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af", "letter", True, "char"),
    Script("Thai", "\u0e00-\u0e7f", "letter", False, "char"),
    Script("Lao", "\u0e80-\u0eff", "letter", False, "char"),
    Script("Tibetan", "\u0f00-\u0fff", "syllable", True, "char"),
    Script("Myanmar", "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f", "letter", False, "char"),
    Script("Khmer", "\u1780-\u17ff\u19e0-\u19ff", "letter", False, "char"),
    Script("Tai", "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf", "letter", False, "char"),
    Script("Javanese, Balinese", "\ua980-\ua9df\u1b00-\u1b7f", "letter", False, "char"),
)
UNSEPARATED = "".join(script.characters for script in SCRIPTS if not script.has_separators)
CJK = ("Han", "kana", "Hangul")
ENGLISH_MAX_OTHER_LETTERS = 0.005  # English has up to 0.1 % of letters outside a-z (names, "café"), German 2 %


def split_words(text: str) -> list[str]:
    """Lower-cased words of any script in NFC: letters with their combining marks, or the units of the table above.

    >>> split_words("Die Männer sehen 北京。")
    ['die', 'männer', 'sehen', '北', '京']
    >>> split_words("हिन्दी की"), split_words("ภาษาไทย")
    (['हिन्दी', 'की'], ['ภ', 'า', 'ษ', 'า', 'ไ', 'ท', 'ย'])
    """
    return _word_patterns()[1].findall(separate_units(nfc(text.lower())))


def separate_units(text: str) -> str:
    """Spaces around the units of scripts that are scored by letters.

    >>> separate_units("在GPT里").split()
    ['在', 'GPT', '里']
    """
    return _word_patterns()[0].sub(r" \g<0> ", text)


def bleu_tokenizer(texts: Iterable[str]) -> str:
    """sacreBLEU's tokenizer for references such as these: that of the script of most letters, "13a" by default.

    Of Chinese and Japanese, "char" where more than a twentieth is kana or Hangul: a stray kana (の in a shop's name)
    does not make Chinese Japanese.

    >>> bleu_tokenizer(["Hallo."]), bleu_tokenizer(["你好。"]), bleu_tokenizer(["東京は広い。"]), bleu_tokenizer(["ไทย"])
    ('13a', 'zh', 'char', 'char')
    """
    letters, counts = 0, dict.fromkeys((script.name for script in SCRIPTS), 0)
    for text in texts:
        letters += sum(map(str.isalpha, text))
        for script in SCRIPTS:
            counts[script.name] += len(_characters(script).findall(text))
    if 2 * sum(counts.values()) <= letters or not letters:
        return "13a"
    others = sum(counts.values()) - counts["Han"]
    return "char" if 20 * others > sum(counts.values()) else "zh"


def is_cjk(texts: Iterable[str]) -> bool:
    """Whether most characters of the table's scripts in these texts are Chinese, Japanese or Korean.

    >>> is_cjk(["東京"]), is_cjk(["ไทย"])
    (True, False)
    """
    counts = {True: 0, False: 0}
    for text in texts:
        for script in SCRIPTS:
            counts[script.name in CJK] += len(_characters(script).findall(text))
    return counts[True] > counts[False]


def is_english(texts: Iterable[str]) -> bool:
    """Whether nearly all letters are a to z, so that the rules made for English apply.

    >>> is_english(["The runner in the café"] + ["was late again"] * 30), is_english(["Die Männer"])
    (True, False)
    """
    letters = [character for text in texts for character in text if character.isalpha()]
    return sum(not character.isascii() for character in letters) < ENGLISH_MAX_OTHER_LETTERS * max(len(letters), 1)


def nfc(text: str) -> str:
    """Characters with marks in one form: composed where Unicode has a composed one.

    >>> len("ế"), len("e\u0302\u0301"), len(nfc("e\u0302\u0301"))
    (1, 3, 1)
    """
    return unicodedata.normalize("NFC", text)


@functools.cache
def _characters(script: Script) -> re.Pattern[str]:
    return re.compile(f"[{script.characters}]")


@functools.cache
def _word_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(a unit of a script that is scored by letters, a word where such units are apart)"""
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code))[0] == "M")
    marks += "\U000e0100-\U000e01ef"
    letters = "".join(script.characters for script in SCRIPTS if script.unit == "letter")
    # The joiners belong to words of Indic scripts and of Persian (Unicode, annex 29).
    return re.compile(f"[{letters}][{marks}]*"), re.compile(rf"\w[\w{marks}\u200c\u200d]*")
