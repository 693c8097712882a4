"""Advice that messages give: every option in it exists where it can be printed, and following it works."""

import ast
import dataclasses
import functools
import re
import shlex

import pytest
from support.tracker_runs import make_run
from test_structure import FILES, ROOT, imports, name_of, rooms_of, tree_of

import config
from checkpoints import catalog
from cli import parser, saved_options
from common.errors import UserError
from tracking import publishing, trackers
from trainer import resume

# Programs with options of their own, which messages name, too
OTHERS = {
    "multi_gpu",
    "num_processes",
    "nproc_per_node",
    "show-toplevel",
    "porcelain",
    "untracked-files",
    "query-gpu",
    "format",
}
OTHERS |= {"local-dir", "logdir", "project", "gpus", "update", "force-reinstall", "columns", "ratio", "help", "option"}
OTHERS |= {"flag", "no-flag", "no", "config"}
# Modules that advise on another script than the one that imports them
ABOUT = {"cli/doctor.py": "training", "page/html.py": "sd_inference"}
# What may follow an option that has choices, and is no value of it
WORDS = {*["and", "is", "or", "out", "that", "to", "what", "x"]}
WORDS |= {*["can", "draws", "goes", "puts", "says", "scores", "shortens", "updates", "needs", "work", "works"]}
SCRIPT = {name: cls for cls, name in config.SCRIPTS.items()}


