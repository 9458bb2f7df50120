"""Help pages and manual pages as passages: what is read of a page, and that a page lies in one split."""

import gzip
import zipfile
from collections import Counter, defaultdict

import pytest

from saa_core.data import fetch
from saa_core.data.documents import MOST_PASSAGES, help_pages, is_japanese, manual_pages, passages
from saa_core.data.labelled import examples

PAGE = """<html><head><title>題</title></head><body><header>LibreOffice 7.4 ヘルプ</header>
<div id="DisplayArea">{body}
<div class="relatedtopics"><p>関連項目</p></div></div>
<div id="SearchFrame"></div><footer>debug</footer></body></html>"""
SENTENCE = "セルに入力した数式の結果は、参照先の値が変わるたびに、もう一度計算されて表示されます。"
ROFF = r""".\" a comment
.TH LS "1" "2021年5月" "GNU coreutils"
.SH 名前
ls \- ディレクトリの内容を\fBリスト\fR表示する。chmod (1) も見よ。
.TS
表の中身
.TE
.SH 説明
.TP
\fB\-a\fR, \fB\-\-all\fR
{sentence}
.SH 著者
だれか
.SH 関連項目
.BR cp (1)
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Writes an archive that stands in for the one that would be fetched."""
    file = tmp_path / "source.zip"
    monkeypatch.setattr(fetch, "fetch_data", lambda _name, _progress=None: file)

    def write(pages):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in pages.items():
                archive.writestr(name, content)
        return file

    return write


def page(*paragraphs):
    return PAGE.format(body="".join(f'<p class="paragraph">{text}</p>\n' for text in paragraphs))


def test_a_help_page_is_read_without_its_frame(source):
    text = f"{SENTENCE}<span class='emph'>値</span>&amp;<!-- not -->{SENTENCE}"
    pages = {
        "scalc/01/a.html": page("見出し", text),
        "shared/01/a.html": page(text),
        "scalc/01/b.html": page("Not translated yet, not at all. " * 20),
    }
    (found,) = help_pages(source(pages), japanese=True)
    assert found.text == f"見出し\n{SENTENCE}値&{SENTENCE}"
    assert (found.label, found.document) == ("calc", "scalc/01/a.html")
    english = list(help_pages(source(pages), japanese=False))
    assert "scalc/01/b.html" in {passage.document for passage in english}


def test_a_manual_page_is_read_without_requests_and_asides(source):
    pages = {
        "man1/ls.1.gz": gzip.compress(ROFF.replace("{sentence}", SENTENCE * 2).encode()),
        "man2/open.2.gz": gzip.compress(ROFF.encode()),
    }
    (found,) = manual_pages(source(pages))
    assert found.text.split("\n") == [
        "名前 ls - ディレクトリの内容をリスト表示する。chmod も見よ。",
        "説明",
        f"-a, --all {SENTENCE * 2}",
    ]
    assert (found.label, found.document) == ("commands", "man1/ls.1.gz")


def test_long_pages_are_cut_at_sentences_and_do_not_count_for_all():
    found = passages([SENTENCE * 200], japanese=True)
    assert len(found) == MOST_PASSAGES
    assert all(240 <= len(text) < 400 and text.endswith("。") for text in found)
    assert passages(["短い。"], japanese=True) == []
    assert not is_japanese("日本語 and much English beside it, as in many pages")


def test_a_page_lies_in_one_split_and_in_every_language_in_the_same(source):
    source(
        {
            f"swriter/guide/{at}.html": page(*(f"{at} {part} {SENTENCE * 7}" for part in range(4)))
            for at in range(60)
        }
    )
    splits = defaultdict(set)
    for task in ("help-ja", "help-en"):
        for found in examples(task):
            splits[found.text.split()[0]].add(found.split)
    assert len(splits) == 60
    assert all(len(own) == 1 for own in splits.values())
    shares = Counter(split for own in splits.values() for split in own)
    assert min(shares.values()) == shares["validation"] > 4
    assert shares["train"] > shares["test"] > 8
