"""Scripts of writing: words of any script, Chinese, Japanese and Korean, and sacreBLEU's tokenizer for a text."""

import re
from collections.abc import Iterable

HAN = "\u2e80-\u2fdf\u3005\u3007\u31c0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
CJK_CHARACTER = re.compile(f"[{HAN}{KANA}{HANGUL}]")
SCRIPTS = tuple(re.compile(f"[{script}]") for script in (HAN, KANA, HANGUL))


def separate_cjk(text: str) -> str:
    """Each CJK character becomes a token of its own.

    >>> separate_cjk("在GPT里").split()
    ['在', 'GPT', '里']
    """
    return CJK_CHARACTER.sub(r" \g<0> ", text)


def split_words(text: str) -> list[str]:
    """Lower-cased words of any script, each CJK character a word.

    >>> split_words("Die Männer sehen 北京。")
    ['die', 'männer', 'sehen', '北', '京']
    """
    return re.findall(r"\w+", separate_cjk(text.lower()))


def bleu_tokenizer(texts: Iterable[str]) -> str:
    """sacreBLEU's tokenizer for references such as these: "13a", "zh" (mainly Han), or "char" (with kana or Hangul).

    Japanese and Korean are cut into characters, which needs no dictionary, rather than by MeCab.

    >>> bleu_tokenizer(["Hallo."]), bleu_tokenizer(["你好。"]), bleu_tokenizer(["東京は広い。"])
    ('13a', 'zh', 'char')
    """
    letters, (han, kana, hangul) = 0, (0, 0, 0)
    for text in texts:
        letters += sum(map(str.isalpha, text))
        han, kana, hangul = (
            n + len(script.findall(text)) for n, script in zip((han, kana, hangul), SCRIPTS, strict=True)
        )
    if 2 * (han + kana + hangul) <= letters:
        return "13a"
    # A stray kana (の in a shop's name) does not make Chinese Japanese.
    return "char" if 20 * (kana + hangul) > han + kana + hangul else "zh"


def non_ascii_fraction(texts: Iterable[str]) -> float:
    """The fraction of letters outside a-z, 0 to 1.

    >>> non_ascii_fraction(["Büsche"])
    0.16666666666666666
    """
    letters = [character for text in texts for character in text if character.isalpha()]
    return sum(not character.isascii() for character in letters) / max(len(letters), 1)
