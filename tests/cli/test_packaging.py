"""What is installed: every package and every file that is no Python, as pyproject.toml declares them."""

import subprocess
import tomllib
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent.parent
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]


def sources(folder: str) -> list[PurePosixPath]:
    """Files of the repository below a folder; those that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [PurePosixPath(line) for line in listed.splitlines() if (ROOT / line).exists()]


def test_every_room_is_a_package_that_is_installed():
    rooms = {file.parent for file in sources("saa_core") if file.suffix == ".py"}
    assert {".".join(room.parts) for room in rooms} == set(DECLARED["packages"]) - {
        "saa_core.assets"
    }
    for room in rooms:
        assert (ROOT / room / "__init__.py").is_file(), f"{room} is no package"


def test_every_file_that_is_no_python_is_installed():
    patterns = DECLARED["package-data"]
    missing = []
    for file in [*sources("saa_core"), *sources("assets")]:
        if file.suffix == ".py":
            continue
        if file.parts[0] == "assets":
            package, inside = "saa_core.assets", file.relative_to("assets")
        else:
            package, inside = ".".join(file.parent.parts), PurePosixPath(file.name)
        # As setuptools does: each part of the pattern against one part of the path.
        if not any(
            len(PurePosixPath(pattern).parts) == len(inside.parts) and inside.match(pattern)
            for pattern in patterns.get(package, ())
        ):
            missing.append(str(file))
    assert missing == []
