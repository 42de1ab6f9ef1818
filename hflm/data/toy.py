"""A generated miniature world: stories to pretrain on and the four tasks over them, any size, from a seed.

People, animals, things and places; opinions; and Lumo, a small second language with its own grammar. Nothing is
downloaded or copied, and every row follows from (name, split, size, seed) alone, so that a recipe runs anywhere.

>>> rows("translation", "train", size=1)
[{'english': 'The old cats brought a slow bird.', 'lumo': 'misori oreri avikon lente portud.'}]

Lumo puts the verb last and the place before the object, the adjective after its noun, and has no articles.
A noun and its adjective take -ri in the plural; the object's noun takes -n, a place -lu; verbs end in -at
(present) or -ud (past): 'The old dogs found a key in the garden.' is 'tamori oreri salulu kelon fidud.'

The splits are disjoint whatever their sizes and seeds, in combinations and not only in whole rows: words that are drawn
one after the other for a text (a person and the place she goes to, a dish and what is said about it) are a pair, and
each pair belongs to one split by its checksum (hflm.data.toy_words). So texts of two splits have no run of 8 to 13
words in common (the rule of `hflm.evaluation.contamination`), and a model must combine what it knows.
"""

import random
from collections.abc import Callable
from typing import Any

from hflm.core import TOY_DATASETS, DataError
from hflm.data.toy_words import (
    ADJECTIVES,
    ANIMALS,
    BAD,
    COLOURS,
    DEGREES,
    DISHES,
    FEELINGS,
    GOOD,
    NAMED,
    NEEDS,
    PEOPLE,
    PLACES,
    SEEN,
    THINGS,
    VERBS,
    WOMEN,
    Draw,
    drawn,
)

# Stands for these data in every fingerprint. Change it together with the rows, so that finished stages run again.
VERSION = "2e927f34c382dd3a02a7f5df2b54542423169217ff93fdf3120da580341064dd"

SPLITS = ("train", "validation", "test")
SIZES = {
    "stories": {"train": 8000, "validation": 400, "test": 400},
    "tasks": {"train": 4000, "validation": 200, "test": 400},
}

Row = dict[str, Any]


