"""Who may import whom, read from the files; what a fresh process loads; and the public names."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import saa_core

ROOT = Path(__file__).parent.parent
ROOMS = (
    *(
        "errors",
        "files",
        "exact",
        "bounds",
        "timings",
        "types",
        "pairs",
        "native",
        "triton",
        "convert",
        "data",
    ),
    *("gates", "rules", "kernels", "trace", "families", "guard", "task", "attention"),
    *("store", "report", "model", "attach", "loading", "deck", "run", "explain", "train", "export"),
    *("certify", "audit", "serve", "cli"),
)
"""Modules and folders of saa_core from the ground up: each imports only what stands before it."""
APP_ROOMS = (
    *("text", "run_page", "charts", "live", "service", "export", "state", "components", "views"),
)
"""The same of app. main.py and router.py are what is served, and import anything."""
MOST_MODULES, MOST_IN_CORE = 14, 12


def modules(package: str) -> dict[str, Path]:
    """The files of a package by the name under which they are imported."""
    found = {}
    for file in (ROOT / package).rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules among ``known`` that a file imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                yield name


def room(module: str) -> str:
    """The folder or module directly below the package."""
    return module.split(".")[1] if "." in module else module


def upward(package: str, rooms: tuple[str, ...]) -> list[str]:
    """Imports that do not go from a room to one below it."""
    known, rank = modules(package), {name: at for at, name in enumerate(rooms)}
    return [
        f"{module} imports {other}"
        for module, file in known.items()
        for other in imports(file, known)
        if room(module) in rank
        and room(module) != room(other)
        and rank.get(room(other), len(rank)) >= rank[room(module)]
    ]


def test_every_room_has_a_rank():
    names = {path.stem for path in (ROOT / "saa_core").iterdir() if path.name != "__pycache__"}
    assert names - {"__init__", "py"} == set(ROOMS)
    own = {path.stem for path in (ROOT / "app").iterdir() if path.name != "__pycache__"}
    assert own - {"__init__", "main", "router"} == set(APP_ROOMS)


def test_imports_point_down():
    assert upward("saa_core", ROOMS) == []
    assert upward("app", APP_ROOMS) == []


@pytest.mark.parametrize(
    "line", ["from saa_core.run import text", "def f():\n    import saa_core.cli.main"]
)
def test_a_planted_upward_import_is_found(line, tmp_path, monkeypatch):
    folder = tmp_path / "saa_core"
    for name in ("rules", "run", "cli"):
        (folder / name).mkdir(parents=True)
    (folder / "run" / "text.py").touch()
    (folder / "cli" / "main.py").touch()
    (folder / "rules" / "mass.py").write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (found,) = upward("saa_core", ROOMS)
    assert found.startswith("saa_core.rules.mass imports saa_core.")


@pytest.mark.parametrize("package", ["saa_core", "app"])
def test_no_circle_between_files(package):
    known = modules(package)
    arrows = {name: set(imports(file, known)) - {name} for name, file in known.items()}
    arrows[package] = set()  # the list of public names, which imports only what is asked for
    TopologicalSorter(arrows).prepare()  # raises CycleError with the circle


def test_folders_stay_small():
    for package in ("saa_core", "app"):
        for folder in {file.parent for file in modules(package).values()}:
            count = sum(1 for file in folder.glob("*.py") if file.name != "__init__.py")
            most = MOST_IN_CORE if folder == ROOT / "saa_core" else MOST_MODULES
            assert count <= most, f"{folder} holds {count} modules"


def test_rules_and_kernels_never_import_each_other():
    known = modules("saa_core")
    for name, other in (("rules", "kernels"), ("kernels", "rules")):
        for module, file in known.items():
            if room(module) == name:
                assert other not in {room(found) for found in imports(file, known)}


def test_nothing_imports_the_app():
    for package in ("saa_core", "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    assert node.module.partition(".")[0] != "app", file


def test_the_core_needs_no_user_interface():
    code = "import sys, saa_core, saa_core.cli.main; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"streamlit", "altair", "pandas", "app"} & set(loaded)


CLIENT = ("service.py", "live/models.py", "live/passes.py")


def test_only_the_client_loads_or_runs():
    """Pages and components read traces; they never reach for a model."""
    for file in (ROOT / "app").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if file.relative_to(ROOT / "app").as_posix() not in CLIENT:
            for call in ("saa.load(", "saa.run(", "saa.measure(", "saa.generate(", "execute("):
                assert call not in text, f"{file.name} uses {call}"


def test_charts_and_client_know_no_page():
    """Words and theme come as arguments: neither imports Streamlit."""
    folders = (ROOT / "app" / "charts", ROOT / "app" / "live")
    files = [*(file for folder in folders for file in folder.glob("*.py"))]
    files.append(ROOT / "app" / "service.py")
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "import streamlit" not in text, file
        assert "from streamlit" not in text, file


VALUES = (
    "Call Certificate Comparison Force Guard JointConfig JointStep Model Policy REASONS RiskLimit Spec "
    "Store StoredPolicy Timing Trace TrainConfig TrainStep"
)
ERRORS = (
    "DeckError FetchError GateError KernelError ModelError PolicyError SAAError StoreError TextError "
    "TraceError"
)
FUNCTIONS = (
    "attach certify_policy compare detach export generate load load_policy measure open_engine run "
    "save_adapter save_gates save_policy train_gates train_joint"
)


def test_public_names():
    names = f"{VALUES} {ERRORS} {FUNCTIONS}".split()
    assert set(saa_core.__all__) == set(names)
    for name in ERRORS.split():
        assert issubclass(getattr(saa_core, name), saa_core.SAAError)


def test_functions_stay_reachable_beside_rooms_of_their_name():
    """Importing the rooms `attach` and `run` must not put them in place of the functions."""
    code = (
        "import saa_core.attach, saa_core.run.text, saa_core, importlib\n"
        "importlib.import_module('saa_core.run.timing')\n"
        "for name in saa_core.__all__: getattr(saa_core, name)\n"
        "assert callable(saa_core.run) and callable(saa_core.attach)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("old", "new"),
    [("Sla", "RiskLimit"), ("Promise", "Certificate"), ("choose_policy", "certify_policy")],
)
def test_names_of_before_still_work_and_say_so(old, new):
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(saa_core, old) is getattr(saa_core, new)
