"""notebooks/colab_t4.ipynb: its cells, run as Colab would on a CPU with the toy model, and what they leave."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "colab_t4.ipynb"


def code_cells():
    """[(tags, text)]"""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    return [(cell["metadata"].get("tags", []), "".join(cell["source"])) for cell in cells]


def run_cell(text, names):
    """What IPython does with a cell: lines that begin with ! go to the shell, with {name} replaced; all else is Python.

    names: the notebook's variables. Returns what the commands have printed. A command that fails is an error.
    """
    printed = ""
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for part in re.split(r"(?m)^(!.*)$", text):
        if part.startswith("!"):
            command = re.sub(r"\{(\w+)\}", lambda match: str(names[match[1]]), part[1:])
            done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed += done.stdout + done.stderr
        else:
            exec(part, names)
    return printed


def run_notebook(**changes):
    """Run all cells but Colab's own, with other values of the first cell's variables. (names, what was printed)"""
    names, printed = {}, ""
    for tags, text in code_cells():
        if "colab" in tags:
            continue
        printed += run_cell(text, names)
        if "parameters" in tags:
            assert changes.keys() <= names.keys()
            names.update(changes)
    return names, printed


def test_it_is_a_notebook():
    """As nbformat 4.5 asks for, with no output that was left in it, and one cell of variables that comes first."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert [tags for tags, _ in code_cells()].index(["parameters"]) == 0


@pytest.mark.script
def test_the_runner_does_as_ipython_does(tmp_path):
    names = {"WHO": "a b", "FOLDER": tmp_path}
    printed = run_cell('x = 2\n!echo "{WHO}" {x}\ny = x + 1\nif y:\n    z = y', names)
    assert printed == "a b 2\n" and (names["y"], names["z"]) == (3, 3)
    with pytest.raises(AssertionError, match="exit 3"):
        run_cell("!exit 3", names)


@pytest.mark.script
@pytest.mark.slow
@pytest.mark.nightly
def test_all_cells_run_and_go_on_after_a_disconnect(small_data, tmp_path):
    drive = tmp_path / "my drive"
    tiny = dict(DRIVE=str(drive), DATA=str(small_data), MODEL="tiny", RESOLUTION="32x48", RUN="one")
    more = "--lora_rank 2 --num_workers 0 --steps 2 --num_samples 1 --validation_rows 2 --warmup_steps 0"
    _, printed = run_notebook(**tiny, UPDATES=2, MORE=more)
    assert "preset t4 sets" in printed
    names, printed = run_notebook(**tiny, UPDATES=3, MORE=more)
    assert "preset t4 sets" not in printed
    steps = [json.loads(line)["step"] for line in (drive / "runs/one/metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 3
    assert len(names["pictures"]) == 2
    for picture in names["pictures"]:
        with Image.open(picture) as image:
            assert image.format == "PNG"
    with safe_open(drive / "one.safetensors", framework="pt") as opened:
        assert any(key.startswith("lora_unet_") for key in opened.keys())  # noqa: SIM118
        assert any(key.startswith("lora_te_") for key in opened.keys())  # noqa: SIM118
