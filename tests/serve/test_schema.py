"""Whatever the OpenAPI description allows, and what it does not: no status of 500, no traceback."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.serving import Running

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.mark.slow
def test_no_request_makes_a_fault(own: Running, tmp_path):
    command = shutil.which("schemathesis", path=str(SCHEMATHESIS.parent))
    if command is None:
        pytest.skip("schemathesis is not installed")
    given = ["--checks", "not_a_server_error", "--max-examples", "3", "--seed", "1", "--no-shrink"]
    given += ["--phases", "coverage,fuzzing", "--generation-database", "none", "--no-color"]
    done = subprocess.run(
        [command, "run", f"{own.address}/openapi.json", *given],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert own.figure("saa_request_errors_total", reason="internal") == 0
    assert own.ask("/v1/classify", {"model": "toys", "input": "w5"}).status == 200
