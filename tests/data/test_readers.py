"""Readers on files made here: markup goes, words stay, and what returns is said once."""

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import saa_core as saa
from saa_core.data import fetch, packages
from saa_core.data.readers import READERS

LONG = "This paragraph is long enough that nobody would write it twice by chance, in two places. "


def tarball(file, texts):
    with tarfile.open(file, "w:gz") as package:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw := text.encode())
            package.addfile(member, io.BytesIO(raw))
    return file


def zipped(file, texts, encoding="utf-8"):
    with zipfile.ZipFile(file, "w") as package:
        for name, text in texts.items():
            package.writestr(name, text.encode(encoding))
    return file


def read(source, file):
    return dict(READERS[source](file))


def test_every_pinned_text_with_a_kind_has_a_reader():
    named = {name for name, entry in fetch.datasets().items() if entry.kind}
    assert named == set(READERS)


def test_a_page_becomes_text_whose_program_keeps_its_lines():
    page = (
        "<html><head><title>T</title></head><body><h1>Loops</h1>\n<p>A loop\n  <b>repeats</b>&nbsp;it.</p>"
        "<pre class='x'>for i in 1 2\n  do &lt;this&gt;\n</pre><ul><li>one</li><li>two</li></ul></body></html>"
    )
    assert packages.plain(page) == (
        "Loops\n\nA loop repeats it.\n\nfor i in 1 2\n  do <this>\n\none\n\ntwo"
    )


def test_a_paragraph_that_returns_is_said_once():
    named = [
        ("a", f"One\n\n{LONG * 9}"),
        ("b", f"Two\n\n{LONG * 9}\n\n{'Else. ' * 120}"),
        ("c", "-"),
    ]
    (_, first), (name, second) = packages.without_repetitions(named)
    assert LONG in first
    assert (name, LONG in second, "Two" in second) == ("b", False, True)


def test_chapters_come_in_their_order(tmp_path):
    texts = {f"package/data/chapter_{n}.txt": f"CHAPTER {n}.\n" for n in (1, 10, 2)}
    texts["package/data/chapter_1.json"] = "{}"
    found = read("moby-dick", tarball(tmp_path / "a.tgz", texts))
    assert list(found.values()) == ["CHAPTER 1.", "CHAPTER 2.", "CHAPTER 10."]


def test_a_dictionary_begins_with_its_entries_and_has_no_marks(tmp_path):
    file = tmp_path / "gcide.dict.dz"
    entry = "  A {thing}, once seen; a matter of words. " * 600
    text = (
        f"Preface.\n0 \\0\\ adj.\n   {entry}\n      [1913 Webster]\n\nOne \\One\\ n.\n   1. A unit."
    )
    file.write_bytes(gzip.compress(text.encode()))
    (found,) = read("dictionary", file).values()
    assert found.startswith("0 \\0\\ adj.\n     A thing, once")
    assert not re.search(r"[{}]|Webster|Preface", found)


def test_the_guide_has_no_navigation_and_no_numbers_of_lines(tmp_path):
    page = (
        '<HTML><HEAD><TITLE>x</TITLE></HEAD><BODY\nCLASS="C"\n><DIV\nCLASS="NAVHEADER"\n>Prev<HR></DIV\n>'
        f'<H1\n>Here Documents</H1\n><P\n>{LONG * 8}</P\n><PRE\nCLASS="P">   1&nbsp;echo &#60;a\n   2&nbsp;'
        '  done</PRE\n><DIV\nCLASS="NAVFOOTER"\n>Next</DIV\n></BODY\n></HTML\n>'
    )
    file = zipped(tmp_path / "a.zip", {"usr/html/here.html": page, "usr/html/index.html": page})
    (found,) = read("bash-guide", file).values()
    assert found.startswith("Here Documents\n\nThis paragraph")
    assert found.endswith("echo <a\n  done")


def test_documentation_in_markdown_keeps_its_title_only(tmp_path):
    page = f"---\ntitle: npm-ci\nsection: 1\n---\n\n### Synopsis\n\n<!-- made -->\n\n{LONG * 8}\n"
    file = tarball(tmp_path / "a.tgz", {"package/docs/content/commands/npm-ci.md": page})
    text = read("npm-manual", file)["npm-ci"]
    assert text.startswith("# npm-ci\n\n### Synopsis")
    assert "section:" not in text
    assert "made" not in text


