"""Tables and texts of users: what they are written in, how cells are separated, what is no text at all."""

import contextlib
import io
import json
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import saa_core as saa
from saa_core.cli.main import main
from saa_core.data import corpus, encodings, labelled, tables

JAPANESE = (
    "これは良い映画でした。",
    "text,label\n良い,1\n",
    "テキスト,ラベル\nとても良い,肯定\n悪い,否定\n",
    "名前",
    "text,label\nﾃｽﾄ,1\n",
    "text,label\nThe Tokyo (東京) tower is tall,1\nAnother plain line,0\n",
    "text,label\nAI技術,1\n",
    "text\niPhoneを買う\n",
    "本文;分類\n良,可\n",
)
LATIN = (
    "text,label\ncafé,1\n",
    "text,label\nUn café très agréable, à côté,bon\n",
    "The cafe was fine\nnaïve\n",
    "Das war schön und größer als gedacht",
    "Zoë",
    "préférée",
    "création, théâtre; Ångström",
    "¿Qué tal? Mañana, niño",
    "price £5 and ½ of it, at 20°C",
    "don’t, won’t, it’s",
    "“good” — it’s",
    "€5 or €6",
)


@pytest.mark.parametrize("text", JAPANESE)
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "cp932", "utf-16", "utf-32"])
def test_japanese_is_read_in_whatever_it_is_written(text, codec):
    assert encodings.decode(text.encode(codec), "it") == text


@pytest.mark.parametrize("text", LATIN)
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_few_accents_are_enough(text, codec):
    assert encodings.decode(text.encode(codec), "it") == text


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("text,label\nテスト,1\n", "utf-16-le"),
        ("text,label\nplain,1\n", "utf-16-be"),
        ("これは良い映画でした。とても良い。", "euc_jp"),
        ("Привет, это довольно длинный текст на русском языке. " * 3, "cp1251"),
        ("这是一个相当长的中文文本，用来测试编码识别。" * 3, "gb18030"),
    ],
)
def test_other_encodings(text, codec):
    assert encodings.decode(text.encode(codec), "it") == text


def test_accents_far_into_a_file_are_found(tmp_path):
    """The part that an encoding is told from begins where ASCII ends, and chunks cut characters."""
    for codec, tail in (
        ("cp932", "良い映画でした"),
        ("cp1252", "très agréable"),
        ("utf-8", "良い"),
    ):
        for gap in (0, 1, 2):
            text = "plain words\n" * 200_000 + "x" * gap + tail * 3
            (tmp_path / "a.txt").write_bytes(text.encode(codec))
            assert encodings.read_text(tmp_path / "a.txt") == text, codec


def test_a_damaged_place_in_utf8_is_not_taken_for_another_encoding():
    with pytest.raises(saa.TextError, match="is UTF-8 but for the byte at position 27;"):
        encodings.decode("良い映画でした。とても".encode()[:27] + b"\xff\n" + "良い".encode(), "it")


@pytest.mark.parametrize(
    "raw",
    [
        bytes(range(256)),
        b"\x89PNG\r\n\x1a\n" + bytes(60),
        b"\x00\x01\x02\x03" * 9,
        b"PK\x03\x04" * 9,
    ],
    ids=["all bytes", "picture", "numbers", "archive"],
)
def test_what_is_no_text_is_said_to_be_none(raw, tmp_path):
    (tmp_path / "a.csv").write_bytes(raw)
    with pytest.raises(saa.TextError, match=r"a\.csv is no text"):
        list(tables.read_column(tmp_path / "a.csv"))


DIALECTS = {
    "commas": ("text,label\na,1\nb,0\n", ["a", "b"]),
    "semicolons around commas": (
        "text;label\nIt was good, really, and nice;1\nNo, never, not;0\n",
        ["It was good, really, and nice", "No, never, not"],
    ),
    "semicolons and decimal commas": ("text;rate\na;0,5\nb;1,5\n", ["a", "b"]),
    "tabs": ("text\tlabel\nhello, you;x\t1\nbye\t0\n", ["hello, you;x", "bye"]),
    "bars": ("text|label\na, b|1\nc|0\n", ["a, b", "c"]),
    "one column": ("text\nOne, two\nThree; four\n", ["One, two", "Three; four"]),
    "one column, every row alike": ("text\nGood, I think\nBad, I think\n", ["Good, I think", "Bad, I think"]),
    "one column, quoted": ('"text"\n"a, b"\nc, d\n', ["a, b", "c, d"]),
    "quoted line ends": (
        'text,label\n"one\ntwo, three",1\n"say ""hi"" now\n\nend",0\n',
        ["one\ntwo, three", 'say "hi" now\n\nend'],
    ),
    "carriage returns": ('text,label\r\n"a\r\nb",1\r\n', ["a\r\nb"]),
    "single quotation marks": ("text,label\n'a, b',1\n'c, d',0\n", ["a, b", "c, d"]),
    "a header in single quotation marks": ("'text','label'\n'fine, yes','1'\n", ["fine, yes"]),
    "apostrophes": ("text,label\nit's,1\n'tis,0\n'so',1\n", ["it's", "'tis", "'so'"]),
    "backslashes": ('text,label\n"say \\"hi\\", now",1\n"b, c",0\n', ['say "hi", now', "b, c"]),
    "a path": ('text,label\n"a path C:\\",1\n"b, c",0\n', ["a path C:\\", "b, c"]),
    "inches": ('text,label\n5" disc,1\nhe said "hi",0\n', ['5" disc', 'he said "hi"']),
    "speech": ('text\tlabel\n"Hello" she said\t1\nb\t0\n', ['"Hello" she said', "b"]),
    "a comma in the header": ("text;label;note, if any\na, b;1;x\n", ["a, b"]),
    "empty lines": ("\ntext,label\n\na,1\n\n\nb,0\n", ["a", "b"]),
    "no comments": ("text,label\n# a,1\n#b,0\n", ["# a", "#b"]),
    "words for nothing": ("text,label\nNULL,1\nnan,0\n", ["NULL", "nan"]),
    "long": (f"text,label\n{'a' * 300_000},1\nb,0\n", ["a" * 300_000, "b"]),
    "long and quoted": ('text,label\n"' + "a,\n" * 200_000 + '",1\nb,0\n', ["a,\n" * 200_000, "b"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_separators_and_quotation_marks_are_recognized(name, tmp_path):
    content, texts = DIALECTS[name]
    for ending in ("csv", "tsv"):
        file = tmp_path / f"a.{ending}"
        file.write_text(content, "utf-8", newline="")
        assert list(tables.read_column(file)) == texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '\n[{"text": "a"}, {"text": "b", "label": 1}]'),
        ("a.json", '{"text": "a"}\n{"text": "b", "label": 1}\n'),
        ("a.ndjson", '{"text": "a"}\n\n{"text": "b", "label": 1}'),
        ("a.JSONL", '\ufeff{"text": "a"}\n{"text": "b"}\n'),
        ("a.tsv", "id\ttext\n1\ta\n2\tb\n"),
    ],
)
def test_every_ending_is_read_as_a_table(name, content, tmp_path):
    (tmp_path / name).write_text(content, "utf-8")
    assert list(tables.read_column(tmp_path / name)) == ["a", "b"]


