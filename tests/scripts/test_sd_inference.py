"""The inference script on `tiny` and on a version that was trained: real files, real pictures, real scores."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.training_runs import run_in_two

import config
import precalc_fid_stats
import sd_inference
import training
from checkpoints.run_folder import RunFolder
from cli import parser
from common.errors import UserError
from diffusion import pipeline


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    """Folder of runs with one run of two versions."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    words = f"""--data_root {small_data} --output_dir {runs} --run_name run --pretrained_model tiny --resolution 32x48
        --train_unet --lr 1e-3 --max_steps 2 --save_every 1 --sample_every 0 --num_workers 0 --steps 3
        --validation_rows 2 --seed 5"""
    assert training.main(words.split()) == 0
    return runs


@pytest.fixture(scope="module")
def stats(small_data, tmp_path_factory):
    """EfficientNet statistics of the held-out covers."""
    path = tmp_path_factory.mktemp("stats") / "fid_stats.npz"
    words = f"--data_root {small_data} --resolution 32x48 --fid_features efficientnet --fid_stats_path {path}"
    assert not precalc_fid_stats.main([*words.split(), "--split", "all"])
    return path


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image)


def score(trained, stats, folder, *more, version="v1", metrics="fid"):
    """Words to score covers; metrics: None = what the script takes by itself, which is slow."""
    words = f"--output_dir {trained} --version {version} --calc_fid True --fid_features efficientnet --split all"
    words += f" --metrics {metrics}" if metrics else ""
    return [*words.split(), "--fid_stats_path", str(stats), "--save_dir", str(folder), *map(str, more)]


@pytest.mark.slow
def test_covers_do_not_depend_on_batch_size_or_restarts(trained, stats, tmp_path, capsys):
    """The same row gives the same picture at batch size 1 and 4, and after a stop half-way."""
    assert sd_inference.main(score(trained, stats, tmp_path / "four", "--num_imgs", 6, "--batch_size", 4)) == 0
    assert sd_inference.main(score(trained, stats, tmp_path / "one", "--num_imgs", 6, "--batch_size", 1)) == 0
    four, one = tmp_path / "four" / "v1", tmp_path / "one" / "v1"
    names = sorted(path.name for path in four.glob("*.png"))
    assert len(names) == 6 and names == sorted(path.name for path in one.glob("*.png"))
    for name in names:
        assert np.array_equal(pixels(four / name), pixels(one / name)), name
        assert pixels(one / name).shape == (48, 32, 3)

    before = {name: (four / name).read_bytes() for name in names}
    kept = (four / names[0]).stat().st_mtime_ns
    for name in names[1:4]:
        (four / name).unlink()
    assert sd_inference.main(score(trained, stats, tmp_path / "four", "--num_imgs", 6, "--batch_size", 4)) == 0
    assert {name: (four / name).read_bytes() for name in names} == before
    assert (four / names[0]).stat().st_mtime_ns == kept  # what was there was not drawn again
    scores = [json.loads((folder / "metrics.json").read_text())["distance"] for folder in (one, four)]
    assert scores[0] == scores[1]

    # Type is set on copies: covers and score stay
    score_before = (four / "metrics.json").read_bytes()
    more = ("--num_imgs", 6, "--typeset", True, "--typeset_width", 96)
    assert sd_inference.main(score(trained, stats, tmp_path / "four", *more)) == 0
    assert {name: (four / name).read_bytes() for name in names} == before
    assert (four / "metrics.json").read_bytes() == score_before
    assert sorted(path.name for path in (four / "typeset").iterdir()) == names
    assert all(pixels(path).shape == (144, 96, 3) for path in (four / "typeset").iterdir())
    assert "6 images for 1280 feature dimensions" in capsys.readouterr().err


@pytest.mark.slow
def test_the_score_is_named_and_kept_with_its_settings(trained, stats, tmp_path, capsys):
    assert sd_inference.main(score(trained, stats, tmp_path, "--num_imgs", 3, version="latest", metrics=None)) == 0
    out = capsys.readouterr().out
    assert "FD (EfficientNet-Lite0) = " in out and "(3 covers of v2, 26 real)" in out
    assert "FID" not in out
    metrics = json.loads((tmp_path / "v2" / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_reference"], metrics["version"], metrics["run_id"]) == (3, 26, "v2", "run")
    settings = json.loads((tmp_path / "v2" / "settings.json").read_text())
    assert (settings["seed"], settings["steps"], settings["resolution"]) == (5, 3, "32x48")  # from the run


@pytest.mark.slow
def test_the_distance_of_real_covers_to_themselves_is_zero(small_data, trained, stats, tmp_path):
    """Covers that are the real ones: the whole path from folder to distance, against a value known beforehand."""
    import dataset
    from common.png import save_png
    from data.folder import open_data
    from evaluation import reference

    options = parser.parse(config.StatsOptions, f"--data_root {small_data} --resolution 32x48".split())[0]
    folder = tmp_path / "v1"
    assert sd_inference.main(score(trained, stats, tmp_path, "--steps", 1)) == 0  # to be overwritten
    books = open_data(options).books("all")
    for book in books:
        image = ((dataset.load_image(book.image, (32, 48)) + 1) * 127.5).round().byte().permute(1, 2, 0)
        save_png(folder / f"{book.row}.png", image)
    assert sd_inference.main(score(trained, stats, tmp_path, "--steps", 1)) == 0
    assert json.loads((folder / "metrics.json").read_text())["distance"] == pytest.approx(
        0, abs=1e-2
    )  # by rounding; see there
    assert reference.load_stats(stats, {}).n == len(books) == 26


@pytest.mark.slow
def test_the_grid_compares_versions_cell_by_cell(trained, tmp_path):
    from data import prompts

    words = ["--output_dir", str(trained), "--save_dir", str(tmp_path), "--num_samples", "2"]
    words += ["--typeset", "True", "--typeset_width", "96"]
    for version in ("v0", "v2"):
        assert sd_inference.main([*words, "--version", version]) == 0
    names = {path.name.split("_")[0]: path for path in tmp_path.glob("*_grid_*.png")}
    first, second = pixels(names["v0"]), pixels(names["v2"])
    assert first.shape == second.shape and not np.array_equal(first, second)
    cells = [json.loads(names[v].with_suffix(".json").read_text())["cells"] for v in ("v0", "v2")]
    assert cells[0] == cells[1] and len(cells[0]) == 2 * len(prompts.TEMPLATES)
    assert len({row for row, _ in cells[0]}) == 2
    rows, folder = {row for row, _ in cells[0]}, tmp_path / f"{names['v2'].stem}_cells"
    names = {f"{row}_{k + 1}.png" for row in rows for k in range(len(prompts.TEMPLATES))}
    assert {path.name for path in folder.iterdir()} == names | {"typeset"}
    assert {path.name: pixels(path).shape for path in (folder / "typeset").iterdir()} == dict.fromkeys(
        names, (144, 96, 3)
    )


def test_one_prompt_in_the_default_folder(trained):
    words = ["--output_dir", str(trained), "--version=best", "--prompt", "A fantasy book cover with author Ann Oak"]
    assert sd_inference.main(words) == 0
    (path,) = (trained / "run" / "covers").glob("*_prompt_*.png")
    assert pixels(path).shape == (48, 32, 3)
    settings = json.loads(path.with_suffix(".json").read_text())
    assert settings["prompt"] == words[-1] and settings["version"] in ("v1", "v2")
    shutil.rmtree(trained / "run" / "covers")


def test_a_prompt_that_is_too_long_is_cut_and_said(trained, tmp_path, capsys):
    words = ["--output_dir", str(trained), "--save_dir", str(tmp_path), "--prompt", "a book " * 90]
    assert sd_inference.main(words) == 0
    assert "the prompt has 182 tokens, and only the first 77 are read" in capsys.readouterr().err
    words[-1] = "a book " * 30_000
    assert sd_inference.main(words) == 0
    printed = capsys.readouterr()
    assert "the prompt has at least 1410 tokens, and only the first 77 are read" in printed.err
    first, second = sorted(tmp_path.glob("*.png"))
    assert np.array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize("scheduler", ["dpm++", "ddim", "pndm", "euler"])
def test_v0_without_a_run_by_every_sampler(tmp_path, scheduler):
    words = f"--output_dir {tmp_path}/none --pretrained_model tiny --version v0 --resolution 32 --steps 4"
    words = [*words.split(), "--scheduler", scheduler, "--save_dir", str(tmp_path), "--prompt", "a book"]
    assert sd_inference.main(words) == 0
    assert pixels(next(tmp_path.glob("v0_prompt_*.png"))).shape == (32, 32, 3)


def test_a_folder_is_a_version_and_its_run_is_found(trained, tmp_path):
    folder = trained / "run" / "versions" / "v2"
    assert sd_inference.main(["--version", str(folder), "--save_dir", str(tmp_path), "--prompt", "a book"]) == 0
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    words = ["--version", str(alone), "--save_dir", str(tmp_path), "--prompt", "a book", "--resolution", "32x48"]
    assert sd_inference.main([*words, "--seed", "5", "--steps", "3"]) == 0
    (first,), (second,) = tmp_path.glob("v2_prompt_*.png"), tmp_path.glob("alone_prompt_*.png")
    assert np.array_equal(pixels(first), pixels(second))


# ---------------------------------------------------------------------------------------------------------------------
# What can go wrong


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(trained, stats, tmp_path):
    assert sd_inference.main(score(trained, stats, tmp_path, "--num_imgs", 2)) == 0
    with pytest.raises(
        UserError, match="were drawn with seed 5, and now it is 6: give --seed 5, choose another --save_dir"
    ):
        sd_inference.main(score(trained, stats, tmp_path, "--num_imgs", 2, "--seed", 6))
    assert sd_inference.main(score(trained, stats, tmp_path, "--num_imgs", 3)) == 0  # more of the same is fine


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fid_stats_path", "/nowhere/fid_stats.npz"], "no statistics of real covers at .*precalc_fid_stats"),
        (["--resolution", "64x64"], "was made with resolution 32x48, but 64x64 is needed: make it with: python -m"),
        (["--split", "test"], "was made with split all, but test is needed"),
        (["--min_ascii", "0", "--test_fraction", "0.5", "--version", "v7"], "run run has no version v7"),
        (["--run_id", "nope"], "no run nope in"),
        (["--version", "/nowhere"], "expected v0, v1 ..., latest, best, or a folder"),
        (["--save_dir", "/proc/nowhere"], "can't make /proc/nowhere.*choose another --save_dir"),
        (["--fid_features", "inception", "--fid_weights", "/nowhere.pth"], "no weights file /nowhere.pth"),
    ],
)
def test_mistakes_are_found_before_anything_is_drawn(trained, stats, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        sd_inference.main(score(trained, stats, tmp_path / "covers", *more))
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.slow
def test_covers_of_other_weights_or_prompts_are_never_scored(trained, stats, tmp_path, small_data):
    """A run that was trained anew under the same name; data whose texts changed."""
    runs, data = tmp_path / "runs", tmp_path / "data"
    shutil.copytree(trained, runs)
    assert sd_inference.main(score(runs, stats, tmp_path / "covers", "--num_imgs", 2)) == 0
    versions = runs / "run" / "versions"
    shutil.rmtree(versions / "v1")
    shutil.copytree(versions / "v2", versions / "v1")
    with pytest.raises(UserError, match=r"were drawn with weights .*, and now it is"):
        sd_inference.main(score(runs, stats, tmp_path / "covers", "--num_imgs", 2))

    shutil.copytree(small_data, data)
    text = (data / "book_data.csv").read_text()
    (data / "book_data.csv").write_text(text.replace("Fantasy", "Horror").replace("Romance", "Poetry"))
    other = tmp_path / "other.npz"
    words = f"--data_root {data} --resolution 32x48 --fid_features efficientnet --split all --fid_stats_path {other}"
    assert not precalc_fid_stats.main(words.split())
    assert sd_inference.main(score(trained, stats, tmp_path / "texts", "--num_imgs", 4)) == 0
    with pytest.raises(UserError, match="was drawn from another prompt"):
        sd_inference.main(score(trained, other, tmp_path / "texts", "--num_imgs", 4, "--data_root", data))


def test_an_explicit_model_is_never_ignored(trained, tmp_path):
    pipeline.build_tiny().pipeline().save_pretrained(tmp_path / "model")
    words = ["--output_dir", str(trained), "--save_dir", str(tmp_path), "--prompt", "a", "--resolution", "32x48"]
    words += ["--pretrained_model", str(tmp_path / "model"), "--steps", "2"]
    with pytest.raises(UserError, match="run run started from tiny, not from --pretrained_model"):
        sd_inference.main([*words, "--version", "v1"])
    assert sd_inference.main([*words, "--version", "v0"]) == 0
    (settings,) = tmp_path.glob("v0_prompt_*.json")
    assert json.loads(settings.read_text())["run_id"] is None


@pytest.mark.script
def test_two_processes_draw_what_one_draws(trained, stats, tmp_path):
    assert sd_inference.main(score(trained, stats, tmp_path / "one", "--num_imgs", 5)) == 0
    said = run_in_two("sd_inference", score(trained, stats, tmp_path / "two", "--num_imgs", 5))
    assert "".join(out for out, _ in said).count("FD (EfficientNet-Lite0) = ") == 1
    one, two = ({p.name: pixels(p) for p in (tmp_path / n / "v1").glob("*.png")} for n in ("one", "two"))
    assert one.keys() == two.keys() and len(one) == 5
    for name in one:  # one thread rounds otherwise than two
        assert np.abs(one[name].astype(int) - two[name].astype(int)).max() <= 1


@pytest.mark.slow
def test_a_damaged_cover_is_named(trained, stats, tmp_path):
    assert sd_inference.main(score(trained, stats, tmp_path, "--num_imgs", 2)) == 0
    path = next((tmp_path / "v1").glob("*.png"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=f"can't read {path}"):
        sd_inference.main(score(trained, stats, tmp_path, "--num_imgs", 2))


@pytest.mark.script
def test_a_typo_exits_2_with_one_line_and_no_traceback(run_script, tmp_path):
    done = run_script("sd_inference", "--output_dir", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no run in") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_score_is_never_lost_to_a_smaller_one(trained, stats, tmp_path, capsys):
    """Fewer covers, other metrics, nothing measured, a damaged file: the listing keeps what it had."""

    def listed():
        from checkpoints import scores

        return scores.read_scores(RunFolder(runs / "run"))["v1"]["FD (EfficientNet-Lite0)"]

    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    (runs / "run" / "scores.json").unlink(missing_ok=True)
    covers = tmp_path / "covers"
    assert sd_inference.main(score(runs, stats, covers, "--num_imgs", 6, "--metrics", "fid,precision")) == 0
    first = listed()
    assert {"fid", "precision"} <= first.values.keys()
    assert sd_inference.main(score(runs, stats, covers, "--num_imgs", 5, "--metrics", "fid")) == 0
    assert "the run's listing keeps the score over 6 covers" in capsys.readouterr().out
    assert listed() == first and json.loads((covers / "v1" / "metrics.json").read_text())["n"] == 5
    with pytest.raises(UserError, match="nothing could be measured: a kernel distance"):
        sd_inference.main(score(runs, stats, covers, "--num_imgs", 6, "--metrics", "kid"))
    (covers / "v1" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"can't read .*metrics\.json.* delete it"):
        sd_inference.main(score(runs, stats, covers, "--num_imgs", 6, "--metrics", "legibility"))
    (covers / "v1" / "metrics.json").unlink()
    assert sd_inference.main(score(runs, stats, covers, "--num_imgs", 6, "--metrics", "legibility")) == 0
    assert listed().values.keys() > first.values.keys() and listed().distance == first.distance
    warned = capsys.readouterr()
    assert "covariance is singular" not in warned.err  # nothing was asked that has one
    assert sd_inference.main(score(runs, stats, covers, "--num_imgs", 99, "--metrics", "fid")) == 0
    assert "--num_imgs 99: --split all has 26" in capsys.readouterr().err and listed().n == 26


@pytest.mark.script
def test_a_metrics_file_of_another_shape_exits_2(run_script, trained, stats, tmp_path):
    path = tmp_path / "v1" / "metrics.json"
    path.parent.mkdir()
    path.write_text('{"score": "FD (EfficientNet-Lite0)", "n": 2, "values": null}')
    done = run_script("sd_inference", *score(trained, stats, tmp_path, "--num_imgs", 2))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'error: can\'t read {path} as a score: "values" is not a JSON object; delete it')
    assert not list(path.parent.glob("*.png"))  # it is refused before the long work
