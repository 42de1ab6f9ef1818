"""A generated miniature world: stories to pretrain on and the four tasks over them, any size, from a seed.

People, animals, things and places; opinions; and Lumo, a small second language with its own grammar. Nothing is
downloaded or copied, and every row follows from (name, split, seed) alone, so that a recipe runs anywhere.

>>> rows("translation", "train", size=1)
[{'english': 'The farmer drew a happy child.', 'lumo': 'gereno pikon gaje desud.'}]

Lumo puts the verb last and the place before the object, the adjective after its noun, and has no articles.
A noun and its adjective take -ri in the plural; the object's noun takes -n, a place -lu; verbs end in -at
(present) or -ud (past): 'The old dogs found a key in the garden.' is 'tamori oreri salulu kelon fidud.'

The splits are disjoint whatever their sizes and seeds: what is asked of a model (the sentence, the document, the
opinion, the facts) belongs to one split by its checksum. A story is made of material of its own split, too.
"""

import random
from zlib import crc32

from hflm.core import TOY_DATASETS, DataError

# Stands for these data in every fingerprint. Change it together with the rows, so that finished stages run again.
VERSION = "0940799505e748de49a33bcc20cbbe7aff3144e36ac0b7b6ae3ab6db1348b739"

SPLITS = ("train", "validation", "test")
SIZES = {
    "stories": {"train": 8000, "validation": 400, "test": 400},
    "tasks": {"train": 4000, "validation": 200, "test": 400},
}

WOMEN = "Ada Cora Ella Greta Ida Kira Mia Olga".split()
MEN = "Ben Dan Finn Hugo Jon Leo Nils Paul".split()
NAMED = WOMEN + MEN
WEATHER = "rainy sunny windy cold foggy snowy".split()
TIMES = "morning afternoon evening day".split()
DISHES = "soup cake bread tea fish pie rice salad cheese coffee".split()
GOOD = "good great lovely wonderful excellent pleasant superb perfect".split()
BAD = "bad awful terrible horrible poor dreadful nasty dull".split()
FELT = ("sad", "calm", "glad")  # by label
SEEN = {"found": "find", "hid": "hide", "left": "leave", "saw": "see"}  # past -> infinitive

# English -> stem in Lumo
ANIMALS = dict(dog="tamo", cat="miso", horse="horato", fox="vulo", bird="aviko", goat="kapro", duck="anelo", cow="bovo")
PEOPLE = dict(child="piko", farmer="gereno", baker="panato", teacher="doseno", sailor="marino", doctor="mediko")
THINGS = dict(book="libo", box="kesto", cup="tazo", lamp="lumeto", key="kelo", hat="sapo", bag="sako", bell="dingo")
PLACES = dict(garden="salu", market="foru", kitchen="kuku", forest="silu")
PLACES |= dict(school="eskolu", mill="molu", park="verdu", barn="tegu")
COLOURS = dict(red="rube", blue="zule", green="virde", white="albe", black="nore", yellow="flave")
ADJECTIVES = COLOURS | dict(old="ore", small="pete", big="gare", young="june", quiet="sile", happy="gaje")
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
)
# What is wrong with an animal -> what a kind person does, that in a word, how it may end.
NEEDS = {
    "hungry": ("gave it some bread", "fed", ("followed {her} home", "slept by the door")),
    "thirsty": ("brought it some water", "gave water to", ("drank it all", "followed {her} home")),
    "hurt": ("put a bandage on its leg", "healed", ("slept by the door", "ran away again")),
    "lost": ("showed it the way back", "led home", ("found its mother", "ran away again")),
    "cold": ("put it under a warm coat", "warmed", ("slept by the door", "found its mother")),
}


def rows(name: str, split: str, size: int | None = None, seed: int = 0) -> list[dict]:
    """The rows of a data set of the toy world, all different; a bigger size begins with the rows of a smaller one.

    stories {text}; translation {english, lumo}; summarization {document, summary}; sentiment {text, label}, label 0
    negative, 1 neutral, 2 positive; qa {context, question, answers: {text, answer_start}}, as in SQuAD.
    Raises DataError for an unknown name or split, a negative size, or more rows than the world has.

    >>> rows("sentiment", "test", size=2)[1]
    {'text': 'Ella found that the cake was not perfect and the cheese was not great.', 'label': 0}
    """
    problems = []
    if name not in TOY_DATASETS:
        problems.append(f"toy: no data set is called {name!r}; there are {', '.join(TOY_DATASETS)}")
    if split not in SPLITS:
        problems.append(f"toy: no split is called {split!r}; there are {', '.join(SPLITS)}")
    if size is not None and size < 0:
        problems.append(f"toy: size must be 0 or more, got {size}")
    if problems:
        raise DataError("\n".join(problems))
    if size is None:
        size = SIZES["stories" if name == "stories" else "tasks"][split]
    rng = random.Random(f"hflm toy {name} {split} {seed}")
    found, stale = {}, 0
    while len(found) < size:
        key, row = _within(split, MAKE[name], rng) if name in MAKE else _story(split, rng)
        stale = stale + 1 if key in found else 0
        if stale == 1000:
            raise DataError(f"toy: {name} [{split}] has hardly more than {len(found)} different rows; ask for fewer")
        found.setdefault(key, row)
    return list(found.values())


