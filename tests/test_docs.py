"""README, CONTRIBUTING and docs/: links lead somewhere, commands and options exist, and README stays short."""

import pathlib
import re
import shlex

import pytest

import config
from cli import parser, saved_options

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
SCRIPTS = {name: cls for cls, name in config.SCRIPTS.items()}
OTHER_OPTIONS = {
    "nproc_per_node",
    "config",
    "help",
    "out",
    "scale",
    "only",
    "work",
    "local-dir",
}  # of benches, experiments and other programs


def headings(text):
    """The anchors that a page's headings get."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.*)$", text)
    }


def code(text):
    """All code of a page: the blocks, a line each, and what stands between backticks."""
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", text))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8"))
    for target, anchor in links:
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in headings(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_right(page, monkeypatch):
    """Each `python -m SCRIPT ...` is parsed as the script itself would."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for line in code(page.read_text(encoding="utf-8")):
        match = re.search(r"python -m (\w+)(?: (.*))?$", line)
        if match and match[1] in SCRIPTS:
            parser.read_command_line(SCRIPTS[match[1]], shlex.split(match[2] or "", comments=True))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_exist(page):
    known = saved_options.known_fields().keys() | OTHER_OPTIONS
    for line in code(page.read_text(encoding="utf-8")):
        for name in re.findall(r"(?:^|\s)--([A-Za-z][\w-]*\w)", line):
            assert name in known, f"--{name}: {line}"


def test_the_first_screen_of_readme_says_it_all():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    screen = lines[: next(number for number, line in enumerate(lines) if line.startswith("## "))]
    assert len(screen) <= 26  # the last one is empty
    for needed in ("docs/demo.png", "make install", "python -m training", "--preset 6gb", "make demo", "docs/data.md"):
        assert needed in "\n".join(screen), needed


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1400


def test_every_page_is_linked_from_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if name != "README.md" and f"]({name}" not in text] == []
