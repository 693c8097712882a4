"""The rules of the house, read from the syntax tree: who may import whom, and nothing happens at import."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = {"report", "training", "sd_inference", "precalc_fid_stats", "dataset", "runs", "doctor"}
MODULES = {path.stem for path in ROOT.glob("*.py")}
HEAVY = {"torch", "torchvision", "numpy", "pandas", "PIL", "diffusers", "transformers", "accelerate", "pytorch_fid"}
STANDARD_LIBRARY_ONLY = {"checks", "command_line", "config", "presets", "prompts", "files", "values"}


def tree_of(name):
    return ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))


def imports(tree, everywhere=True):
    """Names of the modules that are imported; everywhere=False: at the top level only."""
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_import_nothing_heavy_before_their_arguments_are_parsed(name):
    assert not imports(tree_of(name), everywhere=False) & HEAVY
    top = imports(tree_of(name), everywhere=False) & MODULES
    assert top <= STANDARD_LIBRARY_ONLY


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name):
    """No script but dataset.py, which is a module too, is imported by anyone; nor are imports circular."""
    assert not imports(tree_of(name)) & (SCRIPTS - {"dataset"})
    seen, waiting = set(), {name}
    while waiting:
        current = waiting.pop()
        seen.add(current)
        ours = imports(tree_of(current)) & MODULES
        assert name not in ours, f"{name} imports itself through {current}"
        waiting |= ours - seen


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ONLY & MODULES))
def test_the_lowest_floor_needs_the_standard_library_only(name):
    import sys

    allowed = set(sys.stdlib_module_names) | STANDARD_LIBRARY_ONLY
    assert imports(tree_of(name), everywhere=False) <= allowed


@pytest.mark.parametrize("name", sorted(MODULES))
def test_importing_does_nothing(name):
    """At the top level there are definitions, constants of literals and safe calls, and `if __name__` in scripts."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in tree_of(name).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{name}:{node.lineno} does something at import"
        elif isinstance(node, ast.If):
            assert ast.unparse(node.test) == "__name__ == '__main__'", f"{name}:{node.lineno}"
        else:
            assert isinstance(node, allowed), f"{name}:{node.lineno}"
        if isinstance(node, ast.Assign):
            opening = {"open", "read_text", "parse_args", "load", "device", "from_pretrained", "ensure"}
            calls = {ast.unparse(call.func).split(".")[-1] for call in ast.walk(node) if isinstance(call, ast.Call)}
            assert not calls & opening, f"{name}:{node.lineno}"


def test_every_module_has_a_test():
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert MODULES - tests == set()


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_main_is_short(name):
    (main,) = (node for node in tree_of(name).body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert main.end_lineno - main.lineno < 42
