"""The example of README.md runs, as it stands there, from a checkout."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.slow
def test_the_example_of_the_readme_runs(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "runs" / "first" / "summary.json").exists()
    assert "\ndef " in run.stdout.rpartition("done: ")[2]  # the sample, after what training says
