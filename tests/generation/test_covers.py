"""A folder of covers: which version, where, and that what is there fits what is asked for."""

import dataclasses
import json
import os
import re
import subprocess
import types

import pytest
from PIL import Image

import config
import report
import sd_inference
from checkpoints import scores
from checkpoints.run_folder import RunFolder
from cli import launch, parser
from common.errors import UserError
from common.files import machine_id
from generation.covers import covers_folder, draw_covers, make_folder
from generation.grid import save_drawing
from generation.settings import SETTINGS, DrawingSettings, read_settings, require_same_settings
from generation.version import Version, choose_version

DRAWN = DrawingSettings("v1", "one", "hash", "no", 1, "32x48", 5, 7.5, "dpm++")


def parsed(*words):
    given = parser.read_command_line(config.InferenceOptions, list(map(str, words)))
    return config.InferenceOptions(**given), given


@pytest.fixture
def runs(tmp_path):
    """A folder of runs with one that started from `tiny` and has a version v1."""
    version = tmp_path / "runs" / "one" / "versions" / "v1"
    version.mkdir(parents=True)
    (version / "model_index.json").write_text("{}")
    run = tmp_path / "runs" / "one"
    (run / "config.json").write_text(json.dumps({"pretrained_model": "tiny", "steps": 7, "seed": 3, "batch_size": 9}))
    version_index = {"versions": {"v1": {"step": 5, "validation_loss": 0.5}}, "aliases": {"latest": "v1", "best": "v1"}}
    (run / "versions.json").write_text(json.dumps(version_index))
    return tmp_path / "runs"


def test_a_version_brings_the_settings_of_its_run(runs):
    options, version = choose_version(*parsed("--output_dir", runs, "--version", "best", "--seed", 4))
    assert version == Version("v1", str(runs / "one" / "versions" / "v1"), RunFolder(runs / "one"))
    assert (options.steps, options.seed, options.batch_size) == (7, 4, 4)  # drawing from the run, batches not
    assert covers_folder(options, version) == runs / "one" / "covers"
    options, _ = parsed("--save_dir", runs / "elsewhere")
    assert covers_folder(options, version) == runs / "elsewhere"


def test_a_model_without_a_run_has_covers_here(tmp_path):
    options, version = choose_version(
        *parsed("--output_dir", tmp_path, "--version", "v0", "--pretrained_model", "tiny")
    )
    assert version == Version("v0", "tiny", None) and str(covers_folder(options, version)) == "covers"


def test_another_start_than_the_runs_is_refused(runs):
    with pytest.raises(UserError, match="run one started from tiny, not from --pretrained_model other"):
        choose_version(*parsed("--output_dir", runs, "--version", "v1", "--pretrained_model", "other"))
    _, version = choose_version(*parsed("--output_dir", runs, "--version", "v0", "--pretrained_model", "other"))
    assert version == Version("v0", "other", None)


def test_settings_of_a_folder_are_kept_and_compared(tmp_path):
    path, settings = tmp_path / SETTINGS, DRAWN
    require_same_settings(path, settings, {"3": "a book"})
    require_same_settings(path, settings, {"4": "another"})
    assert json.loads(path.read_text()) == {**settings.to_json(), "prompts": {"3": "a book", "4": "another"}}
    with pytest.raises(UserError, match="were drawn with steps 5, and now it is 6: give --steps 5, choose another"):
        require_same_settings(path, dataclasses.replace(DRAWN, steps=6), {})
    with pytest.raises(UserError, match=r"row 3 .* was drawn from another prompt, 'a book'"):
        require_same_settings(path, settings, {"3": "a tree"})


def test_only_missing_covers_are_drawn_and_each_has_its_own_latents(tmp_path):
    import accelerate

    from data.book import Book
    from diffusion import pipeline, weights

    words = "--resolution 32x48 --steps 2 --pretrained_model tiny --batch_size 2"
    options, _ = parsed(*words.split())
    books = [Book(row, f"Book {row}", ["Ann Oak"], ["Fantasy"], "", "", "", 32, 48, "test") for row in (5, 2, 9)]
    version = Version("v0", "tiny", None)
    state = accelerate.Accelerator(cpu=True).state
    settings = draw_covers(options, version, tmp_path / "all", books, state)
    assert settings.weights == weights.weights_hash(pipeline.build_tiny()) and settings.version == "v0"
    drawn = ["seed", "resolution", "steps", "guidance_scale", "scheduler", "vae_tiling"]
    # The same bytes in every process
    assert list(settings.to_json()) == ["version", "run_id", "weights", "precision", *drawn]
    draw_covers(options, version, tmp_path / "some", books[1:2], state)
    before = (tmp_path / "some" / "2.png").stat().st_mtime_ns
    draw_covers(options, version, tmp_path / "some", books, state)
    assert (tmp_path / "some" / "2.png").stat().st_mtime_ns == before
    pictures = {}
    for folder in ("all", "some"):
        for row in (5, 2, 9):
            with Image.open(tmp_path / folder / f"{row}.png") as image:
                pictures[folder, row] = image.tobytes()
    assert all(pictures["all", row] == pictures["some", row] for row in (5, 2, 9))
    assert len(set(pictures.values())) == 3


