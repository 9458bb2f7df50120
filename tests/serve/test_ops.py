"""The files for operators: rules that promtool takes and tests, and a dashboard of series that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from saa_core.serve.metrics import FALLBACKS, Metrics

OPS = Path(__file__).parents[2] / "ops"
RULES = OPS / "prometheus" / "rules.yml"
DOCUMENT = OPS.parent / "docs" / "operations.md"
NAME = re.compile(r"\b(?:saa_[a-z0-9_]+|process_[a-z_]+)\b")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def exported() -> set[str]:
    """Names of samples, of a server on which everything happened once."""
    metrics = Metrics(["m"], "cpu")
    for metric in vars(metrics).values():
        names = getattr(metric, "_labelnames", None)
        if names:
            child = metric.labels(*("m" for _ in names))
            assert child is not None
    samples = {s.name for f in metrics.registry.collect() for s in f.samples}
    types = {"histogram": ("_bucket", "_sum", "_count")}
    for family in metrics.registry.collect():
        samples |= {family.name + end for end in types.get(family.type, ())}
    return samples


def expressions() -> list[str]:
    board = json.loads((OPS / "grafana" / "saa.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_promtool_takes_the_rules_and_their_tests_pass(promtool):
    for command in (["check", "rules", str(RULES)], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(
            [promtool, *command], cwd=RULES.parent, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_metrics(promtool):
    metrics = Metrics(["m"], "cpu")
    metrics.fell_back("m", "classify", "nan")
    metrics.latency.labels("m", "classify", "sparse").observe(0.1)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.text(), capture_output=True, timeout=300
    )
    said = (done.stdout + done.stderr).decode()
    assert "saa_" not in said, said


def test_every_alert_is_tested_both_ways_and_explained():
    rules, tests = RULES.read_text(), (RULES.parent / "rules_test.yml").read_text()
    document = DOCUMENT.read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    assert len(alerts) == len(set(alerts)) > 10
    for key in ("reason", "action", "summary"):
        assert len(re.findall(rf"^ +{key}: ", rules, re.MULTILINE)) == len(alerts)
    for alert in alerts:
        silent = re.search(rf"alertname: {alert}, exp_alerts: \[\]", tests)
        fires = re.search(rf"alertname: {alert}\n\s+exp_alerts: \[{{", tests)
        assert silent, f"{alert} is never tested to stay silent"
        assert fires, f"{alert} is never tested to fire"
        assert f"`{alert}`" in document, f"{alert} is not in docs/operations.md"


def test_rules_and_dashboard_name_series_that_there_are():
    known = exported()
    recorded = RULES.read_text()
    for text in (*expressions(), *re.findall(r"expr: (.+(?:\n {10}.+)*)", recorded)):
        for name in NAME.findall(text):
            assert name in known, f"{name} is not exported"
    reasons = set(re.findall(r'saa_fallbacks_total\{reason=~?"([a-z|]+)"', recorded))
    assert {each for group in reasons for each in group.split("|")} <= set(FALLBACKS)


def test_the_dashboard_can_be_brought_into_any_grafana():
    board = json.loads((OPS / "grafana" / "saa.json").read_text())
    assert board["id"] is None
    assert board["uid"] == "saa-serve"
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "$datasource"
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    for expression in expressions():
        assert "rate(" not in expression or "$__rate_interval" in expression
