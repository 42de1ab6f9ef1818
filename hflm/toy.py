"""A generated miniature world: stories to pretrain on and the four tasks over them, any size, from a seed.

People, animals, things and places; opinions; and Lumo, a small second language with its own grammar. Nothing is
downloaded or copied, and every row follows from (name, split, seed) alone, so that a recipe runs anywhere.

>>> rows("translation", "train", size=1)
[{'english': 'The fox watches a child.', 'lumo': 'vulo pikon seralat.'}]

Lumo puts the verb last and the place before the object, the adjective after its noun, and has no articles.
A noun and its adjective take -ri in the plural; the object's noun takes -n, a place -lu; verbs end in -at
(present) or -ud (past): 'The old dogs found a key in the garden.' is 'tamori oreri salulu kelon fidud.'

The splits are disjoint whatever their sizes and seeds: what is asked of a model (the sentence, the document, the
opinion, the facts) belongs to one split by its checksum. A story is made of material of its own split, too.
"""

import random
from zlib import crc32

from hflm.errors import DataError

NAMES = ("stories", "translation", "summarization", "sentiment", "qa")
SPLITS = ("train", "validation", "test")
SIZES = {
    "stories": {"train": 8000, "validation": 400, "test": 400},
    "tasks": {"train": 4000, "validation": 200, "test": 400},
}

