"""Forces in an address."""

import pytest

import saa_core as saa
from app.state import address as link


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (saa.Force(), saa.Force(keep=False, layer=3)),
        (saa.Force(layer=1, head=2, query=3, key=4), saa.Force(keep=False, query=(5, 9), key=7)),
    ],
    ids=["nothing", "layers", "pairs"],
)
def test_forces_come_back_from_an_address(entries) -> None:
    assert link.forces(link.forces_text(entries) or "") == entries
    assert link.forces((link.forces_text(entries) or "").replace("+", " ")) == entries


@pytest.mark.parametrize(
    "written", ["x", "+L-1", "+Q9-2", "+L1.H", "*", "+L1;drop", "+K" + "9" * 30]
)
def test_an_address_of_forces_that_makes_no_sense_is_ignored(written: str) -> None:
    assert link.forces(written) == ()
