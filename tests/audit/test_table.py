"""Tables that somebody brings: which columns hold texts, what is counted, and what a model can take."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import saa_core as saa
from saa_core.audit.table import ROWS, ColumnTexts, read_texts, text_columns
from saa_core.audit.texts import check_texts
from saa_core.errors import TextError

RECORDS = [
    {"id": "a1", "title": "One", "body": "The ferry leaves at nine.", "stars": 4},
    {"id": "a2", "title": "", "body": "  ", "stars": 5},
    {"id": "a3", "title": "Three", "body": "夜の海は静かだ。", "stars": 1},
]


def write(folder: Path, ending: str) -> Path:
    file = folder / f"reviews.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps(each) + "\n" for each in RECORDS), "utf-8")
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), file)
    else:
        rows = [[str(value) for value in each.values()] for each in RECORDS]
        file.write_text("\n".join(",".join(row) for row in [[*RECORDS[0]], *rows]), "utf-8")
    return file


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_of_texts_are_found_and_empty_rows_counted(tmp_path: Path, ending: str) -> None:
    file = write(tmp_path, ending)
    columns = text_columns(file)
    assert columns[0] == "body"
    # All that a CSV file holds is text; the others know a number.
    assert set(columns) == {"body", "title", "id"} | ({"stars"} if ending == "csv" else set())
    found = read_texts(file, "body")
    assert found == ColumnTexts((RECORDS[0]["body"], RECORDS[2]["body"]), 3, 1, False)


def test_the_column_named_text_is_likeliest(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("url,text\nhttps://example.org/a-very-long-address,Short.\n")
    assert text_columns(file) == ("text", "url")


def test_only_the_first_rows_are_read_and_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text\n" + "".join(f"Text {at}.\n" for at in range(ROWS + 1)))
    found = read_texts(file, "text")
    assert (found.rows, len(found.texts), found.more) == (ROWS, ROWS, True)
    exact = read_texts(file, "text", ROWS + 1)
    assert (exact.rows, exact.more) == (ROWS + 1, False), "all of them is not more of them"


@pytest.mark.parametrize("content", ["", "text\n", 'text\n""\n'])
def test_a_table_without_texts_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content)
    with pytest.raises(TextError, match=r"a\.csv"):
        text_columns(file)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(TextError, match=r"a\.parquet"):
        text_columns(file)


@pytest.mark.model
def test_texts_are_cut_or_left_out_and_counted(minilm: saa.Model) -> None:
    long = "The ferry leaves at nine. " * 300
    texts = ["A short one.", long, long + "And more.", "A short one.", "\ud800 is half a sign", " "]
    found = check_texts(minilm, texts)
    assert (found.long, found.twice, found.invalid) == (2, 2, 2)
    assert found.texts[0] == "A short one."
    assert len(found.texts) == 2
    assert long.startswith(found.texts[1])
    assert check_texts(minilm, found.texts).long == 0, "what was cut fits"
    left = check_texts(minilm, texts, cut=False)
    assert left.texts == ("A short one.",)
    assert (left.long, left.twice, left.invalid) == (2, 1, 2)
