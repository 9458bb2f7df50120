"""How a file is written: with the rights of any other, whatever other threads write, under names that fit."""

import json
import math
import os
import stat
from collections.abc import Iterator

import pytest

from saa_core.files import replacing, shorten, write_json, write_text


@pytest.fixture
def umask() -> Iterator[int]:
    """One that tests can tell from the usual ones, set as whoever starts the process does."""
    before = os.umask(0o037)
    yield 0o037
    os.umask(before)


def test_a_file_follows_the_umask_which_is_never_changed(tmp_path, umask, monkeypatch):
    """A umask is of the whole process: while it is 0, what other threads write is for everybody."""

    def changed(mask):
        raise AssertionError(f"os.umask({mask}) was called")

    with monkeypatch.context() as patch:
        patch.setattr(os, "umask", changed)
        write_text(tmp_path / "own.txt", "x")
    (tmp_path / "any.txt").write_text("x")
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("own.txt", "any.txt")]
    assert rights == [0o640, 0o640]


def test_the_rights_stay_where_the_writer_made_a_file_of_its_own(tmp_path, umask):
    with replacing(tmp_path / "a.txt") as part:
        part.unlink()
        part.touch(0o600)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_any_name_that_the_disk_holds_can_be_replaced(tmp_path):
    name = "記" * 83 + ".saa"  # 253 bytes
    write_text(tmp_path / name, "x")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_what_failed_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "most", "short"), [("記録", 6, "記録"), ("記録", 5, "記"), ("ab", 1, "a"), ("", 3, "")]
)
def test_a_name_is_cut_between_characters(name, most, short):
    assert shorten(name, most) == short


def test_what_is_no_number_is_null_in_json(tmp_path):
    value = {
        "a": math.nan,
        "b": [1.5, (math.inf, "x")],
        "c": {"d": -math.inf},
        "e": True,
        "f": None,
    }
    write_json(tmp_path / "a.json", value)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, [None, "x"]], "c": {"d": None}, "e": True, "f": None}
