"""The words of the toy world, and how they are drawn: each pair of words that follow each other belongs to one split.

The first words of a list are frequent and the last ones rare, as in any language.
"""

import functools
import random
from collections.abc import Callable, Iterable
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")

_SPLIT_OF_TENTH = ("train",) * 6 + ("validation",) * 2 + ("test",) * 2  # of the pairs, by checksum

WOMEN = "Ada Cora Ella Greta Ida Kira Mia Olga Rosa Tess Una Vera".split()
MEN = "Ben Dan Finn Hugo Jon Leo Nils Paul Sam Tom Viktor Wim".split()
NAMED = [name for pair in zip(WOMEN, MEN, strict=True) for name in pair]
WEATHER = "rainy sunny windy cold foggy snowy".split()
TIMES = "morning afternoon evening day".split()
DISHES = "soup cake bread tea fish pie rice salad cheese coffee stew jam corn cream juice pasta".split()
GOOD = "good great lovely wonderful excellent pleasant superb perfect fine tasty splendid delightful charming brilliant"
GOOD = f"{GOOD} amazing fabulous marvellous exquisite terrific divine".split()
BAD = "bad awful terrible horrible poor dreadful nasty dull stale disgusting bland weak lousy boring"
BAD = f"{BAD} appalling miserable mediocre revolting shoddy ghastly".split()
# Before an adjective -> whether it keeps the adjective's sense.
DEGREES = {"": True, "not ": False, "very ": True, "hardly ": False, "far from ": False, "never anything but ": True}
DEGREES["anything but "] = False
FEELINGS = ("sad", "calm", "glad")  # by label
SEEN = {"found": "find", "hid": "hide", "left": "leave", "saw": "see", "lost": "lose"}  # past -> infinitive

# English -> stem in Lumo
ANIMALS = dict(dog="tamo", cat="miso", horse="horato", fox="vulo", bird="aviko", goat="kapro", duck="anelo", cow="bovo")
ANIMALS |= dict(bear="urso", frog="rano", hen="galino", pig="porko", crow="korvo", rabbit="koneko")
ANIMALS |= dict(lion="leno", snail="heliko", donkey="asino", spider="arano", turtle="testo", squirrel="skuro")
PEOPLE = dict(child="piko", farmer="gereno", baker="panato", teacher="doseno", sailor="marino", doctor="mediko")
PEOPLE |= dict(singer="kanoto", painter="pintaro", king="rego", nurse="flego")
PEOPLE |= dict(hunter="kaso", miner="minisito", judge="juzo", pilot="aviso", tailor="tajlo", clerk="ofico")
THINGS = dict(book="libo", box="kesto", cup="tazo", lamp="lumeto", key="kelo", hat="sapo", bag="sako", bell="dingo")
THINGS |= dict(drum="tamburo", coat="palto", rope="snuro", spoon="kulero", stone="petro", basket="korbo", ring="anulo")
THINGS |= dict(candle="kandelo", hammer="martelo", mirror="spegulo", pillow="kuseno", ladder="eskalo", kettle="bolo")
PLACES = dict(garden="salu", market="foru", kitchen="kuku", forest="silu", school="eskolu", mill="molu", park="verdu")
PLACES |= dict(barn="tegu", tower="turu", cave="kavu", harbour="havu", field="kampu")
COLOURS = dict(red="rube", blue="zule", green="virde", white="albe", black="nore", yellow="flave", brown="brune")
ADJECTIVES = dict(old="ore", small="pete", big="gare", young="june", quiet="sile", happy="gaje", slow="lente")
ADJECTIVES |= dict(clean="pure", heavy="peze", strange="stere", warm="varme", new="nove") | COLOURS
VERBS = dict(  # (she, they, past, stem in Lumo)
    see=("sees", "see", "saw", "vid"),
    find=("finds", "find", "found", "fid"),
    follow=("follows", "follow", "followed", "sek"),
    watch=("watches", "watch", "watched", "seral"),
    like=("likes", "like", "liked", "am"),
    bring=("brings", "bring", "brought", "port"),
    want=("wants", "want", "wanted", "vol"),
    hide=("hides", "hide", "hid", "kas"),
    lose=("loses", "lose", "lost", "perd"),
    draw=("draws", "draw", "drew", "des"),
    hear=("hears", "hear", "heard", "aud"),
    push=("pushes", "push", "pushed", "pus"),
    call=("calls", "call", "called", "vok"),
    wash=("washes", "wash", "washed", "lav"),
)
# What is wrong with an animal -> what a kind person does, and that in a word.
NEEDS = {
    "hungry": ("gave it some bread", "fed"),
    "thirsty": ("brought it some water", "gave water to"),
    "hurt": ("put a bandage on its leg", "healed"),
    "lost": ("showed it the way back", "led home"),
    "cold": ("put it under a warm coat", "warmed"),
}


class _NoSuchPair(Exception):
    """No word of a list may follow the word before it in this split."""


class Draw:
    """Choices by chance for the texts of one split."""

    def __init__(self, split: str, rng: random.Random) -> None:
        self.split, self.rng = split, rng

    def word(self, words: Iterable[str], after: str = "", but: str = "") -> str:
        """A word other than `but`; with `after`, one that makes a pair of this split with it.

        The word at place n (from 0) is chosen with a weight of 1 / (n + 2).
        """
        allowed, weights = _candidates(tuple(words), after, but, self.split if after else "")
        if not allowed:
            raise _NoSuchPair
        return self.rng.choices(allowed, cum_weights=weights)[0]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def weather(self) -> tuple[str, str]:
        """('sunny morning', 'morning')."""
        time = self.word(TIMES)
        return f"{self.word(WEATHER)} {time}", time


@functools.cache
def _candidates(words: tuple[str, ...], after: str, but: str, split: str) -> tuple[list[str], list[float]]:
    """(the words that may follow, their cumulative weights)."""
    allowed, weights = [], []
    for place, word in enumerate(words):
        if word != but and (not split or _SPLIT_OF_TENTH[crc32(f"{after} {word}".encode()) % 10] == split):
            allowed.append(word)
            weights.append((weights[-1] if weights else 0.0) + 1 / (place + 2))
    return allowed, weights


def drawn(make: Callable[[Draw], T], draw: Draw) -> T:
    while True:
        try:
            return make(draw)
        except _NoSuchPair:
            pass  # from the beginning, with other words
