"""experiments/first_steps.ipynb runs from its own folder, and is kept with what it put out."""

import json
import shutil

import pytest

from tests.support import ROOT

NOTEBOOK = ROOT / "experiments" / "first_steps.ipynb"


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_it_is_kept_with_its_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    # Run once, from top to bottom.
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for output in outputs(code)]
    assert "error" not in kinds
    assert any("image/png" in output.get("data", {}) for output in outputs(code))
    text = "".join("".join(output.get("text", [])) for output in outputs(code))
    assert "done: " in text
    assert "\x1b" not in text  # plain lines, and no codes for a terminal


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    folder = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments", folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    assert [output.output_type for output in outputs(notebook.cells)].count("error") == 0
    assert (tmp_path / "runs" / "first_steps" / "summary.json").exists()