def _within(split, make, rng):
    """What `make(rng)` -> (key, made) first makes for the split: by the key's checksum 8 of 10 are for training."""
    while True:
        key, made = make(rng)
        if {8: "validation", 9: "test"}.get(crc32(key.encode()) % 10, "train") == split:
            return key, made


def _upper(text):
    return text[0].upper() + text[1:]


def _she_her(name):
    return ("she", "her") if name in WOMEN else ("he", "him")


def _pick(rng, words, count):
    """So many different words."""
    return rng.sample(list(words), count)


def _one(rng, *lists):
    """A word of each list, with spaces between."""
    return " ".join(rng.choice(list(words)) for words in lists)


# --- translation


def _plural(noun):
    return {"child": "children"}.get(noun, noun + ("es" if noun.endswith("x") else "s"))


def _noun_phrase(rng, nouns, described):
    """(English, noun in Lumo without case, adjective in Lumo or "", plural or not)."""
    noun, many = _one(rng, nouns), rng.random() < 0.4
    adjective = _one(rng, ADJECTIVES) if described else ""
    article = rng.choice(["the", "some"] if many else ["the", "an" if adjective == "old" else "a"])
    english = " ".join(filter(None, [article, adjective, _plural(noun) if many else noun]))
    number = "ri" if many else ""
    return english, nouns[noun] + number, ADJECTIVES[adjective] + number if described else "", many


def _translation(rng):
    place = _one(rng, PLACES) if rng.random() < 0.4 else ""
    described = rng.choice([(True, False), (False, True), (not place, not place)])
    subject, s_noun, s_adjective, many = _noun_phrase(rng, ANIMALS | PEOPLE, described[0])
    thing, o_noun, o_adjective, _ = _noun_phrase(rng, ANIMALS | PEOPLE | THINGS, described[1])
    she, they, past, stem = VERBS[_one(rng, VERBS)]
    before = rng.random() < 0.5
    english = f"{subject} {past if before else they if many else she} {thing}" + (f" in the {place}" if place else "")
    words = [s_noun, s_adjective, PLACES[place] + "lu" if place else "", o_noun + "n", o_adjective]
    lumo = " ".join(filter(None, [*words, stem + ("ud" if before else "at")]))
    return english, {"english": _upper(english) + ".", "lumo": lumo + "."}


# --- summarization: each of the four returns (told, an aside, the gist)


def _helped(rng):
    (name, other), (place, elsewhere) = _pick(rng, NAMED, 2), _pick(rng, PLACES, 2)
    she, her = _she_her(name)
    animal, need = _one(rng, ANIMALS), _one(rng, NEEDS)
    did, word, ends = NEEDS[need]
    end = rng.choice(ends).format(her=her)
    told = [
        f"{name} was in the {place} with a {_one(rng, COLOURS, THINGS)}.",
        f"There {she} met a {animal} that was {need}.",
        f"{_upper(she)} {did}.",
        f"In the end the {animal} {end}.",
    ]
    return told, f"{other} was in the {elsewhere}.", f"{name} {word} a {need} {animal} in the {place}, and it {end}."


def _found(rng):
    (name, other), (place, elsewhere) = _pick(rng, NAMED, 2), _pick(rng, PLACES, 2)
    she, her = _she_her(name)
    thing = _one(rng, COLOURS, THINGS)
    told = [
        f"{name} could not find the {thing}.",
        f"{_upper(she)} looked for it in the {elsewhere}, but it was not there.",
        f"Then {other} took {her} to the {place}.",
        f"There it was, under a {_one(rng, ANIMALS)}.",
    ]
    return told, f"{other} was not busy.", f"{name} lost the {thing}, and {other} found it in the {place}."


def _race(rng):
    name, other = _pick(rng, NAMED, 2)
    animal, place = _one(rng, ANIMALS), _one(rng, PLACES)
    told = [
        f"{name} and {other} ran to the {place}.",
        f"At first {name} was far ahead.",
        f"But then {_she_her(name)[0]} saw a {animal} and stopped to look at it.",
        f"{other} did not stop and was there first.",
    ]
    gist = f"{other} won the race to the {place} because {name} stopped to look at a {animal}."
    return told, f"There was a {_one(rng, COLOURS, THINGS)} on the road.", gist


def _gift(rng):
    name, other = _pick(rng, NAMED, 2)
    thing, place = _one(rng, COLOURS, THINGS), _one(rng, PLACES)
    did, felt = rng.choice([("smiled and danced", "loved"), ("frowned and left", "hated")])
    told = [
        f"{name} wanted to give something to {other}.",
        f"So {_she_her(name)[0]} made a {thing}.",
        f"They met in the {place}.",
        f"When {other} saw it, {_she_her(other)[0]} {did}.",
    ]
    gist = f"{name} gave {other} a {thing} in the {place}, and {other} {felt} it."
    return told, f"A {_one(rng, ANIMALS)} was near.", gist