def test_a_later_row_may_lack_a_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "more": 1}\n{"more": 2}\n{"text": null}\n')
    reading = tables.Reading()
    assert list(tables.read_column(tmp_path / "a.jsonl", "text", reading)) == ["a"]
    assert list(reading.sentences("a.jsonl")) == [
        "a.jsonl: UTF-8, one JSON object a line, 3 rows",
        "a.jsonl: 2 rows have no text: left out (rows 2, 3)",
    ]


def test_what_was_recognized_is_said(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_bytes("text;label\nとても良い;1\n悪い;0\n".encode("cp932"))
    reading = tables.Reading()
    list(tables.read_column(file, "text", reading))
    (said,) = reading.sentences(file)
    assert said == "mine.csv: Shift-JIS (cp932), separated by semicolons, 2 rows"


def test_training_texts_are_read_as_what_they_are(tmp_path):
    """`saa train --data` takes files as well: a table by its column, a text in any encoding."""
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"{i},word {i}\n" for i in range(20)))
    found = corpus.documents([str(tmp_path / "a.csv")])
    assert [each.text for each in found] == [f"word {i}" for i in range(20)]
    (tmp_path / "b.txt").write_bytes("\ufeffとても良い。".encode("utf-16"))
    train, held = corpus.documents([str(tmp_path / "b.txt")])
    assert (train.text + held.text).lstrip("\ufeff") == "とても良い。"


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
WRITTEN = st.builds(
    lambda header, rows, separator, ending, codec: ending.join(
        separator.join(row) for row in [header, *rows]
    ).encode(codec, "replace"),
    st.sampled_from(
        [["text", "label"], ["text"], ["label", "text", "more"], ["'text'", '"label"']]
    ),
    st.lists(st.lists(CELLS, max_size=4), max_size=6),
    st.sampled_from([",", ";", "\t", "|", '","']),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp932", "cp1252", "euc_jp"]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | CELLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELLS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.lists(
    st.dictionaries(st.sampled_from(["text", "label"]) | CELLS, VALUES, max_size=3) | VALUES,
    max_size=4,
)
JSON = OBJECTS.map(lambda rows: json.dumps(rows).encode()) | OBJECTS.map(
    lambda rows: "\n".join(map(json.dumps, rows)).encode()
)


@st.composite
def parquet_bytes(draw):
    """A Parquet file with some of its bytes changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = io.BytesIO()
    texts = draw(st.lists(st.none() | CELLS, min_size=1, max_size=3))
    pq.write_table(
        pa.table({"text": pa.array(texts, pa.string()), "label": [1.5] * len(texts)}), made
    )
    raw = bytearray(made.getvalue())
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=4)
    ):
        raw[at] = value
    return bytes(raw[: draw(st.integers(0, len(raw)))]) if draw(st.booleans()) else bytes(raw)


ANYTHING = st.tuples(
    st.binary(max_size=200) | WRITTEN | JSON | parquet_bytes(),
    st.sampled_from([*tables.READERS, ".txt", ".gz"]),
) | st.tuples(parquet_bytes(), st.just(".parquet"))


@settings(max_examples=200, deadline=None)
@given(ANYTHING)
@example((b"[" * 100_000, ".jsonl"))
@example((b'{"text": ' + b"9" * 5000 + b"}", ".jsonl"))
@example((b'{"text": "\\ud800"}', ".json"))
@example((b"text\n\xff", ".csv"))
@example((b"\xff\xfet", ".csv"))
@example((b"\xef\xbb\xbf", ".json"))
def test_no_bytes_end_in_a_traceback(folder, given_file):
    """Neither in the readers, nor in what `saa classify` and `saa train-task` do before a model is there."""
    raw, ending = given_file
    file = folder / f"a{ending}"
    file.write_bytes(raw)
    for read in (
        lambda: encodings.read_text(file),
        lambda: list(tables.read_rows(file, ())),
        lambda: list(tables.read_column(file)),
        lambda: labelled.from_file(file),
    ):
        with contextlib.suppress(saa.SAAError):
            read()
    with mock.patch("saa_core.loading.load", side_effect=saa.ModelError("no model here")):
        assert main(["classify", str(file), "--task", "mine"]) == 1
        assert main(["train-task", str(file), "--out", str(folder)]) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bytes")