def texts(tree):
    """[(line, text)] of the strings of a module but for its docstrings; what f-strings fill in is '{}'."""
    owners = ast.Module | ast.ClassDef | ast.FunctionDef
    skipped = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, owners) and is_text(node.body[0])}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(value) for value in node.values}
            found.append((node.lineno, "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            found.append((node.lineno, node.value))
    return found


def is_text(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


@functools.cache
def reached(script):
    """The files of the project that a script imports, directly or not."""
    files, todo = set(), [ROOT / f"{script}.py"]
    while todo:
        path = todo.pop()
        if path in files or not path.exists():
            continue
        files.add(path)
        names = rooms_of(imports(tree_of(path)))
        todo += [ROOT / (name.replace(".", "/") + end) for name in names for end in (".py", "/__init__.py")]
    return files


def fields_of(script):
    """{name or alias: field} of the options of a script."""
    fields = dataclasses.fields(SCRIPT[script])
    return {name: field for field in fields for name in (field.name, *field.metadata["aliases"])}


def wrong_advice(path, tree):
    """What is wrong in a module's texts: options that no script which can print them has, values that can't be."""
    scripts = [script for script in SCRIPT if path in reached(script)]
    scripts += [script for name, script in ABOUT.items() if path == ROOT / name]
    own = {node.args[0].value[2:] for node in ast.walk(tree) if is_add_argument(node)}
    problems = []
    for line, text in texts(tree):
        for module in re.findall(r"\bpython(?:3)? -m ([\w.]+)", text):
            if module != "pip" and not (ROOT / (module.replace(".", "/") + ".py")).exists():
                problems.append(f"{name_of(path)}:{line}: python -m {module}")
        for match in re.finditer(r"(?<![\w-])--(no-)?([A-Za-z][\w-]*\w)(?:[ =](\w[\w+-]*))?", text):
            name, word = match[2], match[3]
            if name in OTHERS or name in own:
                continue
            before = re.findall(r"\w+", text[: match.start()])
            named = [word for word in before if word in SCRIPT][-1:]  # as in "score them with sd_inference --calc_fid"
            asked = [script for script in [*named, *(scripts or SCRIPT)] if name in fields_of(script)]
            if not asked:
                problems.append(f"{name_of(path)}:{line}: --{name}")
                continue
            field = fields_of(asked[0])[name]
            if word and word not in WORDS and (field.metadata["choices"] or field.type == "bool"):
                try:
                    saved_options.parse_value(field, word, "")
                except UserError:
                    problems.append(f"{name_of(path)}:{line}: --{name} {word}")
    return problems


def is_add_argument(node):
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    return named and node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value.startswith("--")


def test_every_option_that_a_message_names_exists():
    paths = [path for path in sorted(FILES) if FILES[path] != "bench"]  # which starts other projects' scripts
    problems = [problem for path in paths for problem in wrong_advice(path, tree_of(path))]
    assert problems == []


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("trainer/loop.py", "give --no_such_option 3", ["--no_such_option"]),
        ("trainer/loop.py", "give --lr 3 or --mixed_precision fp64", ["--mixed_precision fp64"]),
        ("trainer/loop.py", "give --mixed_precision no, --grad_ckpt maybe", ["--grad_ckpt maybe"]),
        (
            "trainer/loop.py",
            "draw with python -m sd_inference --calc_fid; python -m sd_inferense",
            ["python -m sd_inferense"],
        ),
        ("cli/doctor.py", "choose another --output_dir or --cache_dir", []),
        ("memory/advice.py", "choose another --fid_stats_path", ["--fid_stats_path"]),  # training has no such option
        ("evaluation/reference.py", "choose another --fid_stats_path", []),
    ],
)
def test_wrong_advice_is_found(module, text, wrong):
    tree = ast.parse(f"raise UserError({text!r})")
    assert [problem.split(": ")[1] for problem in wrong_advice(ROOT / module, tree)] == wrong


# ---------------------------------------------------------------------------------------------------------------------
# Following the advice

TRAIN = "--train_unet True"
BAD_OPTIONS = [  # (script, options that can't be combined, what the message says, the same after its advice)
    ("training", "--train_text_encoder False", "give --train_unet True", TRAIN),
    ("training", "--train_text_encoder False", "--train_text_encoder True", "--train_text_encoder True"),
    ("training", f"{TRAIN} --warmup_steps 9 --lr_scheduler constant", "use constant_with_warmup",
     f"{TRAIN} --warmup_steps 9 --lr_scheduler constant_with_warmup"),
    ("training", f"{TRAIN} --vram_gb 12", "add --plan", f"{TRAIN} --vram_gb 12 --plan"),
    ("training", "--run_id a --run_name b", "give one of the two", "--run_id a"),
    ("training", f"{TRAIN} --run_name a/b", "takes letters, digits", f"{TRAIN} --run_name a-b_1.2"),
    ("training", f"{TRAIN} --summarize_desc", "add --include_desc", f"{TRAIN} --summarize_desc --include_desc"),
    ("training", f"{TRAIN} --fused_backward --grad_acc_steps 2", "give --grad_acc_steps 1",
     f"{TRAIN} --fused_backward --grad_acc_steps 1"),
    ("training", f"{TRAIN} --fused_backward --grad_acc_steps 2", "or --fused_backward False",
     f"{TRAIN} --fused_backward False --grad_acc_steps 2"),
    ("training", f"{TRAIN} --fused_backward --mixed_precision fp16", "give --mixed_precision bf16 or no",
     f"{TRAIN} --fused_backward --mixed_precision bf16"),
    ("training", f"{TRAIN} --fused_backward --mixed_precision fp16", "give --mixed_precision bf16 or no",
     f"{TRAIN} --fused_backward --mixed_precision no"),
    ("training", f"{TRAIN} --weights_dtype bf16 --mixed_precision no", "give --mixed_precision bf16",
     f"{TRAIN} --weights_dtype bf16 --mixed_precision bf16"),
    ("training", f"{TRAIN} --weights_dtype bf16 --mixed_precision no", "or --weights_dtype fp32",
     f"{TRAIN} --weights_dtype fp32 --mixed_precision no"),
    ("training", "--run_id a --preset 6gb", "leave it out", "--run_id a"),
    ("training", f"{TRAIN} --wandb_project a/b", "takes letters", f"{TRAIN} --wandb_project a"),
    ("sd_inference", "--calc_fid --metrics none", "expected all", "--calc_fid --metrics all"),
    ("sd_inference", "--calc_fid --metrics clip", "give --clip_model", "--calc_fid --metrics clip --clip_model a/b"),
    ("sd_inference", "--metrics fid", "add --calc_fid True", "--metrics fid --calc_fid True"),
    ("sd_inference", "--prompt x --calc_fid", "give one of the two", "--prompt x"),
    ("sd_inference", "--fid_features efficientnet --fid_resize legacy", "use --fid_resize clean",
     "--fid_features efficientnet --fid_resize clean"),
    ("sd_inference", "--fid_features efficientnet --fid_weights x", "leave one of the two out", "--fid_weights x"),
    ("runs", "--publish", "say which with --run_id", "--publish --run_id a"),
    ("training", f"{TRAIN} --tracker_", "did you mean --tracker?", f"{TRAIN} --tracker none"),
    ("training", f"{TRAIN} --lr", "expected one argument", f"{TRAIN} --lr 1e-5"),
]  # fmt: skip


def parse(script, words):
    given = parser.read_command_line(SCRIPT[script], shlex.split(words))
    return parser.check(SCRIPT[script](**given)) if "run_id" not in given or script == "runs" else given


@pytest.mark.parametrize(("script", "wrong", "message", "right"), BAD_OPTIONS)
def test_options_that_can_not_be_combined_can_after_the_advice(script, wrong, message, right):
    with pytest.raises(UserError) as caught:
        given = parse(script, wrong)
        parser.check(SCRIPT[script](**given))
    assert message in str(caught.value)
    parse(script, right)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Of a run that make_run makes; no key, no mode of wandb."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.setenv(name, "")  # is put back, whatever the test sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return config.TrainingOptions(output_dir=str(tmp_path / "runs"), pretrained_model="tiny", tracker="none")


def test_a_run_that_is_elsewhere_is_found_by_output_dir(options, tmp_path):
    make_run(options)
    for run_id in (None, "one"):
        with pytest.raises(UserError, match="--output_dir"):
            catalog.find_run(str(tmp_path / "other"), run_id)
        assert catalog.find_run(options.output_dir, run_id).name == "one"


def test_what_may_change_when_a_run_is_resumed_may(options):
    """--preset's message names these, loop.py's --max_steps and --epochs, workers.py's --num_workers."""
    make_run(options)
    free = {"batch_size": 2, "grad_acc_steps": 4, "grad_ckpt": False, "ema_device": "cpu", "vae_tiling": True}
    free |= {"max_steps": 300, "epochs": 3, "num_workers": 0}
    for name, value in free.items():
        resumed, run = resume.find_run_to_resume({"run_id": "one", "output_dir": options.output_dir, name: value})
        assert getattr(resumed, name) == value and run.name == "one"


def test_what_may_not_change_can_be_left_out(options):
    make_run(options)
    given = {"run_id": "one", "output_dir": options.output_dir}
    with pytest.raises(UserError, match="leave --seed out to go on, or start a new run without --run_id"):
        resume.find_run_to_resume({**given, "seed": 7})
    assert resume.find_run_to_resume(dict(given))[1].name == "one"
    assert parse("training", f"{TRAIN} --seed 7").seed == 7


@pytest.mark.parametrize("tracker", ["none", "trackio"])
def test_a_damaged_version_index_does_not_keep_a_run_from_being_resumed(options, tracker, tmp_path_factory):
    """Its message says that resuming restores it."""
    from support.tracker_runs import own_trackio

    own_trackio(tmp_path_factory)
    run = make_run(options)
    run.version_index.write_text("{")
    given = {"run_id": "one", "output_dir": options.output_dir, "tracker": tracker}
    assert resume.find_run_to_resume(given)[1].name == "one"


def test_published_json_may_be_deleted(options):
    from tracking.published import Published, read_published

    run = make_run(options)
    run.published.write_text("[]")
    with pytest.raises(UserError, match="delete it"):
        read_published(run, "x")
    run.published.unlink()
    assert read_published(run, "x") == Published()


@pytest.mark.parametrize("way", ["WANDB_API_KEY", "--wandb_key", "login", "--tracker none"])
def test_each_way_to_wandb_without_a_key(options, tmp_path, monkeypatch, way):
    asked, key = dataclasses.replace(options, tracker="wandb"), "0123456789" * 4
    with pytest.raises(
        UserError, match=r"set WANDB_API_KEY, give --wandb_key, run `wandb login` once, or use --tracker"
    ):
        trackers.require_key(asked)
    if way == "WANDB_API_KEY":
        monkeypatch.setenv(way, key)
    elif way == "--wandb_key":
        monkeypatch.setattr("sys.argv", ["training"])
        asked = parse("training", f"{TRAIN} --wandb_key {key}")
    elif way == "login":
        (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n login user\n password {key}\n")
        (tmp_path / ".netrc").chmod(0o600)
    else:
        asked = parse("training", f"{TRAIN} --tracker none")
    trackers.require_key(asked)


@pytest.mark.parametrize("mode", ["offline", "disabled"])
@pytest.mark.parametrize("action", ["publish", "prune"])
def test_a_mode_of_wandb_that_is_in_the_way_can_be_unset(options, monkeypatch, mode, action):
    make_run(options)
    asked = config.RunsOptions(output_dir=options.output_dir, run_id="one", tracker="wandb")
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(UserError, match="unset"):
        getattr(publishing, action)(asked)
    monkeypatch.delenv("WANDB_MODE")
    reached = []
    monkeypatch.setattr(trackers, "connect", lambda *_: reached.append(1) or (_ for _ in ()).throw(UserError("here")))
    with pytest.raises(UserError, match="here"):
        publishing.prune(asked)
    assert reached and trackers.can_store_files(asked)


@pytest.mark.parametrize(("cls", "name"), config.SCRIPTS.items())
def test_the_examples_of_help_are_commands(cls, name):
    examples = parser.EXAMPLES[cls].replace("\\\n", " ")
    commands = [shlex.split(line, comments=True)[3:] for line in examples.splitlines() if "python -m" in line]
    assert commands
    for words in commands:
        given = parser.read_command_line(cls, words)
        if "run_id" not in given:
            parser.check(cls(**given))


def test_the_commands_that_are_printed_can_be_parsed(options):
    from tracking.uploader import Uploader

    run = make_run(options)
    told = [
        saved_options.command_for_run("training", options, run.path) + " --num_workers 0",
        saved_options.command_for_run("sd_inference", options, run.path),
        Uploader(run, dataclasses.replace(options, tracker="trackio"), 20).publish_command(),
        Uploader(run, dataclasses.replace(options, tracker="wandb"), 20).publish_command() + " --wandb_project another",
    ]
    for command in told:
        _, _, script, *words = shlex.split(command)
        given = parser.read_command_line(SCRIPT[script], words)
        assert catalog.find_run(given["output_dir"], given["run_id"]) == run