def test_pictures_are_listed_by_their_numbers(tmp_path):
    from data.book import Book
    from generation.covers import list_names, read_names

    books = [Book(number, "", caption="a tree", file=file) for number, file in ((12, "b, 1.jpg"), (7, "sub/ü.png"))]
    path = tmp_path / "pictures.csv"
    list_names(path, [Book(3, "A title")])
    assert not path.exists()
    list_names(path, books[:1])
    list_names(path, books)
    assert path.read_text(encoding="utf-8") == 'row,file\n12,"b, 1.jpg"\n7,sub/ü.png\n'
    before = path.stat().st_mtime_ns
    list_names(path, books[1:])  # what is there is not written again
    assert path.stat().st_mtime_ns == before and read_names(path) == {"12": "b, 1.jpg", "7": "sub/ü.png"}
    path.write_bytes(b"row\n\xff")
    list_names(path, books)
    assert len(read_names(path)) == 2


def test_covers_that_are_not_finite_are_never_written(tmp_path, small_data):
    import accelerate

    from data.book import Book
    from diffusion import pipeline
    from diffusion.encoding import NotFinite
    from generation.grid import draw_grid
    from generation.prompt_covers import draw_prompts

    parts = pipeline.build_tiny()
    parts.unet.conv_in.weight.data[0, 0, 0, 0] = 3e38  # finite, unlike what comes of it
    parts.pipeline().save_pretrained(tmp_path / "model")
    options, _ = parsed("--resolution", "32x48", "--steps", 2, "--prompt", "a book", "--data_root", small_data)
    version, covers = Version("v3", str(tmp_path / "model"), None), tmp_path / "covers" / "v3"
    books = [Book(row, f"Book {row}", ["Ann Oak"], ["Fantasy"], "", "", "", 32, 48, "test") for row in (5, 2)]
    with pytest.raises(NotFinite, match=r"^v3, row 5, prompt 'A fantasy book cover with author Ann Oak, title Book 5'"):
        draw_covers(options, version, covers, books, accelerate.Accelerator(cpu=True).state)
    with pytest.raises(NotFinite, match=r"^v3, row 0, prompt 'a book': not finite"):
        draw_prompts(options, version, covers, "cpu")
    with pytest.raises(NotFinite, match=r"^v3, row .*: not finite"):
        draw_grid(options, version, covers, "cpu")
    assert [path.name for path in covers.glob("[!.]*")] == [SETTINGS]


def test_steps_that_the_scheduler_can_not_take_are_refused_before_the_model_is_loaded(monkeypatch, runs):
    from diffusion import tiny

    tiny.build_scheduler().save_pretrained(runs / "one" / "versions" / "v1" / "scheduler")
    monkeypatch.setattr("diffusion.pipeline.load_parts", None)  # would raise a TypeError
    for words, message in (
        (["--version", "v0", "--pretrained_model", "tiny", "--scheduler", "pndm", "--steps", 1], "give --steps 2, or"),
        (
            ["--version", "v0", "--pretrained_model", "mini", "--steps", 1000],
            "give --steps 999, or another --scheduler",
        ),
        (["--run_id", "one", "--version", "v1", "--scheduler", "euler", "--steps", 1001], "give --steps 1000, or"),
    ):
        with pytest.raises(UserError, match=message):
            sd_inference.main([*map(str, words), "--output_dir", str(runs), "--prompt", "x"])
    words = ["--run_id", "one", "--version", "v0", "--scheduler", "euler", "--steps", "1", "--output_dir", str(runs)]
    with pytest.raises(UserError, match="give --steps 2, or"):
        report.main([*words, "--report_path", str(runs / "report.html")])


def test_the_file_of_a_prompt_is_named_by_all_that_made_it(tmp_path, runs):
    """Drawn again with the same settings it is the same file; with any other, another one."""

    def draw(*words):
        words = ["--resolution", "32", "--steps", 1, "--pretrained_model", "tiny", "--prompt", "A red book!", *words]
        assert sd_inference.main([*map(str, words), "--save_dir", str(tmp_path / "covers")]) == 0
        return {path.name: path.read_bytes() for path in (tmp_path / "covers").glob("*.png")}

    v0 = "--output_dir", tmp_path / "none", "--version", "v0"
    first = draw(*v0)
    assert draw(*v0) == first
    (name,) = first
    assert re.fullmatch("v0_prompt_a-red-book_[0-9a-f]{10}.png", name)
    for number, changes in enumerate([["--seed", 1], ["--steps", 2], ["--guidance_scale", 3], ["--vae_tiling"]], 2):
        found = draw(*v0, *changes)
        assert len(found) == number and found[name] == first[name], changes
    draw("--output_dir", runs, "--run_id", "one", "--version", "v0")  # the same weights, of a run
    found = draw(*v0, "--prompt", "A red, book")  # another prompt with the same letters
    assert len(found) == 7 and len(list((tmp_path / "covers").glob("*.json"))) == 7
    with Image.open(tmp_path / "covers" / name) as image:
        said = image.text["parameters"]
    assert re.fullmatch(
        r"A red book!\nSteps: 1, Sampler: dpm\+\+, CFG scale: 7.5, Seed: 0, Size: 32x32, Model hash: [0-9a-f]{10}, "
        "Model: v0, Precision: no",
        said,
    )