def _summarization(rng):
    told, aside, gist = rng.choice([_helped, _found, _race, _gift])(rng)
    told.insert(0, f"It was a {_one(rng, WEATHER, TIMES)}.")
    if rng.random() < 0.5:
        told.insert(rng.choice([1, 4]), aside)
    document = " ".join(told)
    return document, {"document": document, "summary": gist}


# --- sentiment


def _clause(rng, dish, positive, negated):
    """An opinion, said straight ('the soup was good') or by its opposite ('the soup was not bad')."""
    return f"the {dish} was {'not ' * negated}{_one(rng, GOOD if positive != negated else BAD)}"


def _opinion(rng, label):
    one, two = _pick(rng, DISHES, 2)
    negated, other_negated = rng.random() < 0.3, rng.random() < 0.3
    if label == 1:
        first = rng.random() < 0.5
        balance = f"{_clause(rng, one, first, negated)} and {_clause(rng, two, not first, other_negated)}"
        neither = f"the {one} was neither {_one(rng, GOOD)} nor {_one(rng, BAD)}"
        fact = f"the {one} came before the {two}"
        return rng.choice([balance, balance, neither, fact, f"nobody said whether {_clause(rng, one, first, negated)}"])
    last = _clause(rng, two, label == 2, negated)
    against = _clause(rng, one, label != 2, other_negated)
    agreed = f"{_clause(rng, one, label == 2, other_negated)} and {last}"
    return rng.choice([last, last, agreed, f"{against}, but {last}", f"although {against}, {last}"])


def _sentiment(rng):
    label = rng.randrange(3)
    name, when = _one(rng, NAMED), _one(rng, WEATHER, TIMES)
    start = rng.choice(["", "", f"{name} and I ate here: ", f"on a {when}, ", f"{name} found that "])
    text = _upper(start + _opinion(rng, label)) + "."
    return text, {"text": text, "label": label}


# --- question answering


def _scene(rng):
    """(context, questions): one did something to a thing while another slept elsewhere; who, what and where is asked.

    The questions are [(question, answer, the sentence that answers it)].
    """
    (name, other), (place, elsewhere) = _pick(rng, NAMED, 2), _pick(rng, PLACES, 2)
    colour, thing, did = _one(rng, COLOURS), _one(rng, THINGS), _one(rng, SEEN)
    acted = f"{name} {did} the {colour} {thing} in the {place}."
    slept = f"{other} slept in the {elsewhere}."
    told = [acted, slept] if rng.random() < 0.5 else [slept, acted]
    if rng.random() < 0.5:
        told.insert(rng.randrange(3), f"It was a {_one(rng, WEATHER, TIMES)}.")
    questions = [
        (f"Where did {name} {SEEN[did]} the {thing}?", f"the {place}", acted),
        (f"Who {did} the {thing}?", name, acted),
        (f"What did {name} {SEEN[did]}?", f"the {colour} {thing}", acted),
        (f"What colour was the {thing}?", colour, acted),
        (f"Where did {other} sleep?", f"the {elsewhere}", slept),
        (f"Who slept in the {elsewhere}?", other, slept),
    ]
    return " ".join(told), questions


def _qa(rng):
    context, questions = _scene(rng)
    question, answer, sentence = rng.choice(questions)
    start = context.index(sentence) + sentence.index(answer)
    row = {"context": context, "question": question, "answers": {"text": [answer], "answer_start": [start]}}
    return context, row


# --- stories: what the tasks ask for happens in them, in their own words


def _gist_story(split, rng):
    _, row = _within(split, _summarization, rng)
    return f"{row['document']} So {row['summary']}"


def _lumo_story(split, rng):
    name, other = _pick(rng, NAMED, 2)
    said = [_within(split, _translation, rng)[1] for _ in range(3)]
    return " ".join([f"{name} told {other} a story.", *(f"{row['english']} In Lumo: {row['lumo']}" for row in said)])


def _quiz_story(split, rng):
    """A scene, and some of its questions with their answers."""
    context, questions = _within(split, _scene, rng)
    asked = _pick(rng, questions, 4)
    return " ".join([context, *(f"{question} Answer: {answer}." for question, answer, _ in asked)])


def _meal_story(split, rng):
    """Opinions, what was meant by some of them, and what they made somebody feel."""
    name = _one(rng, NAMED)
    told = []
    for _ in range(5):
        if rng.random() < 0.5:
            _, row = _within(split, _sentiment, rng)
            text, label = row["text"], row["label"]
        else:
            label = rng.choice([0, 2])
            clause = _clause(rng, _one(rng, DISHES), label == 2, rng.random() < 0.5)
            text = f"{_upper(clause)}: it was {_one(rng, GOOD if label else BAD)}."
        told.append(f"{text} {name} was {FELT[label]}.")
    return " ".join(told)


def _story(split, rng):
    text = rng.choice([_gist_story, _lumo_story, _quiz_story, _meal_story])(split, rng)
    return text, {"text": text}


MAKE = {"translation": _translation, "summarization": _summarization, "sentiment": _sentiment, "qa": _qa}