def test_a_manual_begins_behind_its_contents(tmp_path):
    file = tmp_path / "policy.txt.gz"
    text = "Policy\n\n* 1. About\n\n1. About this manual\n********************\n\nWords.\n"
    file.write_bytes(gzip.compress(text.encode()))
    assert list(read("policy", file).values()) == [text[text.index("1. About this") :]]


def test_mails_are_read_once_and_answers_stay_with_their_subject(tmp_path):
    def mail(subject, body):
        return f"From: a@b.example\nSubject: {subject}\n\n{body}\n"

    bodies = {
        "easy-ham-1/1": mail("[list] Tea", "I like tea, and a biscuit with it."),
        "easy-ham-1/2": mail("Re: [list] Tea", "> I like tea\nCoffee for me."),
        "hard-ham-1/3": mail("News", "Nothing happened."),
        "spam-1/4": mail("News again", "Nothing  HAPPENED."),
    }
    texts = {f"package/data/{name}.txt": text for name, text in bodies.items()}
    found = list(READERS["mails"](tarball(tmp_path / "a.tgz", texts)))
    assert {packages.group(name) for name, _ in found} == {"tea", "news"}
    said = {text for _, text in found}
    assert "Subject: Re: [list] Tea\n\nCoffee for me." in said
    assert len(said) == 3
    places = [packages.group(name) == "tea" for name, _ in found]
    assert places in ([True, True, False], [False, True, True])


def test_a_conversation_is_read_once_with_its_turns(tmp_path):
    page = (
        "categories:\n- x\nconversations:\n- - 'It''s late: why?'\n  - Because the clock\n    says so.\n"
        '- - Hello\n  - "Say \\"hi\\""\n- - Hello\n  - "Say \\"hi\\""\n'
    )
    file = zipped(tmp_path / "a.whl", {"chatterbot_corpus/data/english/a.yml": page})
    assert sorted(read("chats", file).values()) == [
        'User: Hello\nAssistant: Say "hi"',
        "User: It's late: why?\nAssistant: Because the clock says so.",
    ]


def test_conversations_of_a_game_tell_answers_from_what_is_told(tmp_path):
    mission = (
        'mission "A"\n\tlanding\n\ton offer\n\t\tconversation\n\t\t\t`You meet "<first>" on <planet>.`\n'
        '\t\t\tchoice\n\t\t\t\t`\t"Yes."`\n\t\t\t\t\taccept\n\t\t\t\t`\t"No."`\n\t\t\t`\tHe goes away.`\n'
    )
    long = mission.replace("He goes away.", LONG * 3).replace('"A"', '"B"')
    file = zipped(tmp_path / "a.zip", {"usr/data/start.txt": f"{mission}\n{long}"})
    (text,) = read("endless-sky", file).values()
    assert text == f'You meet "Robin" on planet.\n\n> "Yes."\n\n> "No."\n\n{(LONG * 3).strip()}'


def test_a_campaign_says_who_speaks(tmp_path):
    scene = (
        '[scenario]\nstory= _ "A <i>dark</i> night."\n[message]\n speaker="Li\'sar"\n image=x.png\n'
        ' message= _ "He said ""no""."\n[/message]\n[message]\n speaker=unit\n message=_"Huff."\n[/message]\n'
        f'[message]\n speaker=narrator\n message= _ "{LONG * 7}"\n[/message]\n[/scenario]\n'
    )
    file = zipped(tmp_path / "a.zip", {"usr/scenarios/01_Night.cfg": scene})
    text = read("wesnoth-suns", file)["01_Night"]
    assert text.startswith('A dark night.\n\nLi\'sar: He said "no".\n\nSoldier: Huff.\n\nThis')


