"""Texts that only far-reaching attention can continue: hidden facts asked for, passages that return.

Averages hardly feel it when a sparse model no longer finds one sentence far back, so training on
plain text alone does not punish it. These documents are real paragraphs with facts strewn in and,
behind them, the beginnings of the same facts and quotations of earlier sentences. The names, words and wordings
of benchmarks/quality/needles.py do not occur.
"""

import random
import re
from collections.abc import Iterator, Sequence

NAMES = (
    *("Agnes", "Bruno", "Cecil", "Dora", "Edgar", "Frida", "Gregor", "Hilda", "Ivan", "Judith"),
    *("Karl", "Lydia", "Martin", "Nora", "Otto", "Paula", "Quentin", "Rosa", "Simon", "Tessa"),
    *(
        "Ulrich",
        "Vera",
        "Walter",
        "Xenia",
        "Yusuf",
        "Zelda",
        "Mr. Hale",
        "Mrs. Finch",
        "Dr. Brandt",
    ),
)
THINGS = (
    *("anchor", "basket", "beaker", "carpet", "cello", "clock", "compass", "copper", "cotton"),
    *("drum", "eagle", "feather", "flute", "granite", "harbour", "island", "jacket", "kettle"),
    *("lantern", "lemon", "marble", "needle", "onion", "parrot", "pillow", "quartz", "ribbon"),
    *("saddle", "shovel", "spider", "stone", "table", "teapot", "thunder", "trumpet", "umbrella"),
    *("velvet", "walnut", "whistle", "willow"),
)
PLACES = (
    *("Bergen", "Cairo", "Denver", "Dublin", "Geneva", "Hanoi", "Kyoto", "Lagos", "Lima", "Lisbon"),
    *(
        "Madrid",
        "Nairobi",
        "Oslo",
        "Prague",
        "Quebec",
        "Riga",
        "Sofia",
        "Tunis",
        "Vienna",
        "Warsaw",
    ),
)
JOBS = (
    *("baker", "barber", "carpenter", "dentist", "gardener", "lawyer", "miner", "painter", "pilot"),
    *("potter", "sailor", "surgeon", "tailor", "teacher", "waiter", "weaver"),
)
FACTS = (
    ("The code word of {name} is", " {thing}."),
    ("{name} lives in", " {place}."),
    ("The room number of {name} is", " {number}."),
    ("{name} works as a", " {job}."),
    ("The {thing} of {name} was made in", " {place}."),
    ("On the desk of {name} there is a", " {thing}."),
    ("{name} was born in the year", " {number}."),
    ("key_{number}_{place} =", " '{thing}'"),
)
"""What a question repeats, and what only the fact says."""


def recall(paragraphs: Sequence[str], count: int, seed: int = 0) -> Iterator[str]:
    """Documents of about 1,500 to 30,000 characters each, the same ones for a seed.

    Args:
        paragraphs: real text to hide the facts in; each document takes a run of them.
    """
    for index in range(count):
        draw = random.Random(f"recall/{seed}/{index}")
        body, wanted = list[str](), 1_200 * 20 ** draw.random()
        start = draw.randrange(len(paragraphs))
        while sum(map(len, body)) < wanted:
            body += re.split(r"(?<=[.!?]) +", paragraphs[start % len(paragraphs)])
            start += 1
        quotable = [sentence for sentence in body if 60 < len(sentence) < 300]
        facts = _facts(draw, draw.randint(6, 18))
        for question, answer in facts:
            body.insert(draw.randrange(len(body)), question + answer)
        asked = draw.sample(facts, draw.randint(len(facts) // 2, len(facts)))
        end = [question + answer for question, answer in asked]
        end += draw.sample(quotable, min(len(quotable), draw.randint(1, 3)))
        draw.shuffle(end)
        yield " ".join(body) + "\n\n" + draw.choice(("\n", " ")).join(end)


def _facts(draw: random.Random, count: int) -> list[tuple[str, str]]:
    """Facts whose first parts all differ."""
    found: dict[str, str] = {}
    while len(found) < count:
        question, answer = draw.choice(FACTS)
        words = {
            "name": draw.choice(NAMES),
            "thing": draw.choice(THINGS),
            "place": draw.choice(PLACES),
            "job": draw.choice(JOBS),
            "number": draw.randint(100, 1999),
        }
        found.setdefault(question.format(**words), answer.format(**words))
    return list(found.items())
