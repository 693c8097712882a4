"""The page, made of a real run and looked at by a real browser."""

import base64
import io
import json
import os
import re
import shutil

import pandas as pd
import pytest
from PIL import Image

import report
import training
from checkpoints import scores
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from generation import covers

SCRIPT, BREAKOUT = "<script>alert(1)</script> & Sons", '"><img src=x onerror=alert(2)>'
SETTINGS = {name: 1 for name in scores.MUST_MATCH} | {
    "score": "FD (EfficientNet-Lite0)",
    "fid_features": "efficientnet",
    "fid_resize": "clean",
    "n": 4,
}


def add_score(run, version, figure, **settings):
    value = {"name": "FD <b>", "value": figure, "error": 1.5, "n": 4, "real": 2.0, "better": "lower", "note": None}
    score = SETTINGS | {"values": {"fid": value}, "skipped": {"clip": "no <i>model</i>"}} | settings
    scores.add_score(RunFolder(run), version, scores.Score.from_json(score))


@pytest.fixture(scope="module")
def data(small_data, tmp_path_factory):
    """The small data, two of whose held-out books have titles that would break a careless page."""
    root = tmp_path_factory.mktemp("evil") / "data"
    shutil.copytree(small_data, root)
    table = pd.read_csv(root / "book_data.csv", keep_default_na=False)
    table.loc[22, "book_title"], table.loc[23, "book_title"] = SCRIPT, BREAKOUT
    table.loc[24, "book_authors"] = SCRIPT
    table.loc[25, "book_title"] = "Unbreakable" * 20
    table.to_csv(root / "book_data.csv", index=False)
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Folder of runs with one run of two versions, v0 and v2 scored, v1 not."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    words = f"""--data_root {data} --output_dir {runs} --run_name run --pretrained_model tiny --resolution 32x48
        --train_unet --lr 1e-3 --max_steps 2 --save_every 1 --sample_every 0 --num_workers 0 --steps 2
        --validation_rows 4 --seed 5"""
    assert training.main(words.split()) == 0
    add_score(runs / "run", "v0", 100.0)
    add_score(runs / "run", "v2", 50.0)
    return runs


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of the runs, to be changed."""
    shutil.copytree(trained, tmp_path / "runs", ignore=shutil.ignore_patterns("covers"))
    return tmp_path / "runs"


def make(runs, path, *more):
    assert report.main(["--output_dir", str(runs), "--report_path", str(path), *map(str, more)]) == 0
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    make(trained, path, "--version", "v0,v1,v2")
    return path


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: apt-get install chromium")
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def look(browser, html):
    """A function: (settings of the browser) -> the open page; in the end nothing may have gone wrong in it."""
    trouble, contexts = [], []

    def open_page(path=html, **settings):
        contexts.append(browser.new_context(**settings))
        shown = contexts[-1].new_page()
        shown.on("console", lambda message: trouble.append(message.text))
        shown.on("pageerror", lambda error: trouble.append(str(error)))
        shown.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        shown.on(
            "request", lambda asked: None if asked.url.startswith(("file:", "data:")) else trouble.append(asked.url)
        )
        shown.goto(path.as_uri())
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


# ---------------------------------------------------------------------------------------------------------------------
# In the browser


def test_every_picture_loads(look):
    page = look()
    sizes = page.eval_on_selector_all(
        "#pictures img", "all => all.map((i) => [i.complete, i.naturalWidth, i.naturalHeight])"
    )
    assert sizes == [[True, 32, 48]] * (4 * (1 + 3))  # books x (the real cover and three versions)
    assert len(set(page.eval_on_selector_all("#pictures img", "all => all.map((i) => i.src)"))) == 16
    alts = page.eval_on_selector_all("#pictures img", "all => all.map((i) => i.alt)")
    assert alts[0] == "Real cover of " + alts[1].removeprefix("Cover of ").removesuffix(", drawn by v0")


def shown(page):
    """(version, title, source) of the enlarged picture, or None."""
    if not page.evaluate("document.getElementById('viewer').open"):
        return None
    texts = [page.text_content(f"#viewer-{part}") for part in ("version", "title")]
    return *texts, page.get_attribute("#viewer-image", "src")


