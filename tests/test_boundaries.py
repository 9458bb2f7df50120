"""Who may import whom, seen from a fresh process; and the public names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import saa_core

ROOT = Path(__file__).parent.parent
LEVELS = """
align errors exact files inputs native reliability types
audited fetch gates guard kernels notebook record rules sla tables token_gates trace trace_check
attention
attach families gate_files task
damage packed runner work
audit audit_figures bars classify cli cli_audit cli_inputs cli_models cli_records cli_reliability cli_tasks cli_tune corpora costs decisions deck difference doctor \
effects explain losses measure policy_file promise report slices store summary tradeoff train tune tune_files
"""
CHARTS = """
palette provenance token_labels
audit_charts exports head_charts label_charts map_picture pair_charts time_charts trust_charts
arc_chart difference_charts
"""


def by_name(lines: str) -> dict[str, int]:
    return {name: index for index, line in enumerate(lines.split("\n")) for name in line.split()}


LEVEL, CHART = by_name(LEVELS), by_name(CHARTS)


def imports(file: Path) -> set[str]:
    """Modules of saa_core that a file imports, by their first name below the package."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("saa_core"):
            below = node.module.split(".")[1:]
            found |= {below[0]} if below else {alias.name for alias in node.names}
    return found & set(LEVEL)


def test_every_module_has_a_level():
    names = {path.stem for path in (ROOT / "saa_core").iterdir() if path.name != "__pycache__"}
    assert names - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "saa_core").rglob("*.py")), ids=lambda path: path.stem
)
def test_imports_point_one_way(file):
    if file == ROOT / "saa_core" / "__init__.py":
        return
    own = file.relative_to(ROOT / "saa_core").parts[0].removesuffix(".py")
    for other in imports(file) - {own}:
        assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}"
    if own in ("rules", "kernels"):
        assert not imports(file) & ({"rules", "kernels"} - {own})


def test_the_core_needs_no_user_interface():
    code = "import sys, saa_core, saa_core.cli; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"streamlit", "altair", "pandas", "session", "palette"} & set(loaded)


def test_only_the_client_loads_or_runs():
    """Pages and components read traces; they never reach for a model."""
    for file in (ROOT / "app").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if file.relative_to(ROOT / "app").as_posix() not in ("service.py", "live/models.py"):
            for call in ("saa.load(", "saa.run(", "saa.measure(", "saa.generate("):
                assert call not in text, f"{file.name} uses {call}"


@pytest.mark.parametrize("name", CHART)
def test_charts_know_no_page(name):
    """Words and theme come as arguments; of one another they import only what is a line above."""
    file = ROOT / "app" / f"{name}.py"
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    assert not found & {"streamlit", "session", "components"}
    for other in found & set(CHART):
        assert CHART[other] < CHART[name], f"{name} imports {other}"


def test_every_module_of_charts_is_listed():
    assert {path.stem for path in (ROOT / "app").glob("*_charts.py")} <= set(CHART)


VALUES = "Call Comparison Force Guard Model Policy Certificate REASONS RiskLimit Spec Store StoredPolicy Timing Trace TrainConfig TrainStep JointConfig JointStep"
ERRORS = "DeckError FetchError GateError KernelError ModelError PolicyError SAAError StoreError TextError TraceError"
FUNCTIONS = (
    "attach certify_policy compare detach generate load load_policy measure run save_adapter save_gates "
    "save_policy train_gates train_joint"
)


def test_public_names():
    assert set(saa_core.__all__) == set(f"{VALUES} {ERRORS} {FUNCTIONS}".split())
    assert all(hasattr(saa_core, name) for name in saa_core.__all__)
    for name in ERRORS.split():
        assert issubclass(getattr(saa_core, name), saa_core.SAAError)