def rows(name: str, split: str, size: int | None = None, seed: int = 0) -> list[Row]:
    """The rows of a data set of the toy world, all different; a bigger size begins with the rows of a smaller one.

    stories {text}; translation {english, lumo}; summarization {document, summary}; sentiment {text, label}, label 0
    negative, 1 neutral, 2 positive; qa {context, question, answers: {text, answer_start}}, as in SQuAD.
    Raises DataError for an unknown name or split, a negative size, or more rows than the world has.

    >>> rows("sentiment", "test", size=2)[1]
    {'text': 'For Cora the coffee was neither delightful nor awful.', 'label': 1}
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
    draw = Draw(split, random.Random(f"hflm toy {name} {split} {seed}"))
    different: dict[str, Row] = {}
    repeats = 0
    while len(different) < size:
        text, row = drawn(MAKE[name], draw)
        repeats = repeats + 1 if text in different else 0
        if repeats == 1000:
            raise DataError(
                f"toy: {name} [{split}] has hardly more than {len(different)} different rows; ask for fewer"
            )
        different.setdefault(text, row)
    return list(different.values())


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _she_her(name: str) -> tuple[str, str]:
    return ("she", "her") if name in WOMEN else ("he", "him")


# --- translation


def _plural(noun: str) -> str:
    return {"child": "children"}.get(noun, noun + ("es" if noun.endswith("x") else "s"))


def _noun_phrase(draw: Draw, noun: str, lumo: str, described: bool) -> tuple[str, str, str, bool]:
    """(English, noun in Lumo without case, adjective in Lumo or "", plural or not)."""
    many = draw.chance(0.4)
    adjective = draw.word(ADJECTIVES) if described else ""
    article = draw.rng.choice(["the", "some"] if many else ["the", "an" if adjective == "old" else "a"])
    english = " ".join(filter(None, [article, adjective, _plural(noun) if many else noun]))
    number = "ri" if many else ""
    return english, lumo + number, ADJECTIVES[adjective] + number if described else "", many


def _translation(draw: Draw) -> tuple[str, Row]:
    place = draw.word(PLACES) if draw.chance(0.4) else ""
    described = draw.rng.choice([(True, False), (False, True), (True, True), (not place, not place)])
    subjects, objects = draw.rng.choice([ANIMALS, PEOPLE]), draw.rng.choice([ANIMALS, PEOPLE, THINGS])
    actor = draw.word(subjects)
    target = draw.word(objects, after=actor, but=actor)
    subject, s_noun, s_adjective, many = _noun_phrase(draw, actor, subjects[actor], described[0])
    thing, o_noun, o_adjective, _ = _noun_phrase(draw, target, objects[target], described[1])
    she, they, past, stem = VERBS[draw.word(VERBS)]
    before = draw.chance(0.5)
    english = f"{subject} {past if before else they if many else she} {thing}" + (f" in the {place}" if place else "")
    words = [s_noun, s_adjective, PLACES[place] + "lu" if place else "", o_noun + "n", o_adjective]
    lumo = " ".join(filter(None, [*words, stem + ("ud" if before else "at")]))
    return english, {"english": _upper(english) + ".", "lumo": lumo + "."}


# --- summarization: each kind of event returns (sentences, a remark, where the remark may be inserted, summary)

Event = tuple[list[str], str, int, str]


def _help(draw: Draw) -> Event:
    """Who was helped follows from what was done."""
    name = draw.word(NAMED)
    place = draw.word(PLACES, after=name)
    thing = draw.word(THINGS, after=place)
    one = draw.word(ANIMALS, after=thing)
    two = draw.word(ANIMALS, but=one)
    one_needs = draw.word(NEEDS, after=one)
    two_needs = draw.word(NEEDS, after=two, but=one_needs)
    need, animal = draw.rng.choice([(one_needs, one), (two_needs, two)])
    did, word = NEEDS[need]
    other = draw.word(NAMED, but=name)
    she = _she_her(name)[0]
    sentences = [
        f"{name} was in the {place} with a {draw.word(COLOURS)} {thing}.",
        f"There {she} met a {one} that was {one_needs} and a {two} that was {two_needs}.",
        f"{_upper(she)} {did}.",
    ]
    remark = f"{other} was in the {draw.word(PLACES, after=other, but=place)}."
    return sentences, remark, 0, f"{name} {word} a {need} {animal} in the {place}."


def _search(draw: Draw) -> Event:
    """Two people look for things, and one of these is found."""
    names = [draw.word(NAMED)]
    names.append(draw.word(NAMED, but=names[0]))
    things = [draw.word(THINGS, after=names[0])]
    things.append(draw.word(THINGS, after=names[1], but=things[0]))
    which = [f"{draw.word(COLOURS)} {thing}" for thing in things]
    lucky = draw.rng.randrange(2)
    other = draw.word([name for name in NAMED if name not in names], after=things[1])
    place = draw.word(PLACES, after=things[lucky])
    sentences = [
        f"{names[0]} could not find the {which[0]}.",
        f"{names[1]} could not find the {which[1]}.",
        f"Then {other} saw the {things[lucky]} in the {place}.",
    ]
    summary = f"{names[lucky]} lost the {which[lucky]}, and {other} found it in the {place}."
    return sentences, f"{other} was not busy.", 3, summary


def _race(draw: Draw) -> Event:
    """The winner is the one who did not stop."""
    first = draw.word(NAMED)
    second = draw.word(NAMED, after=first, but=first)
    place = draw.word(PLACES, after=second)
    late, winner = draw.rng.sample([first, second], 2)
    animal = draw.word(ANIMALS, after=late)
    thing = draw.word(THINGS, after=winner)
    sentences = [
        f"{first} and {second} ran to the {place}.",
        f"{late} was far ahead, but {_she_her(late)[0]} saw a {animal}.",
    ]
    remark = f"{winner} had a {draw.word(COLOURS)} {thing}."
    return sentences, remark, 0, f"{winner} won the race to the {place} because {late} saw a {animal}."


def _gift(draw: Draw) -> Event:
    name = draw.word(NAMED)
    other = draw.word(NAMED, after=name, but=name)
    thing = draw.word(THINGS, after=other)
    place = draw.word(PLACES, after=other)
    animal = draw.word(ANIMALS, after=place)
    which = f"{draw.word(COLOURS)} {thing}"
    did, felt = draw.rng.choice([("smiled and danced", "loved"), ("frowned and left", "hated")])
    sentences = [
        f"{name} wanted to give something to {other}.",
        f"So {_she_her(name)[0]} made a {which}.",
        f"They met in the {place}.",
        f"When {other} saw it, {_she_her(other)[0]} {did}.",
    ]
    return (
        sentences,
        f"A {animal} was near.",
        4,
        f"{name} gave {other} a {which} in the {place}, and {other} {felt} it.",
    )


def _summarization(draw: Draw) -> tuple[str, Row]:
    sentences, remark, place, summary = drawn(draw.rng.choice([_help, _search, _race, _gift]), draw)
    if draw.chance(0.5):
        sentences.insert(place, remark)
    document = " ".join([f"It was a {draw.weather()[0]}.", *sentences])
    return document, {"document": document, "summary": summary}


# --- sentiment


def _clause(draw: Draw, positive: bool, after: str = "") -> tuple[str, str]:
    """(an opinion, its last word): 'the soup was good', or by the opposite 'the soup was not bad'."""
    dish = draw.word(DISHES, after=after)
    degree = draw.rng.choice(["", draw.word(DEGREES)])
    adjective = draw.word(GOOD if positive == DEGREES[degree] else BAD, after=dish)
    return f"the {dish} was {degree}{adjective}", adjective


def _neutral(draw: Draw, after: str) -> str:
    first = draw.chance(0.5)
    form = draw.rng.choice(["balance", "balance", "neither", "fact"])
    if form == "balance":
        one, last = _clause(draw, first, after)
        return f"{one} and {_clause(draw, not first, last)[0]}"
    dish = draw.word(DISHES, after=after)
    if form == "neither":
        good = draw.word(GOOD, after=dish)
        return f"the {dish} was neither {good} nor {draw.word(BAD, after=good)}"
    return f"the {dish} came before the {draw.word(DISHES, after=dish, but=dish)}"


def _opinion(draw: Draw, label: int, after: str) -> str:
    if label == 1:
        return _neutral(draw, after)
    form = draw.rng.choice(["plain", "plain", "and", "but", "although"])
    if form == "plain":
        return _clause(draw, label == 2, after)[0]
    one, last = _clause(draw, (label == 2) == (form == "and"), after)
    other = _clause(draw, label == 2, last)[0]
    return {"and": f"{one} and {other}", "but": f"{one}, but {other}", "although": f"although {one}, {other}"}[form]


def _sentiment(draw: Draw) -> tuple[str, Row]:
    label = draw.rng.randrange(3)
    name, (weather, time) = draw.word(NAMED), draw.weather()
    starts = {"": "", f"for {name} ": name, f"on a {weather}, ": time, f"{name} said ": name}
    start = draw.rng.choice(list(starts))
    text = _upper(start + _opinion(draw, label, starts[start])) + "."
    return text, {"text": text, "label": label}


# --- question answering

Question = tuple[str, str, str]  # the question, its answer, the sentence that holds the answer


def _act(draw: Draw, name: str, thing: str, place: str) -> tuple[str, list[Question]]:
    colour, did = draw.word(COLOURS), draw.word(SEEN)
    sentence = f"{name} {did} the {colour} {thing} in the {place}."
    return sentence, [
        (f"Where did {name} {SEEN[did]} the {thing}?", f"the {place}", sentence),
        (f"Who {did} the {thing}?", name, sentence),
        (f"What did {name} {SEEN[did]}?", f"the {colour} {thing}", sentence),
        (f"What colour was the {thing}?", colour, sentence),
    ]


def _scene(draw: Draw) -> tuple[str, list[Question]]:
    """(context, questions): somebody did something to a thing, perhaps another one too, and somebody slept elsewhere."""
    names = [draw.word(NAMED)]
    while len(names) < 3:
        name = draw.word(NAMED)
        names += [name] * (name not in names)
    sleeper, *actors = names if draw.chance(0.4) else names[:2]
    bedroom = draw.word(PLACES, after=sleeper)
    slept = f"{sleeper} slept in the {bedroom}."
    things: list[str] = []
    for name in actors:
        things.append(draw.word(THINGS, after=name, but="".join(things)))
    acts = [_act(draw, name, thing, draw.word(PLACES, after=thing)) for name, thing in zip(actors, things, strict=True)]
    sentences = [slept, *(sentence for sentence, _ in acts)]
    if draw.chance(0.5):
        sentences.append(f"It was a {draw.weather()[0]}.")
    draw.rng.shuffle(sentences)
    asked = [(f"Where did {sleeper} sleep?", f"the {bedroom}", slept), (f"Who slept in the {bedroom}?", sleeper, slept)]
    return " ".join(sentences), asked + [question for _, questions in acts for question in questions]


def _qa(draw: Draw) -> tuple[str, Row]:
    context, questions = _scene(draw)
    question, answer, sentence = draw.rng.choice(questions)
    start = context.index(sentence) + sentence.index(answer)
    row = {"context": context, "question": question, "answers": {"text": [answer], "answer_start": [start]}}
    return context, row


# --- stories: what the tasks ask for happens in them, in their own words


def _summary_story(draw: Draw) -> str:
    _, row = _summarization(draw)
    return f"{row['document']} So {row['summary']}"


def _lumo_story(draw: Draw) -> str:
    name = draw.word(NAMED)
    pairs = [drawn(_translation, draw)[1] for _ in range(3)]
    lines = (f"{row['english']} In Lumo: {row['lumo']}" for row in pairs)
    return " ".join([f"{name} told {draw.word(NAMED, but=name)} a story.", *lines])


def _quiz_story(draw: Draw) -> str:
    """A scene, and some of its questions with their answers."""
    context, questions = _scene(draw)
    asked = draw.rng.sample(questions, 4)
    return " ".join([context, *(f"{question} Answer: {answer}." for question, answer, _ in asked)])


def _explained_opinion(draw: Draw) -> tuple[str, int]:
    """(an opinion and its meaning in one word, its label)."""
    label = draw.rng.choice([0, 2])
    clause, last = _clause(draw, label == 2)
    return f"{_upper(clause)}: it was {draw.word(GOOD if label else BAD, after=last, but=last)}.", label


def _meal_story(draw: Draw) -> str:
    """Opinions, what was meant by some of them, and what they made somebody feel."""
    name, told = draw.word(NAMED), []
    for _ in range(5):
        if draw.chance(0.5):
            _, row = drawn(_sentiment, draw)
            text, label = row["text"], row["label"]
        else:
            text, label = drawn(_explained_opinion, draw)
        told.append(f"{text} {name} was {FEELINGS[label]}.")
    return " ".join(told)


def _story(draw: Draw) -> tuple[str, Row]:
    text = drawn(draw.rng.choice([_summary_story, _lumo_story, _quiz_story, _meal_story]), draw)
    return text, {"text": text}


MAKE: dict[str, Callable[[Draw], tuple[str, Row]]] = {
    "stories": _story,
    "translation": _translation,
    "summarization": _summarization,
    "sentiment": _sentiment,
    "qa": _qa,
}
