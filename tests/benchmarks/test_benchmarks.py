"""Benchmarks run on tiny input and write what they promise; never that they are fast."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import saa_core as saa
from saa_core.run.timing import crossover

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def start(name: str, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


def test_quality(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "quality.json"
    text.write_text(novel[:12_000], encoding="utf-8")
    arguments = ["--lengths", "64", "--masses", "0.5", "--windows", "2", "--texts", str(text)]
    start("quality.quality", monkeypatch, *arguments, "--out", str(out))
    (row,) = json.loads(out.read_text())
    assert row["lo"] <= row["ppl_increase_pct"] <= row["hi"]
    assert 0 < row["density"] < 1
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    arguments[3] = "0.9"
    start("quality.quality", monkeypatch, *arguments, "--out", str(out))
    assert [row["mass"] for row in json.loads(out.read_text())] == [0.5, 0.9]


def test_latency(tmp_path, monkeypatch, smollm2):
    out = tmp_path / "latency.json"
    start(
        "speed.latency", monkeypatch, "--lengths", "32", "48", "--repeats", "2", "--out", str(out)
    )
    timings = [saa.Timing(**row) for row in json.loads(out.read_text())]
    assert [(timing.name == "dense", timing.length) for timing in timings] == [
        (True, 32),
        (False, 32),
        (True, 48),
        (False, 48),
    ]
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_encoder(tmp_path, monkeypatch, novel, minilm):
    text, out = tmp_path / "text.txt", tmp_path / "encoder.json"
    text.write_text(novel[:4_000], encoding="utf-8")
    arguments = ["--lengths", "48", "--masses", "0.7", "--windows", "2", "--texts", str(text)]
    start("quality.encoder", monkeypatch, *arguments, "--out", str(out))
    rows = json.loads(out.read_text())
    assert [row["granularity"] for row in rows] == ["pair", "block"]
    for row in rows:
        assert 0.5 < row["lo"] <= row["cosine"] <= row["hi"] <= 1
        assert 0 < row["density"] <= row["retained_mass"] <= 1
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_frontier(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "frontier.json"
    text.write_text(novel[:30_000], encoding="utf-8")
    arguments = ["--lengths", "200", "--windows", "1", "--texts", str(text), "--out", str(out)]
    start("quality.frontier", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    methods = runpy.run_module("benchmarks.quality.frontier")["AIMS"]
    assert {(row["method"], row["aim"]) for row in rows} == {
        (method, aim)
        for method, aims in methods.items()
        for aim in aims
        if method not in ("SAA, joint", "adapter alone")
    }
    best = {}
    for row in rows:
        assert row["lo"] <= row["ppl_increase_pct"] <= row["hi"]
        assert 0 < row["density"] <= 1
        if row["density"] < 0.75:
            best[row["method"]] = min(best.get(row["method"], 99), row["ppl_increase_pct"])
    assert best["oracle"] < best["random"]
    written = out.read_bytes()
    start("quality.frontier", monkeypatch, *arguments, "--minutes", "0.01")
    assert out.read_bytes() == written, "nothing is measured twice"


def test_blocks(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "blocks.json"
    text.write_text(novel[:30_000], encoding="utf-8")
    arguments = ["--lengths", "300", "--masses", "0.6", "0.9", "--windows", "1", "--repeats", "1"]
    arguments += ["--source", str(text), "--out", str(out)]
    start("quality.blocks", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    blocks = runpy.run_module("benchmarks.quality.blocks")["BLOCKS"]
    names = [f"{queries} x {keys}" for queries, keys in blocks]
    assert [row["block"] for row in rows] == [name for name in names for _ in range(2)]
    for sparse, dense in zip(rows[::2], rows[1::2], strict=True):
        assert sparse["density"] < dense["density"] <= 1
        assert sparse["lo"] <= sparse["ppl_increase_pct"] <= sparse["hi"]
        assert len(sparse["attention_ms"]["saa"]) == 1
    assert rows[0]["density"] < rows[-2]["density"], "fine blocks need fewer pairs"
    written = out.read_bytes()
    start("quality.blocks", monkeypatch, *arguments)
    assert out.read_bytes() == written, "nothing is measured twice"


@pytest.fixture
def asked_table(tmp_path):
    """A table that the shipped task of questions can be tested with."""
    return questions(tmp_path, 120)


def questions(tmp_path, count):
    """A table of so many questions; a sixth or so is for validation and test."""
    asked = [("Where is it?", "Paris"), ("Who was it?", "Ada Lovelace"), ("When?", "in 1815")]
    kinds = ("location", "humans", "date")
    rows = [
        {"text": f"{question} [SEP] {answer} {index}", "label": kinds[index % 3]}
        for index in range(count)
        for question, answer in [asked[index % 3]]
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_understanding(tmp_path, monkeypatch, minilm, asked_table):
    out = tmp_path / "understanding.json"
    arguments = ["--tasks", "questions", "--data", asked_table, "--shares", "0.7", "0.5"]
    arguments += ["--flips", str(tmp_path / "flips")]
    arguments += ["--singles", "2", "--rounds", "2", "--out", str(out)]
    start("tasks.understanding", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    first, second = (next(row for row in rows if row["tokens"] == share) for share in (0.7, 0.5))
    assert second["flops_share"] < first["flops_share"] < 1
    assert all(row["task"] == "questions" and row["data"] == asked_table for row in rows)
    assert sum(row["default"] for row in rows) == 1
    for row in (first, second):
        assert row["accuracy"] > 0.5
        assert row["dense_accuracy"] > 0.5
        share = str(row["tokens"])
        assert set(row["round_ms"]["b1"]) == {"dense, padded", "dense, packed", share}
        assert len(row["round_ms"]["b32"][share]) == 2, "rounds, the warm-up left out"
        assert row["latency_ms_b1"][share]["p50"] <= row["latency_ms_b1"][share]["p90"]
        flips = row["flips"]
        wrong = row["texts"] * (row["dense_accuracy"] - row["accuracy"])
        assert flips["right_to_wrong"] - flips["wrong_to_right"] == pytest.approx(wrong)
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_a_text_under_the_crossover_is_timed_dense(tmp_path, monkeypatch, smollm2):
    out = tmp_path / "latency.json"
    arguments = ["--lengths", "40", "--repeats", "1", "--fallback", "dense", "--out", str(out)]
    start("speed.latency", monkeypatch, *arguments)
    assert [row["kernel"] for row in json.loads(out.read_text())] == ["dense", "dense"]


def test_choice_and_crossover(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    quality = runpy.run_module("benchmarks.quality.quality")
    rows = [
        {"mass": mass, "ppl_increase_pct": increase}
        for mass, increase in [(0.9, 0.5), (0.9, 1.2), (0.95, 0.3), (0.95, 0.9), (0.98, 0.1)]
    ]
    assert quality["choose"](rows) == 0.95
    assert quality["choose"](rows[:2]) is None

    def timing(length: int, samples: tuple[float, ...]) -> saa.Timing:
        return saa.Timing(
            "", length, samples, samples, {}, "cpu", "float32", 2, "", 0.0, None, {}, 1.0
        )

    timings = []
    for length, ratio in ((512, 1.1), (1024, 0.8), (2048, 1.5), (4096, 2.0)):
        timings += [timing(length, (100.0 * ratio,) * 3), timing(length, (100.0,) * 3)]
    assert crossover(timings) == 2048
    with pytest.raises(ValueError, match="argument"):
        timings[0].ratio(timing(512, (1.0,)))


def test_retrieval(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "retrieval.json"
    text.write_text(novel, encoding="utf-8")
    arguments = ["--lengths", "400", "--texts", "2", "--source", str(text), "--out", str(out)]
    start("quality.retrieval", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    assert [(row["questions"], row["method"]) for row in rows] == [
        ("together", "dense"),
        ("together", "SAA, distilled"),
        ("apart", "dense"),
        ("apart", "SAA, distilled"),
    ]
    for dense, sparse in (rows[:2], rows[2:]):
        assert (dense["density"], dense["trials"]) == (1.0, 20)
        assert sparse["density"] < 1
        assert dense["accuracy"] > 0.3, "chance is one in twenty"
    for row in rows:
        assert row["lo"] <= row["accuracy"] <= row["hi"]
        assert sum(row["by_depth"]) / 10 == pytest.approx(row["accuracy"])
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    written = out.read_bytes()
    start("quality.retrieval", monkeypatch, *arguments)
    assert out.read_bytes() == written, "nothing is measured twice"


def test_a_haystack_has_its_length_and_asks_before_it_answers(monkeypatch, novel, smollm2):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = runpy.run_module("benchmarks.quality.retrieval")
    hay = names["Haystack"](smollm2, smollm2.tokenize(novel), 500, seed=1)
    assert hay.tokens.shape == (1, 500)
    ids = hay.tokens[0].tolist()
    for name, answer, at in zip(hay.names, hay.answers, hay.asked, strict=True):
        word = names["WORDS"][answer]
        assert smollm2.tokenizer.decode(ids[: at + 1]).endswith(f"The password of {name} is")
        assert f"password of {name} is {word}." in smollm2.tokenizer.decode(ids[:at])
    apart = names["Haystack"](smollm2, smollm2.tokenize(novel), 500, seed=1, way="apart")
    assert apart.tokens.shape == (1, 500)
    assert apart.asked == []
    for name, question in zip(apart.names, apart.questions, strict=True):
        assert smollm2.tokenizer.decode(question).endswith(f"The password of {name} is")
    call = saa.Call(saa.Policy(mass=1.0))
    margins = names["right"](smollm2, apart, call)
    for at in (0, 9):  # as if text and question had been read in one go
        whole = torch.cat([apart.tokens, torch.tensor([apart.questions[at]])], 1)
        with torch.inference_mode():
            logits = smollm2.hf(whole).logits[0, -1, names["first_tokens"](smollm2)]
        others = torch.cat([logits[: apart.answers[at]], logits[apart.answers[at] + 1 :]])
        expected = float(logits[apart.answers[at]] - others.max())
        assert margins[at] == pytest.approx(expected, abs=2e-2)


def test_prefill(tmp_path, monkeypatch, smollm2):
    frontier, out = tmp_path / "frontier.json", tmp_path / "prefill.json"
    point = {"method": "SAA, distilled", "length": 600, "text": "a"}
    points = [(0.8, 0.2, 3.0), (0.9, 0.3, 0.9), (0.95, 0.4, 0.4)]
    rows = [
        point | {"aim": aim, "density": density, "ppl_increase_pct": increase}
        for aim, density, increase in points
    ]
    frontier.write_text(json.dumps(rows))
    arguments = ["--lengths", "600", "700", "--repeats", "2", "--frontier", str(frontier)]
    start("speed.prefill", monkeypatch, *arguments, "--out", str(out))
    found = json.loads(out.read_text())
    assert [(row["length"], row["dtype"]) for row in found] == [(600, "float32"), (600, "bfloat16")]
    for row in found:
        assert row["policy"] == "mass 0.9"
        assert (row["density"], row["ppl_increase_pct"]) == (0.3, 0.9)
        assert row["efficiency"] == pytest.approx(row["attention_ratio"] * row["density_timed"])
        assert len(row["samples_ms"]["saa"]) == 2
        assert sum(row["stages_ms"]["saa"].values()) > 0
    assert found[0]["samples_ms"]["dense, attention in float32"] is None
    assert len(found[1]["samples_ms"]["dense, attention in float32"]) == 2
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_what_is_published_lies_between_measured_points(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = runpy.run_module("benchmarks.publish.tables_quality")
    rows = [
        {"method": "oracle", "length": 1024, "aim": aim, "density": density}
        | {"ppl_increase_pct": increase, "text": text}
        for aim, density, increases in [(0.9, 0.4, (0.1, 0.3)), (0.8, 0.2, (1.0, 3.0))]
        for text, increase in zip("ab", increases, strict=True)
    ]
    points = runpy.run_module("benchmarks.quality.frontier")["curve"](rows, "oracle", 1024)
    assert points == [(0.4, pytest.approx(0.2)), (0.2, pytest.approx(2.0))]
    needed = tables["needed"]
    assert needed(points, 1.1) == "0.30"
    assert needed(points, 0.1) == "over 0.40"
    assert needed(points, 2.5) == "under 0.20"
    assert "| oracle | 0.31 |" in tables["frontier_table"](rows)
    assert tables["cost_at"](points, 0.3) == pytest.approx(1.1)
    assert tables["cost_at"](points, 0.5) is None


def test_methods_are_compared_at_the_density_at_which_the_joint_model_costs_one_percent(
    monkeypatch,
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = runpy.run_module("benchmarks.publish.tables_quality")
    increases = {"SAA, joint": (0.0, 2.0), "random": (8.0, 12.0), "mean keys": (1.0, 3.0)}
    rows = [
        {"method": method, "length": 1024, "aim": aim, "density": density}
        | {"ppl_increase_pct": increase, "text": "a"}
        for method, both in increases.items()
        for aim, density, increase in zip((0.9, 0.8), (0.4, 0.2), both, strict=True)
    ]
    (line,) = tables["equal_density_table"](rows).splitlines()[2:]
    assert line == "| 1,024 | 0.30 | +1.00 % | – | – | +2.00 % (mean keys) | 0.50 x |"


def test_load(tmp_path, monkeypatch, minilm, asked_table):
    out = tmp_path / "load.json"
    arguments = ["--task", "questions", "--data", asked_table, "--shares", "0.55", "--start", "40"]
    arguments += ["--limit", "400", "--seconds", "0.5", "--repeats", "1", "--out", str(out)]
    load = runpy.run_module("benchmarks.speed.load")
    monkeypatch.setitem(load["highest"].__globals__, "STEP", 8.0)
    monkeypatch.setattr(sys, "argv", ["load", *arguments])
    load["main"]()
    rows = json.loads(out.read_text())
    assert [row["side"] for row in rows] == ["dense, padded", "dense, packed", "0.55", "default"]
    for row in rows:
        assert row["rate"] in {0.0, *(tried["rate"] for tried in row["tried"])}
        held = [t for t in row["tried"] if t["rate"] == row["rate"]]
        assert all(t["p95_ms"] <= 400 and t["p50_ms"] <= t["p95_ms"] for t in held)
        assert all(1 <= t["mean_batch"] <= 32 for t in row["tried"])
    assert out.with_suffix(".svg").is_file()


def test_finetuning(tmp_path, monkeypatch, minilm, asked_table):
    out = tmp_path / "finetuning.json"
    arguments = ["--tasks", "questions", "--data", asked_table, "--steps", "3"]
    start("quality.finetuning", monkeypatch, *arguments, "--rates", "0.0001", "--out", str(out))
    (row,) = json.loads(out.read_text())
    assert row["steps"] == 3
    assert row["adapter_accuracy"] > 0.5
    assert 0 <= row["full_accuracy"] <= 1


def test_seeds_are_averaged_before_tasks_and_other_texts_left_out(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = runpy.run_module("benchmarks.publish.tables_tasks")

    def row(task, seed, tokens, accuracy, data=None):
        about = {
            "task": task,
            "seed": seed,
            "data": data or task,
            "tokens": tokens,
            "default": tokens == 0.6,
            "margin": 0.0,
        }
        about |= {"difference_lo": -0.8, "difference_hi": -0.6, "changed": 0.75, "asked": 0.25}
        for name in ("throughput", "latency"):
            batch = "b32" if name == "throughput" else "b1"
            about |= {f"{name}_ratio_{batch}": 2.0, f"{name}_quartiles": [1.5, 2.5]}
        return about | {"flops_share": tokens, "accuracy": accuracy, "dense_accuracy": 0.8}

    rows = [row("a", 0, 0.6, 0.80), row("a", 1, 0.6, 0.78), row("b", 0, 0.6, 0.82)]
    rows += [row("a", 0, share, 0.8) for share in (1.0, 0.7, 0.5, 0.35)]
    rows.append(row("a", 0, 0.6, 0.1, data="b"))
    table = tables["seeds_table"](rows)
    assert "| 0.6 | 2 | 1 to 2 | 60 % | +0.50 | a (-1.0) |" in table
    assert "| each task's default | 2 | 1 to 2 | 60 % | +0.50 | a (-1.0) |" in table
    assert "| 0.35 | 1 | 1 | 35 % | +0.00 | a (+0.0) |" in table
    (shipped,) = tables["understanding_table"](rows, {"a": 1}).splitlines()[2:]
    assert shipped == (
        "| a | 0.6, the default | 25 % | 60 % | 78.0 % | 80.0 % | -2.0 (-80.0 to -60.0) "
        "| 2.00 (1.50 to 2.50) | 2.00 (1.50 to 2.50) |"
    )
    (shifted,) = tables["shift_table"](rows).splitlines()[2:]
    assert shifted == (
        "| a | b | 0 | 0.6, the default | 25 % | 60 % | 10.0 % | 80.0 % | -70.0 (-80.0 to -60.0) | 75.0 % |"
    )


def test_store(tmp_path, monkeypatch):
    out = tmp_path / "store.json"
    start("records.store", monkeypatch, "--traces", "20", "--repeats", "2", "--out", str(out))
    found = json.loads(out.read_text())
    assert (found["traces"], found["head_rows"]) == (20, 2000)
    for name in ("list", "aggregate"):
        assert len(found[name]["samples_s"]) == 2
        assert min(found[name]["samples_s"]) > 0


def test_trust(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "trust.json"
    text.write_text(novel[:9_000], encoding="utf-8")
    arguments = ["--english", str(text), "--shifted", "one word", "--lengths", "80", "--count", "2"]
    arguments += ["--damaged", "1", "--cost-lengths", "90", "--repeats", "2", "--out", str(out)]
    start("trust.trust", monkeypatch, *arguments)
    found = json.loads(out.read_text())
    assert [(row["text"], row["shifted"], row["request"]) for row in found["requests"]] == [
        (str(text), False, 0),
        (str(text), False, 1),
        ("one word", True, 0),
        ("one word", True, 1),
    ]
    for row in (*found["requests"], *found["damages"]):
        assert row["guarded"]["missed"] <= row["guarded"]["bound"] <= found["limit"]
    damages = {row["damage"]: row for row in found["damages"]}
    assert damages["negated"]["blind"]["missed"] > 0.05
    assert {event[0] for event in damages["nan"]["guarded"]["events"]} == {"scores"}
    (cost,) = found["cost"]
    assert len(cost["timings"]) == 3
    assert cost["guard_ms"] > 0
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    start("trust.trust", monkeypatch, *arguments)  # nothing is left to measure
    assert json.loads(out.read_text()) == found
    tables = runpy.run_module("benchmarks.publish.tables_trust")
    assert "| one word | 2 |" in tables["trust_table"](found)


def test_promise(tmp_path, monkeypatch, novel, smollm2):
    text, out, cache = tmp_path / "text.txt", tmp_path / "promise.json", tmp_path / "cache"
    text.write_text(novel, encoding="utf-8")
    tasks = ["--tasks", "questions", "--texts", "40", "--label-change", "0.4"]
    words = ["--adapters", "none", "--data", str(text), "--length", "24", "--windows", "6"]
    common = ["--settings", "10", "--splits", "3", "--cache", str(cache), "--out", str(out)]
    start("trust.promise", monkeypatch, *tasks, *words, *common)
    task, model = json.loads(out.read_text())
    assert (task["name"], model["name"]) == ("minilm + questions", "smollm2")
    for row in (task, model):
        assert len(row["splits"]) == 3
        assert row["kept"] == sum(each["loss"] <= 0.4 for each in row["splits"])
        assert {each["work"] for each in row["splits"] if each["policy"] == "dense"} <= {1.0}
    assert task["dense"] == 0, "four labels of ten may change"
    assert model["dense"] == 3, "three windows certify nothing"
    assert len(task["ladder"]) == 10

    assert out.with_suffix(".svg").read_text().startswith("<svg")
    tables = runpy.run_module("benchmarks.publish.tables_trust")
    lines = tables["promise_table"]([task, model]).splitlines()[2:]
    assert lines[0].startswith("| minilm + questions | 40 % of labels changed | 40 |")
    assert "| 3 of 3 | 3 of 3 | 3 of 3 | 100 % |" in lines[1], (
        "what stays dense is kept and saves nothing"
    )

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("saa_core.certify.degradation.DegradationMeter.of", refuse)
    start("trust.promise", monkeypatch, *tasks, *words, *common, "--splits", "5")
    again, _ = json.loads(out.read_text())
    assert len(again["splits"]) == 5
    assert again["splits"][:3] == task["splits"]


def test_far(tmp_path, monkeypatch, novel):
    text, out = tmp_path / "text.txt", tmp_path / "far.json"
    text.write_text(novel[:9_000], encoding="utf-8")
    sizes = ["--lengths", "60", "--count", "4", "--checked", "1", "--out", str(out)]
    kinds = ["--english", str(text), "--shifted", "one word"]
    start("trust.far", monkeypatch, "--models", "minilm", *kinds, *sizes)
    found = json.loads(out.read_text())
    own, words = found["rows"]
    assert (own["far"], words["far"], words["count"]) == (0, 4, 4)
    assert min(words["ratios"]) > 1 > max(own["ratios"])
    (checked,) = found["checked"]
    once, twice = checked["once"], checked["twice"]
    assert ["input", "twice"] not in once["events"]
    assert ["input", "twice"] in twice["events"]
    assert max(side["bound"] for side in (once, twice)) <= 0.05
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    tables = runpy.run_module("benchmarks.publish.tables_trust")
    assert "| one word | 60 | 4 of 4 |" in tables["far_table"](found)


def test_tune(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "tune.json"
    text.write_text(novel * 10, encoding="utf-8")
    task = ["--task", "questions", "--source", questions(tmp_path, 400), "--label-change", "0.5"]
    words = ["--data", str(text), "--length", "24", "--windows", "40", "--perplexity", "0.5"]
    common = ["--minutes", "0.05", "--trials", "3", "--folder", str(tmp_path), "--out", str(out)]
    start("trust.tune", monkeypatch, *task, *words, *common)
    labels, model = json.loads(out.read_text())
    assert [row["name"] for row in labels["rows"]][:2] == ["tuned", "shipped default"]
    assert {"mass 0.95", "mass 0.93", "mass 0.9"} < {row["name"] for row in model["rows"]}
    for domain in (labels, model):
        assert domain["compared"] >= 8
        for row in domain["rows"]:
            assert row["within"] == (row["loss"] <= domain["limit"])
            assert row["low"] <= row["loss"] <= row["high"]
        own = domain["rows"][0]
        for row in domain["rows"][1:]:
            beats = row["within"] and (not own["within"] or row["work"] < own["work"])
            assert (row["name"] in domain["better"]) == beats
    assert out.with_suffix(".svg").read_text().startswith("<svg")

    def refuse(*_, **__):
        raise AssertionError("tuned again")

    monkeypatch.setattr("saa_core.certify.tune.tune", refuse)
    start("trust.tune", monkeypatch, *task, *words, *common, "--domains", "task")
    assert json.loads(out.read_text())[1]["rows"] == labels["rows"]
    tables = runpy.run_module("benchmarks.publish.tables_trust")
    assert "50 % of labels changed | tuned: " in tables["tune_table"]([labels, model])


@pytest.mark.browser
@pytest.mark.timeout(600)
def test_ui(tmp_path, monkeypatch, chromium):
    out = tmp_path / "ui.json"
    sizes = ["--rounds", "1", "--sessions", "1", "--out", str(out)]
    start("page.ui", monkeypatch, "--what", "pages", "sessions", *sizes)
    found = json.loads(out.read_text())
    assert len(found["page_switch"]) == 9
    for row in found["page_switch"]:
        assert 0 < row["median_ms"]["title"] <= row["median_ms"]["rest"]
    assert len(found["sessions"]["samples_mib"]) == 2