def test_enlarging_and_arrow_keys(look):
    page = look(viewport={"width": 1000, "height": 800})
    buttons = page.locator("#pictures button")
    sources = page.eval_on_selector_all("#pictures img", "all => all.map((i) => i.src)")
    titles = page.eval_on_selector_all("#pictures cite", "all => all.map((i) => i.textContent)")
    assert shown(page) is None
    buttons.nth(1).click()
    assert shown(page) == ("v0", titles[0], sources[1])
    assert "title " + titles[0][:20] in page.text_content("#viewer-prompt")
    assert "seed 5" in page.text_content("#viewer-about") and "2 steps of dpm++" in page.text_content("#viewer-about")
    box = page.locator("#viewer-image").bounding_box()
    for key, label, row, source in (
        ("ArrowRight", "v1", 0, 2),
        ("ArrowRight", "v2", 0, 3),
        ("ArrowRight", "real", 0, 0),  # around
        ("ArrowLeft", "v2", 0, 3),
        ("ArrowDown", "v2", 1, 7),
        ("ArrowUp", "v2", 0, 3),
        ("ArrowUp", "v2", 3, 15),
    ):
        page.keyboard.press(key)
        assert shown(page) == (label, titles[row], sources[source])
        assert page.locator("#viewer-image").bounding_box() == box  # the eye compares: nothing may move
    page.keyboard.press("Escape")
    assert shown(page) is None
    where_we_were = "source => document.activeElement.querySelector('img')?.src === source"
    page.wait_for_function(where_we_were, arg=sources[15], timeout=5000)  # browsers tell of the closing a little later
    page.keyboard.press("ArrowLeft")  # arrows move the focus, too
    page.keyboard.press("Enter")
    assert shown(page) == ("v1", titles[3], sources[14])
    page.click("[aria-label='next version']")
    assert shown(page)[0] == "v2"
    page.click("#viewer-close")
    assert shown(page) is None


def test_titles_are_text(look):
    page = look()
    titles = page.eval_on_selector_all("#pictures cite", "all => all.map((i) => i.textContent)")
    assert {SCRIPT, BREAKOUT} <= set(titles)
    assert any(SCRIPT in text for text in page.locator(".book span").all_text_contents())
    row = titles.index(BREAKOUT)
    page.locator("#pictures button").nth(4 * row + 1).click()
    assert page.text_content("#viewer-title") == BREAKOUT and BREAKOUT in page.text_content("#viewer-prompt")
    assert page.locator("img[src=x]").count() == 0 and page.locator("script").count() == 2


