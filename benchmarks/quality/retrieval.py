"""Retrieval: does the sparse model still find one sentence hidden in a long text?

    python -m benchmarks.quality.retrieval          # writes benchmarks/results/retrieval.json and .svg

Averages over a text hide such failures. Into a text that no gate was trained on, sentences like "The
password of Clara is mango." are hidden at ten depths; behind it the model is asked for each of them.
It is right if the hidden word is more likely than every distractor: the words of the other nine
sentences and ten that occur nowhere. The original dense model, the gate and the adapter read the same
texts. Two ways of asking: "together", all ten questions with their answers at the end of the text, read
sparsely like the rest; "apart", each question by itself behind a text that was read sparsely once, as in
a chat about a document, the question itself read densely, as every token that is written later is.
Resumable: what was measured on as many texts is not measured again.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import torch

import saa_core as saa
from benchmarks.resume import read_rows
from saa_core.data import corpus
from saa_core.files import write_json
from saa_core.run.execute import forward
from saa_core.train.evaluate import interval

RESULTS = Path(__file__).parent.parent / "results"
DENSE, DISTILLED, JOINT = "dense", "SAA, distilled", "SAA, joint"
NAMES = (
    "Clara",
    "Peter",
    "Maria",
    "Victor",
    "Alice",
    "Robert",
    "Susan",
    "Daniel",
    "Helen",
    "Oscar",
)
WORDS = (
    *("mango", "violin", "castle", "rocket", "pepper", "silver", "garden", "tiger", "button"),
    *("candle", "bridge", "hammer", "orange", "pencil", "ladder", "mirror", "planet", "rabbit"),
    *("turtle", "window"),
)


TOGETHER, APART = "together", "apart"


class Haystack:
    """A text of exactly so many tokens with ten hidden sentences and ten questions behind it.

    Attributes:
        tokens: int64 [1, length], with the questions and their answers where they are asked together.
        asked: position whose prediction answers the question, per sentence, in order of depth.
        questions: token ids of each question, per sentence.
        answers: index in WORDS of the right word, per sentence.
    """

    def __init__(
        self, model: saa.Model, text_ids: list[int], length: int, seed: int, way: str = TOGETHER
    ) -> None:
        draw = random.Random(seed)
        names = draw.sample(NAMES, len(NAMES))
        self.answers = draw.sample(range(len(WORDS)), len(NAMES))
        self.names = names
        hidden = [
            model.tokenize(f" The password of {name} is {WORDS[answer]}.")
            for name, answer in zip(names, self.answers, strict=True)
        ]
        order = draw.sample(range(len(names)), len(names))
        questions = [(model.tokenize(f"\nThe password of {names[i]} is"), i) for i in order]
        candidates = first_tokens(model)
        self.questions = [ids for ids, _ in sorted(questions, key=lambda found: found[1])]
        if way == APART:
            questions = []
        room = length - sum(map(len, hidden)) - sum(len(ids) + 1 for ids, _ in questions)
        if room < 10 * len(names):
            raise SystemExit(f"--lengths: {length} tokens are too few for ten sentences")
        start = draw.randrange(max(1, len(text_ids) - room))
        hay, ids = text_ids[start : start + room], list[int]()
        for index, sentence in enumerate(hidden):
            part = slice(index * room // len(hidden), (index + 1) * room // len(hidden))
            ids += hay[part][: len(hay[part]) // 2] + sentence + hay[part][len(hay[part]) // 2 :]
        asked = {}
        for question, i in questions:
            ids += question
            asked[i] = len(ids) - 1
            ids.append(candidates[self.answers[i]])
        self.tokens = torch.tensor([ids], device=model.device)
        self.asked = [asked[i] for i in range(len(names)) if asked]


def first_tokens(model: saa.Model) -> list[int]:
    """The first token of each word after a space; they must differ."""
    found = [model.tokenize(f" {word}")[0] for word in WORDS]
    if len(set(found)) < len(found):
        raise SystemExit("model: its tokenizer gives two of the words the same first token")
    return found


def right(model: saa.Model, haystack: Haystack, call: saa.Call) -> list[float]:
    """Per sentence: how much likelier the hidden word is than the best distractor, nats."""
    with torch.inference_mode():
        if haystack.asked:
            states = forward(model, haystack.tokens, call)[0, haystack.asked]
        else:
            states = ask_apart(model, haystack, call)
        logits = model.hf.get_output_embeddings()(states).float()[:, first_tokens(model)]
    margins = []
    for row, answer in zip(logits, haystack.answers, strict=True):
        others = row.clone()
        others[answer] = -torch.inf
        margins.append(float(row[answer] - others.max()))
    return margins


def ask_apart(model: saa.Model, haystack: Haystack, call: saa.Call) -> torch.Tensor:
    """Final state at the end of each question, the text being read once, [questions, E]."""
    read = model.hf.base_model
    cache = read(haystack.tokens, use_cache=True, saa=call).past_key_values
    states = []
    for question in haystack.questions:
        tokens = torch.tensor([question], device=model.device)
        states.append(read(tokens, past_key_values=cache, use_cache=True).last_hidden_state[0, -1])
        cache.crop(-len(question))
    return torch.stack(states)


def row_of(
    way: str,
    method: str,
    length: int,
    aim: float | None,
    density: float,
    margins: list[list[float]],
) -> dict[str, Any]:
    hits = [[float(margin > 0) for margin in one] for one in margins]
    per_text = [sum(one) / len(one) for one in hits]
    lo, hi = interval(per_text)
    return {
        "questions": way,
        "method": method,
        "length": length,
        "mass": aim,
        "density": density,
        "accuracy": sum(per_text) / len(per_text),
        "lo": lo,
        "hi": hi,
        "by_depth": [sum(column) / len(column) for column in zip(*hits, strict=True)],
        "texts": len(hits),
        "trials": sum(map(len, hits)),
        "margins_nats": margins,
    }


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Accuracy by length, a point per method, with intervals over texts; a panel per way of asking."""
    titled = [
        row | {"name": row["method"] + (f", mass {row['mass']:g}" if row["mass"] else "")}
        for row in rows
    ]
    base = alt.Chart(alt.Data(values=titled)).encode(
        x=alt.X("length:O", title="tokens", axis=alt.Axis(labelAngle=0)),
        xOffset="name:N",
        color=alt.Color("name:N", title=None),
    )
    points = base.mark_point(filled=True, size=70).encode(
        y=alt.Y(
            "accuracy:Q",
            title="hidden word found",
            axis=alt.Axis(format="%"),
            scale=alt.Scale(domain=[0, 1]),
        )
    )
    (points + base.mark_rule().encode(y="lo:Q", y2="hi:Q")).properties(width=420, height=260).facet(
        alt.Facet("questions:N", title="questions asked (95 % intervals over texts)")
    ).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", help="also measure this adapter")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--masses", type=float, nargs="+", help="the shipped default by default")
    parser.add_argument(
        "--texts", type=int, default=6, help="haystacks per length, ten questions each"
    )
    parser.add_argument(
        "--questions", nargs="+", default=[TOGETHER, APART], choices=(TOGETHER, APART)
    )
    parser.add_argument("--source", default="austen", help="source or file to hide sentences in")
    parser.add_argument("--out", type=Path, default=RESULTS / "retrieval.json")
    options = parser.parse_args()
    models = {DISTILLED: saa.load(options.model, device="cpu")}
    if options.adapter:
        models[JOINT] = saa.load(options.model, adapter=options.adapter, device="cpu")
    original = models[DISTILLED]
    (text,) = corpus.join_documents(corpus.documents([options.source]), "heldout").values()
    ids = original.tokenize(text)
    rows = read_rows(options.out)
    done = {
        (row["questions"], row["method"], row["length"], row["mass"])
        for row in rows
        if len(row["margins_nats"]) == options.texts
    }
    for length in options.lengths:
        for way in options.questions:
            haystacks = [
                Haystack(original, ids, length, seed, way) for seed in range(options.texts)
            ]
            todo: list[tuple[str, float | None]] = [(DENSE, None)]
            for method, model in models.items():
                default = model.resolve(replace(model.spec.policy, granularity="block"), length)
                todo += [(method, m) for m in options.masses or [default.aim]]
            for method, mass in todo:
                if (way, method, length, mass) in done:
                    continue
                here = (way, method, length, mass)
                rows = [
                    r for r in rows if (r["questions"], r["method"], r["length"], r["mass"]) != here
                ]
                rows.append(measure(models.get(method, original), way, method, mass, haystacks))
                write_json(options.out, rows)
    plot(rows, options.out.with_suffix(".svg"))


def measure(
    model: saa.Model, way: str, method: str, mass: float | None, haystacks: list[Haystack]
) -> dict[str, Any]:
    """One method on all texts of a length."""
    policy = None if mass is None else saa.Policy(mass=mass, granularity="block")
    margins, densities = [], []
    for haystack in haystacks:
        call = saa.Call(policy, record="summary")
        margins.append(right(model, haystack, call))
        layers = torch.stack([record.density for record in call.layers.values()])
        densities.append(float(layers.mean()))
    length = haystacks[0].tokens.shape[1]
    row = row_of(way, method, length, mass, sum(densities) / len(densities), margins)
    print(
        f"{length:5} {way:8} {method:15} mass {mass or 1:.2f} density {row['density']:.3f} found "
        f"{100 * row['accuracy']:.1f} % ({100 * row['lo']:.0f} to {100 * row['hi']:.0f})",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