def test_the_grid_is_named_by_its_settings_and_cells(tmp_path):
    image, names = Image.new("RGB", (8, 8)), set()
    for settings in (DRAWN, dataclasses.replace(DRAWN, seed=2), dataclasses.replace(DRAWN, run_id="two")):
        for cells in ([(3, "a book")], [(3, "a tree")], [(4, "a book")]):
            names.add(save_drawing(tmp_path, "v1_grid", image, settings, cells=cells).name)
    assert len(names) == 9 and all(re.fullmatch("v1_grid_[0-9a-f]{10}.png", name) for name in names)
    assert {path.name for path in tmp_path.glob("*.png")} == names


def test_what_killed_drawings_left_is_removed_at_the_next_start(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".5.png.{machine_id()}.{dead.pid}.tmp").write_bytes(b"half a picture")
    (tmp_path / f".6.png.{machine_id()}.{os.getpid()}.tmp").write_bytes(b"one that is being written")
    make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".6.png.{machine_id()}.{os.getpid()}.tmp"]


def test_a_folder_that_cannot_be_made_is_one_line():
    from pathlib import Path

    with pytest.raises(UserError, match=r"can't make /proc/nowhere.*choose another --save_dir"):
        make_folder(Path("/proc/nowhere"))


def test_covers_that_nothing_is_known_of_are_never_taken_for_this_versions(tmp_path):
    Image.new("RGB", (32, 48)).save(tmp_path / "3.png")
    path, settings = tmp_path / SETTINGS, DRAWN
    with pytest.raises(UserError, match=r"has covers, such as 3\.png, and no settings\.json that says how"):
        require_same_settings(path, settings, {"3": "a book", "4": "another"})
    require_same_settings(path, settings, {"4": "another"})  # other rows' pictures don't matter


def test_settings_from_before_there_was_tiling_are_those_without_it(tmp_path):
    """Covers in tiles have other pixels, so the two may not be mixed in one folder."""
    path, version = tmp_path / SETTINGS, Version("v0", "tiny", None)
    plain, tiled = (
        DrawingSettings.from_options(config.InferenceOptions(vae_tiling=tiling), version, "hash")
        for tiling in (False, True)
    )
    older = {name: value for name, value in plain.to_json().items() if name != "vae_tiling"}
    path.write_text(json.dumps({**older, "prompts": {"3": "a book"}}))
    assert read_settings(path) == (plain, {"3": "a book"})
    require_same_settings(path, plain, {"4": "another"})
    with pytest.raises(
        UserError, match="were drawn with vae_tiling None, and now it is True: give --vae_tiling False, choose"
    ):
        require_same_settings(path, tiled, {})
    assert not scores.differences([older, plain.to_json()])
    assert scores.differences([older, tiled.to_json()]) == ["vae_tiling"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "it must hold one JSON object"),
        ({**DRAWN.to_json(), "prompts": []}, "'prompts' must map rows to prompts"),
        ({**DRAWN.to_json(), "prompts": {"3": 1}}, "'prompts' must map rows to prompts"),
        (DRAWN.to_json(), "'prompts' must map rows to prompts"),
        ({"prompts": {}}, "'version' is missing"),
        ({**DRAWN.to_json(), "steps": "5", "prompts": {}}, "'steps' is '5'"),
        ({**DRAWN.to_json(), "seed": True, "prompts": {}}, "'seed' is True"),
    ],
)
def test_a_damaged_settings_file_is_one_line_before_the_model_is_loaded(tmp_path, monkeypatch, capsys, content, reason):
    (tmp_path / SETTINGS).write_text(json.dumps(content))
    monkeypatch.setattr("generation.covers.load_version", None)  # would raise a TypeError
    options, version = config.InferenceOptions(), Version("v1", "tiny", None)
    with pytest.raises(SystemExit) as left:
        launch.run_script(lambda: draw_covers(options, version, tmp_path, [], types.SimpleNamespace(device="cpu")))
    printed = capsys.readouterr().err
    assert left.value.code == 2 and printed.startswith("error: can't ") and printed.count("\n") == 1
    assert str(tmp_path / SETTINGS) in printed and reason in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [SETTINGS]


def test_every_option_that_affects_drawing_is_a_setting():
    names = {field.name for field in dataclasses.fields(DrawingSettings)}
    assert set(config.setting_options("drawing")) == names - {"version", "run_id", "weights"}


def test_settings_survive_json():
    assert DrawingSettings.from_json(json.loads(json.dumps(DRAWN.to_json()))) == DRAWN
    whole = {**DRAWN.to_json(), "guidance_scale": 3, "something newer": 1}
    assert DrawingSettings.from_json(whole) == dataclasses.replace(DRAWN, guidance_scale=3.0)