def test_the_policy_lets_nothing_else_run_or_load(browser, html, tmp_path):
    """A page into which something did get: the browser refuses it."""
    text = html.read_text(encoding="utf-8")
    evil = '<script>window.ran = 1</script><img src="https://example.com/x.png" onerror="window.ran = 2">'
    path = tmp_path / "evil.html"
    path.write_text(text.replace("<main>", "<main>" + evil), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.styleSheets.length") == 1  # our own style goes on
    page.close()


def test_the_score_table(look):
    page = look()
    head = page.locator(".scores thead th").all_text_contents()
    assert head == ["metric", "v0", "v1", "v2", "real covers"]
    cells = [
        " ".join(text.split()) for text in page.locator(".scores tbody tr").first.locator("th, td").all_text_contents()
    ]
    assert cells == ["FD <b>lower is better; n = 4", "100.0 ± 1.5", "–", "50.0 ± 1.5↓ better", "2.0"]
    scores = page.text_content("#scores")
    assert "CLIP score, CMMD not measured (v0, v2): no <i>model</i>" in " ".join(scores.split())
    assert "v1: not scored. This scores it:" in " ".join(scores.split())
    assert re.search(r"python -m sd_inference --version v1 .*--calc_fid True --num_imgs 4 --fid_features effi", scores)


def test_curves_and_versions(look):
    page = look()
    titles = page.locator("#curves h3").all_text_contents()
    assert titles[:2] == ["Training loss", "Validation loss"]
    assert page.locator("#curves svg polyline").count() >= len(titles)
    assert page.locator(".versions tbody th").all_text_contents() == ["v0", "v1", "v2"]
    command = page.text_content("article code")
    assert command.startswith("python -m training ") and "--max_steps 2" in command and "--seed 5" in command


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only(look, scheme):
    page = look(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.search(r"\d+", background)[0])
    assert red > 200 if scheme == "light" else red < 60
    page.locator("#pictures button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#viewer-close").bounding_box()["y"] < 844


def luminance(color):
    """Relative luminance of WCAG 2 of 'rgb(r, g, b)'."""
    parts = (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(look, scheme):
    page = look(color_scheme=scheme)
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    colors = {"body", ".note", "a", ".better", ".scores .real", ".under", "summary", ".scores .error"}
    for selector in colors:
        ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector


# ---------------------------------------------------------------------------------------------------------------------
# Which versions


def labels(text):
    return re.findall(r'<span class="under" aria-hidden="true"><bdi>(.*?)</bdi>', text.split("</tbody>")[-2])


def head(text):
    return re.findall(r"<bdi>(.*?)</bdi>", re.search(r"<h1>(.*?)</h1>", text)[1])


def test_aliases_of_one_version_stand_once(runs, tmp_path):
    text = make(runs, tmp_path / "r.html", "--version", "latest,v2", "--num_samples", 1)
    assert head(text) == ["v2"] and text.count("<img src=") == 2


def test_what_nobody_asked_for_by_name_may_be_missing(runs, tmp_path):
    (runs / "run" / "versions.json").unlink()
    assert head(make(runs, tmp_path / "r.html", "--num_samples", 1)) == ["v0"]
    with pytest.raises(UserError, match="run run has no version best; there: v0"):
        make(runs, tmp_path / "r.html", "--version", "v0,best")


def test_two_runs_share_their_start(runs, tmp_path):
    shutil.copytree(runs / "run", runs / "other")
    more = ["--version", "v0,latest", "--num_samples", 1, "--save_dir", tmp_path / "covers"]
    text = make(runs, tmp_path / "r.html", "--run_id", "run,other", *more)
    assert head(text) == ["v0", "run:v2", "other:v2"]
    folders = {str(path.parent.relative_to(tmp_path / "covers")) for path in (tmp_path / "covers").rglob("*.png")}
    assert folders == {"run/v0", "run/v2", "other/v2"}  # runs number their versions alike
    assert text.count("<h3>Run ") == 2
    text = make(runs, tmp_path / "r.html", "--run_id", "run", "--version", "v1,other:latest", "--num_samples", 1)
    assert head(text) == ["run:v1", "other:v2"]


def test_a_half_finished_folder_is_completed(runs, tmp_path, html):
    make(runs, tmp_path / "r.html", "--version", "v1")
    before = {path: path.read_bytes() for path in (runs / "run" / "covers" / "v1").glob("*.png")}
    assert len(before) == 4
    list(before)[2].unlink()
    text = make(runs, tmp_path / "r.html", "--version", "v1")
    assert {path: path.read_bytes() for path in before} == before
    assert text.count("<img src=") == 8


# ---------------------------------------------------------------------------------------------------------------------
# What can go wrong


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--version", "v9"], "run run has no version v9; there: v0, v1, v2"),
        (["--run_id", "nope"], "no run nope in"),
        (["--version", "run:v9"], "run run has no version v9"),
        (["--version", "/nowhere"], "expected v0, v1 ..., latest, best, or a folder"),
        (["--version", ","], "names no version"),
        (["--report_path", "/tmp"], "--report_path /tmp is a folder"),
        (["--report_path", "/proc/nowhere/r.html"], "can't write /proc/nowhere/.*; choose another --report_path"),
        (["--save_dir", "/proc/nowhere", "--version", "v1"], "can't make /proc/nowhere"),
        (["--typeset_font", "sans"], "add --typeset True"),
        (["--typeset", "True", "--typeset_font", "/nowhere.ttf"], "/nowhere.ttf"),
    ],
)
def test_mistakes_are_one_line(trained, tmp_path, monkeypatch, more, message):
    monkeypatch.setattr(covers, "load_version", lambda *_: pytest.fail("mistakes come before the long work"))
    with pytest.raises(UserError, match=message):
        make(trained, tmp_path / "r.html", *more)
    assert list(tmp_path.iterdir()) == []


def test_scores_of_other_settings_are_refused_unless_asked(runs, tmp_path):
    add_score(runs / "run", "v1", 70.0, n=20, seed=3)
    differences = "the number of covers is 4 for v0 and 20 for v1; seed is 1 for v0 and 3 for v1"
    with pytest.raises(UserError, match=f"{differences}; .*--mixed"):
        make(runs, tmp_path / "r.html", "--version", "v0,v1")
    assert not (runs / "run" / "covers" / "v1" / "0.png").exists()
    text = make(runs, tmp_path / "r.html", "--version", "v0,v1", "--mixed", "True", "--num_samples", 1)
    assert "Measured with different settings" in text and differences in text
    assert '<small class="better">' not in text and "nothing is called better" in text and "Against v0" not in text