WOMEN = "Ada Cora Ella Greta Ida Kira Mia Olga".split()
MEN = "Ben Dan Finn Hugo Jon Leo Nils Paul".split()
COLOURS = "red blue green white black yellow".split()
WEATHER = "rainy sunny windy cold foggy snowy".split()
TIMES = "morning afternoon evening day".split()
# One word of each pair is English; its Lumo stem follows.
ANIMALS = dict(dog="tamo", cat="miso", horse="horato", fox="vulo", bird="aviko", goat="kapro", duck="anelo", cow="bovo")
PEOPLE = dict(child="piko", farmer="gereno", baker="panato", teacher="doseno", sailor="marino", doctor="mediko")
THINGS = dict(book="libo", box="kesto", cup="tazo", lamp="lumeto", key="kelo", hat="sapo", bag="sako", bell="dingo")
PLACES = dict(
    garden="salu", market="foru", kitchen="kuku", forest="silu", school="eskolu", mill="molu", park="verdu", barn="tegu"
)
ADJECTIVES = dict(red="rube", blue="zule", green="virde", white="albe", black="nore", yellow="flave")
ADJECTIVES |= dict(old="ore", small="pete", big="gare", young="june", quiet="sile", happy="gaje")
VERBS = dict(  # third person, plural, past, Lumo stem
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
NEEDS = dict(  # what is wrong with an animal -> what a kind person does, told and summed up, and how it may end
    hungry=("gave it some bread", "fed", ["followed {her} home", "slept by the door"]),
    thirsty=("brought it some water", "gave water to", ["drank it all", "followed {her} home"]),
    hurt=("put a bandage on its leg", "healed", ["slept by the door", "ran away again"]),
    lost=("showed it the way back", "led home", ["found its mother", "ran away again"]),
    cold=("put it under a warm coat", "warmed", ["slept by the door", "found its mother"]),
)
FOODS = "soup cake bread tea fish pie rice salad music room garden service".split()
GOOD = "good great lovely wonderful excellent pleasant superb perfect".split()
BAD = "bad awful terrible horrible poor dreadful nasty dull".split()
FELT = ("sad", "calm", "glad")


def rows(name: str, split: str, size: int | None = None, seed: int = 0) -> list[dict]:
    """The rows of a data set of the toy world, all different; the first rows of a bigger size are those of a smaller.

    stories {text}; translation {english, lumo}; summarization {document, summary}; sentiment {text, label}, label 0
    negative, 1 neutral, 2 positive; qa {context, question, answers: {text, answer_start}}, as in SQuAD.
    Raises DataError for an unknown name or split, a negative size, or more rows than the world has.

    >>> rows("sentiment", "train", size=1)[0]["label"] in (0, 1, 2)
    True
    """
    problems = []
    if name not in NAMES:
        problems.append(f"toy: no data set is called {name!r}; there are {', '.join(NAMES)}")
    if split not in SPLITS:
        problems.append(f"toy: no split is called {split!r}; there are {', '.join(SPLITS)}")
    if problems:
        raise DataError("\n".join(problems))
    if size is None:
        size = SIZES["stories" if name == "stories" else "tasks"][split]
    if size < 0:
        raise DataError(f"toy: size must be 0 or more, got {size}")
    rng = random.Random(f"hflm toy {name} {split} {seed}")
    draw = DRAW[name]
    found = {}
    stale = 0
    while len(found) < size:
        key, row = draw(rng, split)
        stale = stale + 1 if key in found else 0
        if stale == 1000:
            raise DataError(f"toy: {name} [{split}] has not many more than {len(found)} different rows; ask for fewer")
        found.setdefault(key, row)
    return list(found.values())


def _in_split(key, split):
    """Eight tenths of all possible texts are for training, one each for validation and test."""
    return {8: "validation", 9: "test"}.get(crc32(key.encode()) % 10, "train") == split


def _drawn(make, rng, split):
    """Draws from `make(rng)` -> (key, row) until the key belongs to the split."""
    while True:
        key, row = make(rng)
        if _in_split(key, split):
            return key, row


def _upper(text):
    return text[0].upper() + text[1:]


def _pronouns(name):
    return ("she", "her") if name in WOMEN else ("he", "him")


def _setting(rng):
    return f"It was a {rng.choice(WEATHER)} {rng.choice(TIMES)}."


# --- translation


def _plural(noun):
    return {"child": "children"}.get(noun, noun + ("es" if noun.endswith("x") else "s"))


def _noun_phrase(rng, nouns, adjective):
    """(English, Lumo noun without case, Lumo adjective or "", plural)."""
    noun = rng.choice(list(nouns))
    plural = rng.random() < 0.4
    article = rng.choice(["the", "some"] if plural else ["the", "a"])
    word = rng.choice(list(ADJECTIVES)) if adjective else ""
    article = "an" if article == "a" and word == "old" else article
    english = " ".join([article, *[word] * adjective, _plural(noun) if plural else noun])
    ending = "ri" if plural else ""
    return english, nouns[noun] + ending, ADJECTIVES[word] + ending if word else "", plural


def _translation(rng):
    place = rng.choice([None, None, *PLACES]) if rng.random() < 0.6 else None
    both = place is None and rng.random() < 0.4
    on_subject = both or rng.random() < 0.5
    subject, s_noun, s_adjective, many = _noun_phrase(rng, ANIMALS | PEOPLE, on_subject)
    thing, o_noun, o_adjective, _ = _noun_phrase(rng, ANIMALS | PEOPLE | THINGS, both or not on_subject)
    present, plural, past, stem = VERBS[rng.choice(list(VERBS))]
    was = rng.random() < 0.5
    verb = past if was else plural if many else present
    english = [subject, verb, thing] + ([f"in the {place}"] if place else [])
    lumo = [s_noun, s_adjective, PLACES[place] + "lu" if place else "", o_noun + "n", o_adjective]
    lumo.append(stem + ("ud" if was else "at"))
    row = {"english": _upper(" ".join(english)) + ".", "lumo": " ".join(filter(None, lumo)) + "."}
    return row["english"], row


# --- summarization


def _helped(rng):
    name, other = rng.sample(WOMEN + MEN, 2)
    she, her = _pronouns(name)
    animal, (need, (did, verb, ends)) = rng.choice(list(ANIMALS)), rng.choice(list(NEEDS.items()))
    place, elsewhere = rng.sample(list(PLACES), 2)
    end = rng.choice(ends).format(her=her)
    told = [
        f"{name} was in the {place} with a {rng.choice(COLOURS)} {rng.choice(list(THINGS))}.",
        f"There {she} met a {animal} that was {need}.",
        f"{_upper(she)} {did}.",
        f"In the end the {animal} {end}.",
    ]
    aside = f"{other} was in the {elsewhere}."
    return told, aside, f"{name} {verb} a {need} {animal} in the {place}, and it {end}."


def _found(rng):
    name, other = rng.sample(WOMEN + MEN, 2)
    she, her = _pronouns(name)
    thing = f"{rng.choice(COLOURS)} {rng.choice(list(THINGS))}"
    first, second = rng.sample(list(PLACES), 2)
    animal = rng.choice(list(ANIMALS))
    told = [
        f"{name} could not find the {thing}.",
        f"{_upper(she)} looked for it in the {first}, but it was not there.",
        f"Then {other} took {her} to the {second}.",
        f"There it was, under a {animal}.",
    ]
    return told, f"{other} was not busy.", f"{name} lost the {thing}, and {other} found it in the {second}."


def _race(rng):
    name, other = rng.sample(WOMEN + MEN, 2)
    animal, place = rng.choice(list(ANIMALS)), rng.choice(list(PLACES))
    she, _ = _pronouns(name)
    told = [
        f"{name} and {other} ran to the {place}.",
        f"At first {name} was far ahead.",
        f"But then {she} saw a {animal} and stopped to look at it.",
        f"{other} did not stop and was there first.",
    ]
    aside = f"There was a {rng.choice(COLOURS)} {rng.choice(list(THINGS))} on the road."
    return told, aside, f"{other} won the race to the {place} because {name} stopped to look at a {animal}."


def _gift(rng):
    name, other = rng.sample(WOMEN + MEN, 2)
    she, _ = _pronouns(other)
    thing = f"{rng.choice(COLOURS)} {rng.choice(list(THINGS))}"
    place = rng.choice(list(PLACES))
    liked, felt = rng.choice([("smiled and thanked", "loved"), ("frowned and left", "hated")])
    told = [
        f"{name} wanted to give something to {other}.",
        f"So {_pronouns(name)[0]} made a {thing}.",
        f"They met in the {place}.",
        f"When {other} saw it, {she} {liked}{' ' + _pronouns(name)[1] if felt == 'loved' else ''}.",
    ]
    aside = f"A {rng.choice(list(ANIMALS))} was near."
    return told, aside, f"{name} gave {other} a {thing} in the {place}, and {other} {felt} it."


def _summarization(rng):
    told, aside, summary = rng.choice([_helped, _found, _race, _gift])(rng)
    told = [_setting(rng), *told]
    if rng.random() < 0.5:
        told.insert(rng.randrange(1, 4), aside)
    document = " ".join(told)
    return document, {"document": document, "summary": summary}


# --- sentiment


def _clause(rng, thing, positive, negated):
    """A clause of the polarity asked for: 'the soup was good', or negated, 'the soup was not bad'."""
    word = rng.choice(GOOD if positive != negated else BAD)
    return f"the {thing} was {'not ' * negated}{word}"


def _opinion(rng):
    """(text without capital and full stop, label)."""
    one, two = rng.sample(FOODS, 2)
    label = rng.randrange(3)
    negated, other_negated = rng.random() < 0.3, rng.random() < 0.3
    if label == 1:
        sides = [True, False]
        rng.shuffle(sides)
        good, bad = rng.choice(GOOD), rng.choice(BAD)
        texts = [
            f"the {one} was neither {good} nor {bad}",
            f"{_clause(rng, one, sides[0], negated)} and {_clause(rng, two, sides[1], other_negated)}",
            f"{_clause(rng, one, sides[0], negated)} and {_clause(rng, two, sides[1], other_negated)}",
            f"nobody said whether {_clause(rng, one, sides[0], negated)}",
            f"there was {one} and there was {two}",
        ]
        return rng.choice(texts), 1
    positive = label == 2
    last = _clause(rng, two, positive, negated)
    first = _clause(rng, one, not positive, other_negated)
    same = _clause(rng, one, positive, other_negated)
    return rng.choice([last, last, f"{same} and {last}", f"{first}, but {last}", f"although {first}, {last}"]), label


def _sentiment(rng):
    opinion, label = _opinion(rng)
    name = rng.choice(WOMEN + MEN)
    start = rng.choice(
        ["", f"{name} and I ate here: ", f"on a {rng.choice(WEATHER)} {rng.choice(TIMES)}, ", f"{name} found that "]
    )
    text = _upper(start + opinion) + "."
    return text, {"text": text, "label": label}


# --- question answering


def _facts(rng):
    """Three facts of one pattern, as (sentence, slots); no name, thing or place comes twice."""
    verb = rng.choice(list(BASE))
    people, things, places = (rng.sample(list(words), 3) for words in (WOMEN + MEN, THINGS, PLACES))
    slots = [dict(name=n, verb=verb, thing=t, place=p) for n, t, p in zip(people, things, places, strict=True)]
    return [("{name} {verb} the {thing} in the {place}.".format(**slot), slot) for slot in slots]


BASE = {"put": "put", "left": "leave", "found": "find", "saw": "see"}


def _ask(rng, fact):
    """(question, answer, where the answer starts in the fact's sentence)."""
    sentence, slot = fact
    base = BASE[slot["verb"]]
    thing = f"the {slot['thing']}"
    question, answer = rng.choice(
        [
            (f"Where did {slot['name']} {base} {thing}?", f"the {slot['place']}"),
            (f"Who {slot['verb']} {thing}?", slot["name"]),
            (f"What did {slot['name']} {base} in the {slot['place']}?", thing),
            (f"Where was {thing}?", f"the {slot['place']}"),
        ]
    )
    return question, answer, sentence.rindex(answer)


def _scene(rng):
    facts = _facts(rng)
    context = " ".join(["Today", *(sentence for sentence, _ in facts)])
    return context, (context, facts)


def _qa(rng):
    context, (_, facts) = _scene(rng)
    fact = rng.choice(facts)
    question, answer, start = _ask(rng, fact)
    answers = {"text": [answer], "answer_start": [context.index(fact[0]) + start]}
    return context, {"context": context, "question": question, "answers": answers}


# --- stories


def _story_gist(rng, split):
    _, row = _drawn(_summarization, rng, split)
    return f"{row['document']} So {row['summary']}"


def _story_lumo(rng, split):
    """Two people, one of whom speaks Lumo: what is said in one language is said again in the other."""
    name, other = rng.sample(WOMEN + MEN, 2)
    said = [_drawn(_translation, rng, split)[1] for _ in range(3)]
    lines = [f"{row['english']} In Lumo: {row['lumo']}" for row in said]
    return " ".join([f"{name} and {other} told a story.", *lines])


def _story_memory(rng, split):
    """Facts, and a talk that recalls all of them, in another order."""
    key, facts = _drawn(_scene, rng, split)[1]
    talk = [" ".join(_ask(rng, fact)[:2]) + "." for fact in rng.sample(facts, 3) + rng.sample(facts, 3)]
    return " ".join([key, *talk])


def _story_opinion(rng, split):
    """Opinions, what was meant, and what the person felt."""
    name = rng.choice(WOMEN + MEN)
    told = []
    for _ in range(5):
        if rng.random() < 0.5:
            _, row = _drawn(_sentiment, rng, split)
            text, label = row["text"], row["label"]
        else:
            positive, negated = rng.random() < 0.5, rng.random() < 0.5
            meant = rng.choice(GOOD if positive else BAD)
            text = f"{_upper(_clause(rng, rng.choice(FOODS), positive, negated))}: it was {meant}."
            label = 2 * positive
        told.append(f"{text} {name} was {FELT[label]}.")
    return " ".join(told)


def _story(rng, split):
    text = rng.choice([_story_gist, _story_lumo, _story_memory, _story_opinion])(rng, split)
    return text, {"text": text}


def _task(make):
    return lambda rng, split: _drawn(make, rng, split)


DRAW = {
    "stories": _story,
    "translation": _task(_translation),
    "summarization": _task(_summarization),
    "sentiment": _task(_sentiment),
    "qa": _task(_qa),
}
