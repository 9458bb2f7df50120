"""What cannot be written is one sentence, whichever command writes; nobody sees a traceback.

Tests may run as root, whom no rights stop: the place that cannot be written lies below a file.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from saa_core.cli.main import main

ROOT = Path(__file__).parents[2]
WORDS = 97


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A small random language model with its tokenizer, as a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", eos_token="w2")
    tiny().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def below(tmp_path) -> str:
    """A place below a file."""
    (tmp_path / "file").write_text("no folder")
    return str(tmp_path / "file" / "x")


@pytest.fixture
def texts(tmp_path) -> str:
    file = tmp_path / "texts.csv"
    rows = (" ".join(f"w{(i * k) % WORDS}" for i in range(24)) for k in range(3, 43))
    file.write_text("\n".join(["text", *rows]))
    return str(file)


@pytest.fixture
def long_text(tmp_path) -> str:
    file = tmp_path / "long.txt"
    file.write_text(" ".join(f"w{i % WORDS}" for i in range(900)))
    return str(file)


@pytest.fixture
def book(tmp_path) -> str:
    """Long enough to be split into parts."""
    file = tmp_path / "book.txt"
    file.write_text(" ".join(f"w{i * i % WORDS}" for i in range(6_000)))
    return str(file)


def refused(arguments: list[str], place: str, capsys) -> None:
    """The command ends with one sentence that names the place."""
    assert main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("saa: ")]
    assert "Traceback" not in "".join(lines)
    assert str(Path(place).parent) in lines[-1]


TRACE = str(next((ROOT / "assets" / "decks").glob("*-bakery.saa")))
WITHOUT_MODEL = {
    "report": ["report", TRACE, "--out", "PLACE"],
    "present": ["present", "engineers", "--out", "PLACE"],
    "query-out": ["query", "SELECT 1", "--out", "PLACE"],
    "query-store": ["query", "SELECT 1", "--store", "PLACE"],
    "query-parquet": ["query", "SELECT 1", "--format", "parquet", "--out", "PLACE"],
    "fetch": ["fetch", "minilm", "--cache", "PLACE"],
}
WITH_MODEL = {
    "run-out": ["run", "LONG", "--model", "MODEL", "--out", "PLACE"],
    "run-store": ["run", "LONG", "--model", "MODEL", "--store", "PLACE"],
    "measure": ["measure", "--model", "MODEL", "--lengths", "32", "--repeats", "1", "--json", "PLACE"],
    "audit": ["audit", "TEXTS", "--model", "MODEL", "--limit", "2", "--store", "PLACE"],
    "tune": [
        *("tune", "--data", "TEXTS", "--model", "MODEL", "--sla", "perplexity=0.5"),
        *("--trials", "1", "--minutes", "0.05", "--out", "PLACE"),
    ],
    "train": ["train", "--model", "MODEL", "--steps", "2", "--lengths", "64", "--data", "BOOK", "--out", "PLACE"],
    "joint": ["joint", "--model", "MODEL", "--steps", "2", "--lengths", "64", "--data", "BOOK", "--out", "PLACE"],
    "calibrate": ["calibrate", "--model", "MODEL", "--length", "64", "--data", "BOOK", "--out", "PLACE"],
    "reliability": ["reliability", "--model", "MODEL", "--lengths", "64", "--data", "BOOK", "--out", "PLACE"],
    "ood": ["ood", "--fit-windows", "2", "--limit-windows", "2", "--model", "MODEL", "--lengths", "64", "--data", "BOOK", "--out", "PLACE"],
}  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [  # fetching finds out that nothing can be written only when it begins to
        pytest.param(name, marks=pytest.mark.model if name == "fetch" else ())
        for name in WITHOUT_MODEL
    ],
)
def test_a_command_without_a_model_says_what_it_cannot_write(
    command, below, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SAA_CACHE", str(tmp_path / "cache"))
    arguments = [below if each == "PLACE" else each for each in WITHOUT_MODEL[command]]
    refused(arguments, below, capsys)


@pytest.mark.parametrize("command", list(WITH_MODEL))
def test_a_command_with_a_model_says_what_it_cannot_write(
    command, below, folder, texts, long_text, book, capsys
):
    given = {"PLACE": below, "MODEL": str(folder), "TEXTS": texts, "LONG": long_text, "BOOK": book}
    refused([given.get(each, each) for each in WITH_MODEL[command]], below, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "--format", form, "SELECT * FROM range(200000)"]
        for form in ("table", "csv", "json")
    ]
    + [["run", "--help"]],
)
def test_head_ends_a_command_without_a_word(arguments, tmp_path):
    """As with ``| head -1``: the reader leaves after the first line."""
    with subprocess.Popen(
        [sys.executable, "-m", "saa_core.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "SAA_STORE": str(tmp_path)},
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b""
    assert process.returncode in (0, 1)


@pytest.mark.model
def test_labels_that_cannot_be_written_are_one_sentence(below, texts, capsys):
    place = f"{below}.csv"
    refused(["classify", texts, "--task", "questions", "--out", place], place, capsys)


@pytest.mark.model
def test_a_task_that_cannot_be_written_is_one_sentence(below, tmp_path, capsys):
    file = tmp_path / "labelled.csv"
    rows = (f"{kind} of number {i},{kind}" for i in range(40) for kind in ("cat", "dog"))
    file.write_text("\n".join(["text,label", *rows]))
    steps = ["--steps", "1", "1", "--limit", "40"]
    refused(["train-task", str(file), *steps, "--out", below], below, capsys)