def test_a_score_of_other_weights_is_not_shown(runs, tmp_path):
    add_score(runs / "run", "v2", 50.0, weights="of another training")
    text = make(runs, tmp_path / "r.html", "--version", "v2", "--num_samples", 1)
    assert "the score on disk is of other weights" in text and 'class="scores"' not in text


@pytest.mark.slow
def test_a_score_that_is_not_shown_is_not_judged(runs, tmp_path):
    """The run's v2 was scored otherwise, but with weights that are gone: nothing stands side by side."""
    add_score(runs / "run", "v2", 50.0, weights="of another training", n=20, rows="8ce8a6afc0208f81")
    text = make(runs, tmp_path / "r.html", "--version", "v0,v2", "--num_samples", 1)
    assert "the score on disk is of other weights" in text and "Measured with different settings" not in text
    add_score(runs / "run", "v1", 50.0, rows="8ce8a6afc0208f81")
    with pytest.raises(UserError, match=r"settings: the choice of books differs \(v0 / v1\); score them alike"):
        make(runs, tmp_path / "r.html", "--version", "v0,v1,v2", "--num_samples", 1)


@pytest.mark.parametrize("scores", [{"v0": 3}, {"v0": {"FID": 3}}, [3]])
def test_scores_of_another_shape_are_refused(runs, tmp_path, scores):
    (runs / "run" / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(UserError, match=f"can't read {runs}/run/scores.json"):
        make(runs, tmp_path / "r.html", "--version", "v0")


def test_the_size_is_printed(runs, tmp_path, capsys):
    text = make(runs, tmp_path / "r.html", "--version", "v0", "--num_samples", 1)
    size = len(text.encode())
    assert 1000 < size < 999_000 and f"; {size / 1000:.0f} KB; open it" in capsys.readouterr().out


def test_typeset_copies_stand_below_the_covers(runs, tmp_path, capsys):
    """One of the two titles is a word of 220 letters, which no line has room for: its cover is shown as it is."""
    words = ["--version", "v1", "--num_samples", 4, "--typeset", "True", "--typeset_width", 200]
    text = make(runs, tmp_path / "r.html", *words)
    typeset = list((runs / "run" / "covers" / "v1" / "typeset").glob("*.png"))
    shown = json.loads(re.search(r'id="page-data">(.*?)</script>', text)[1])
    labels = [[cell["label"] for cell in line["cells"]] for line in shown]
    assert labels.count(["real", "v1"]) >= 4 and labels.count(["real", "v1, typeset"]) == len(typeset) > 0
    assert len(labels) == 2 * 4 and text.count("<img src=") == 2 * 2 * 4
    pictures = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', text)
    sizes = {Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures}
    assert sizes == {(32, 48), (200, 300)}


def test_runs_that_draw_otherwise_are_refused(runs, tmp_path):
    shutil.copytree(runs / "run", runs / "other")
    saved = json.loads((runs / "other" / "config.json").read_text())
    (runs / "other" / "config.json").write_text(json.dumps(saved | {"guidance_scale": 3.0}))
    words = ["--run_id", "run,other", "--version", "v1"]
    with pytest.raises(UserError, match=r"run:v1 has --guidance_scale 7\.5 and other:v1 has 3\.0, so their covers"):
        make(runs, tmp_path / "r.html", *words)
    words += ["--guidance_scale", "2", "--save_dir", tmp_path / "covers", "--num_samples", 1]
    assert head(make(runs, tmp_path / "r.html", *words)) == ["run:v1", "other:v1"]


def test_a_damaged_cover_is_named(runs, tmp_path):
    make(runs, tmp_path / "r.html", "--version", "v1", "--num_samples", 1)
    (path,) = (runs / "run" / "covers" / "v1").glob("*.png")
    path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "r.html").unlink()
    with pytest.raises(UserError, match=f"can't read {path} as a PNG image"):
        make(runs, tmp_path / "r.html", "--version", "v1", "--num_samples", 1)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.script
def test_no_run_is_one_line_and_exit_status_2(run_script, tmp_path):
    done = run_script("report", "--output_dir", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no run in") and done.stderr.count("\n") == 1