def test_lists_lose_their_headers(tmp_path):
    devices = tmp_path / "pci.ids"
    devices.write_text("#\n# Version 1\n\n0014  Loongson\n# seen once\n\t7a00  Bridge\n")
    assert list(read("devices", devices).values()) == ["0014  Loongson\n\t7a00  Bridge"]
    names = tmp_path / "NamesList.txt"
    names.write_text(
        "@@@\tThe Standard\n@+\tlicence\n@@\t0000\tBasic Latin\t007F\n@@+\n@\t\tLetters\n0041\tLATIN\n"
    )
    assert list(read("characters", names).values()) == [
        "Basic Latin (0000 to 007F)\n\nLetters\n0041\tLATIN"
    ]


def test_a_long_table_ends_with_a_whole_row(tmp_path):
    table = io.StringIO()
    csv.writer(table).writerows([("city", "people"), *((f"City {n}", n) for n in range(9000))])
    file = zipped(tmp_path / "a.whl", {"vega_datasets/_data/a.csv": table.getvalue()})
    text = read("tables", file)["a.csv"].replace("\r", "")
    assert 50_000 < len(text) <= 60_000
    assert re.fullmatch(r"City \d+,\d+", text.split("\n")[-1])


def test_licences_of_a_family_stay_together_and_repeat_nothing(tmp_path):
    own = {
        name: f"{name} licence\n\n" + f"{name} says so. " * 120
        for name in ("MIT-0", "BSD-2", "BSD-3")
    }
    texts = {
        f"package/licenses/{name}.json": json.dumps(
            {"licenseText": f"{text}\n\n{LONG * 2}\n\n{LONG * 2}"}
        )
        for name, text in own.items()
    }
    found = read("licences", tarball(tmp_path / "a.tgz", texts))
    assert {packages.group(name) for name in found} == {"BSD", "MIT"}
    assert sum(text.count((LONG * 2).strip()) for text in found.values()) == 1


def test_speeches_and_sources_of_code_are_whole_files(tmp_path):
    speech = tarball(tmp_path / "a.tgz", {"package/data/1790_a.txt": " Dear all.\n"})
    assert read("speeches", speech) == {"1790_a": "Dear all."}
    modules = {"package/src/internal/a.ts": "let a = 1;\n" * 300, "package/src/internal/b.ts": "b"}
    assert list(read("typescript", tarball(tmp_path / "b.tgz", modules))) == ["src/internal/a.ts"]


def test_essays_end_before_the_links_to_others(tmp_path):
    page = f'<body><h1>C.1 Why?</h1><p>{LONG * 8}</p><div id="book-navigation-2">next</div></body>'
    file = zipped(tmp_path / "a.zip", {"usr/html/secC1.html": page, "usr/html/links.html": page})
    (text,) = read("essays", file).values()
    assert text == f"C.1 Why?\n\n{(LONG * 8).strip()}"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian's packages need dpkg-deb")
def test_of_a_debian_package_only_the_members_are_kept(tmp_path, monkeypatch):
    """The package is built here; its hash is checked as it comes, and what is kept is a zip file."""
    monkeypatch.setenv("SAA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "game"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: game\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.example>\nDescription: x\n"
    )
    (root / "data").mkdir()
    (root / "data" / "a.cfg").write_text("words")
    (root / "data" / "a.png").write_bytes(b"picture" * 1000)
    deb = tmp_path / "game_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", root, deb], check=True, capture_output=True)
    entry = fetch.Pinned(
        "game", "A game", "game", hashlib.sha256(deb.read_bytes()).hexdigest(), "MIT",
        source="debian", members="*.cfg", use="train", kind="dialogue",
    )  # fmt: skip

    def download(_entry, work, _report):
        return Path(shutil.copy(deb, work))

    monkeypatch.setattr(fetch, "_download_debian", download)
    monkeypatch.setattr(fetch, "datasets", lambda: {"game": entry})
    file = fetch.fetch_data("game")
    assert list(packages.members(file, "*")) == [("data/a.cfg", "words")]
    lacking = {"lacking": fetch.Pinned(**{**vars(entry), "name": "lacking", "members": "*.txt"})}
    monkeypatch.setattr(fetch, "datasets", lambda: lacking)
    with pytest.raises(saa.FetchError, match=r"game does not contain \*\.txt"):
        fetch.fetch_data("lacking")
