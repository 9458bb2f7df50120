"""Texts with sentences hidden in them, and questions that only these sentences answer.

A question is token ids with one or more points: a position whose prediction must prefer the right candidate
over all the others. One fact: "The password of Clara is" -> " mango". Two facts, which stand far apart and of
which neither names what the other is asked for: "Clara was seen in" -> " Paris", and then ". The password of Paris
is" -> " mango"; both must be found.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import saa_core as saa

NAMES = (
    *("Clara", "Peter", "Maria", "Victor", "Alice"),
    *("Robert", "Susan", "Daniel", "Helen", "Oscar"),
)
WORDS = (
    *("mango", "violin", "castle", "rocket", "pepper", "silver", "garden", "tiger", "button"),
    *("candle", "bridge", "hammer", "orange", "pencil", "ladder", "mirror", "planet", "rabbit"),
    *("turtle", "window"),
)
CITIES = (
    *("Paris", "London", "Berlin", "Moscow", "Tokyo"),
    *("Athens", "Boston", "Rome", "Chicago", "Zurich"),
)
TOGETHER, APART, TWO = "together", "apart", "two facts"
WAYS = (TOGETHER, APART, TWO)
"""One fact each: all at the end of the text, or each by itself behind it; two facts each, by itself behind it."""


@dataclass(frozen=True)
class Point:
    """One prediction that is looked at.

    Args:
        at: position in the question's ids, or in the text where questions are asked together.
        candidates: first tokens of all words that could stand there.
        right: index of the right one.
    """

    at: int
    candidates: tuple[int, ...]
    right: int

    def margin(self, logits: torch.Tensor) -> float:
        """How much likelier the right candidate is than the best other, nats. logits: [V]."""
        found = logits.float()[list(self.candidates)]
        others = found.clone()
        others[self.right] = -torch.inf
        return float(found[self.right] - others.max())


@dataclass(frozen=True)
class Question:
    """Token ids, and what they must predict. Without ids it stands in the text itself."""

    ids: tuple[int, ...]
    points: tuple[Point, ...]


class Haystack:
    """A text of exactly so many tokens with ten hidden sentences.

    Args:
        model: its tokenizer is used.
        text_ids: a long text to hide them in.
        length: tokens, the questions included where they are asked together.

    Attributes:
        tokens: int64 [1, length].
        questions: in the order of the depth of the sentence with the answer.
        sentences: what was hidden, by depth.
    """

    def __init__(
        self, model: saa.Model, text_ids: Sequence[int], length: int, seed: int, way: str = TOGETHER
    ) -> None:
        draw = random.Random(seed)
        self.way = way
        answers = draw.sample(range(len(WORDS)), len(NAMES))
        names = draw.sample(NAMES, len(NAMES))
        if way == TWO:
            self.sentences, asked = _two_facts(model, draw, names, answers)
        else:
            self.sentences, asked = _one_fact(model, names, answers)
        hidden = [model.tokenize(sentence) for sentence in self.sentences]
        end = list[int]()
        self.questions = asked
        order = draw.sample(range(len(asked)), len(asked))
        if way == TOGETHER:
            placed = {}
            for index in order:
                (point,) = asked[index].points
                end += asked[index].ids
                placed[index] = len(end) - 1
                end.append(point.candidates[point.right])
            first = length - len(end)
            self.questions = [
                Question((), (Point(first + placed[i], q.points[0].candidates, q.points[0].right),))
                for i, q in enumerate(asked)
            ]
        room = length - sum(map(len, hidden)) - len(end)
        if room < 10 * len(hidden):
            raise SystemExit(f"--lengths: {length} tokens are too few for ten sentences")
        start = draw.randrange(max(1, len(text_ids) - room))
        self.tokens = torch.tensor(
            [_hide(hidden, text_ids[start : start + room]) + end], device=model.device
        )


def _hide(hidden: Sequence[Sequence[int]], hay: Sequence[int]) -> list[int]:
    """Each sentence in the middle of its part of the text."""
    ids = list[int]()
    for index, sentence in enumerate(hidden):
        part = hay[index * len(hay) // len(hidden) : (index + 1) * len(hay) // len(hidden)]
        ids += [*part[: len(part) // 2], *sentence, *part[len(part) // 2 :]]
    return ids


def _one_fact(
    model: saa.Model, names: Sequence[str], answers: Sequence[int]
) -> tuple[list[str], list[Question]]:
    words = first_tokens(model, WORDS)
    sentences, questions = [], []
    for name, answer in zip(names, answers, strict=True):
        sentences.append(f" The password of {name} is {WORDS[answer]}.")
        ids = tuple(model.tokenize(f"\nThe password of {name} is"))
        questions.append(Question(ids, (Point(len(ids) - 1, words, answer),)))
    return sentences, questions


def _two_facts(
    model: saa.Model, draw: random.Random, names: Sequence[str], answers: Sequence[int]
) -> tuple[list[str], list[Question]]:
    """Five people, where each was seen, and the password of each place: ten sentences in any order."""
    words, cities = first_tokens(model, WORDS), first_tokens(model, CITIES)
    people = names[: len(names) // 2]
    homes = draw.sample(range(len(CITIES)), len(people))
    sentences, questions = [], []
    for name, home, answer in zip(people, homes, answers, strict=False):
        city = CITIES[home]
        sentences += [
            f" {name} was seen in {city}.",
            f" The password of {city} is {WORDS[answer]}.",
        ]
        first = tuple(model.tokenize(f"\n{name} was seen in"))
        ids = (*first, *model.tokenize(f" {city}. The password of {city} is"))
        points = (Point(len(first) - 1, cities, home), Point(len(ids) - 1, words, answer))
        questions.append(Question(ids, points))
    return draw.sample(sentences, len(sentences)), questions


def first_tokens(model: saa.Model, words: Sequence[str] = WORDS) -> tuple[int, ...]:
    """The first token of each word after a space; they must differ."""
    found = tuple(model.tokenize(f" {word}")[0] for word in words)
    if len(set(found)) < len(found):
        raise SystemExit("model: its tokenizer gives two of the words the same first token")
    return found


def margins(model: saa.Model, haystack: Haystack, call: saa.Call) -> list[float]:
    """Per question the least margin of its points; over 0 it is answered right."""
    head = model.hf.get_output_embeddings()
    read = model.hf.base_model
    found = []
    with torch.inference_mode():
        out = read(haystack.tokens, use_cache=haystack.way != TOGETHER, saa=call)
        for question in haystack.questions:
            states = out.last_hidden_state[0]
            if question.ids:
                ids = torch.tensor([question.ids], device=model.device)
                # What follows a prompt is read densely, as every token is that is written later.
                behind = read(ids, past_key_values=out.past_key_values, use_cache=True)
                out.past_key_values.crop(-len(question.ids))
                states = behind.last_hidden_state[0]
            found.append(min(point.margin(head(states[point.at])) for point in question.points))
    return found
