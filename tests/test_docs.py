"""Links, files and options that the documents name exist."""

import fnmatch
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE, ROOT, run_script

NAMES = (
    "README.md",
    "CONTRIBUTING.md",
    "model/README.md",
    "dataset/README.md",
    "benchmarks/RESULTS.md",
)
PAGES = [ROOT / name for name in NAMES] + sorted((ROOT / "docs").glob("*.md"))
OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
COMMAND = re.compile(r"(?:-m (\w+\.\w+)|([\w./]+\.py))([^&;#]*)")
# What the commands write, by .gitignore, and examples of a user's own folders.
IGNORED = (ROOT / ".gitignore").read_text().splitlines()
GENERATED = [line.strip("/") for line in IGNORED if line and line[0] != "!"]
GENERATED += ["own", "holidays", "sheets"]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def split(page: Path) -> tuple[str, list[str]]:
    """The prose of a page, and its code: inline code and the lines of blocks, continuation lines joined."""
    parts = re.split(r"^```.*\n", page.read_text(), flags=re.M)
    prose, blocks = "".join(parts[::2]), "".join(parts[1::2])
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    return prose, inline + blocks.replace("\\\n", " ").splitlines()


def is_generated(path: Path) -> bool:
    name = str(path.resolve().relative_to(ROOT))
    return any(
        fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"{pattern}/*") for pattern in GENERATED
    )


def anchors(page: Path) -> list[str]:
    """The anchors of a page's titles, formed as GitHub does."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]


@functools.cache
def options_of(name: str) -> set[str]:
    """The options in the help of a script or module."""
    if name.endswith(".py"):
        script = name if (ROOT / name).exists() else f"step2/{name}"
        return set(OPTION.findall(run_script(script, "--help").stdout))
    command = [sys.executable, "-m", name, "--help"]
    return set(OPTION.findall(subprocess.check_output(command, cwd=ROOT, text=True, timeout=DEADLINE)))


@functools.cache
def options_of_any() -> set[str]:
    scripts = [path.name for path in ROOT.glob("*.py")]
    return set().union(*(options_of(name) for name in [*scripts, "step2/main.py", "benchmarks.ablation"]))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@each_page
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", split(page)[0]):
        name, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@each_page
def test_files(page: Path) -> None:
    for word in re.findall(r"[^\s\"'<>]+", "\n".join(split(page)[1])):
        if re.fullmatch(r"(\.{1,2}/)*[a-zA-Z_.][\w.-]*(/[\w.-]*)+", word):
            places = [folder / word for folder in (ROOT, page.parent, ROOT / "step2", ROOT / "step2/x")]
            assert any(place.exists() or is_generated(place) for place in places), word


@each_page
def test_options(page: Path) -> None:
    for code in split(page)[1]:
        if code.startswith("--"):
            assert set(OPTION.findall(code)) <= options_of_any(), code
        for module, script, rest in COMMAND.findall(code):
            options = set(OPTION.findall(rest))
            assert not options or options <= options_of(module or script), code
