"""Links, files and options that the documents name exist, and the version is the same everywhere."""

import fnmatch
import functools
import re
from pathlib import Path

from conftest import ROOT, run_script

import utils

PAGES = [
    *ROOT.glob("*.md"),
    *(path for folder in ("docs", "model", "dataset") for path in ROOT.glob(f"{folder}/*.md")),
]
PAGES.append(ROOT / "benchmarks/RESULTS.md")
OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
COMMAND = re.compile(r"(?:-m (\w+\.\w+)|([\w./]+\.py))([^&;#]*)")
# What the commands write, by .gitignore, and examples of a user's own folders.
IGNORED = (ROOT / ".gitignore").read_text().splitlines()
GENERATED = [line.strip("/") for line in IGNORED if line and line[0] != "!"] + ["own", "holidays", "sheets"]


def split(page: Path) -> tuple[str, list[str]]:
    """The prose of a page, and its code: inline code and the lines of blocks, continuation lines joined."""
    parts = re.split(r"^```.*\n", page.read_text(), flags=re.M)
    prose, blocks = "".join(parts[::2]), "".join(parts[1::2])
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    return prose, inline + blocks.replace("\\\n", " ").splitlines()


def is_generated(path: Path) -> bool:
    path = path.resolve()
    name = str(path.relative_to(ROOT)) if ROOT in path.parents else ""
    return any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"{pattern}/*") for pattern in GENERATED)


def anchors(page: Path) -> list[str]:
    """The anchors of a page's titles, formed as GitHub does."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]


@functools.cache
def options_of(name: str) -> set[str]:
    """The options in the help of a script or module."""
    script = name if (ROOT / name).exists() else f"step2/{name}" if name.endswith(".py") else f"-m {name}"
    return set(OPTION.findall(run_script(script, "--help").stdout))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


def test_links() -> None:
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", split(page)[0]):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
                broken.append(f"{page.name}: {link}")
    assert not broken


def test_files() -> None:
    missing = []
    for page in PAGES:
        for word in re.findall(r"[^\s\"'<>]+", "\n".join(split(page)[1])):
            if re.fullmatch(r"(\.{1,2}/)*[a-zA-Z_.][\w.-]*(/[\w.-]*)+", word):
                places = [folder / word for folder in (ROOT, page.parent, ROOT / "step2", ROOT / "step2/x")]
                if not any(place.exists() or is_generated(place) for place in places):
                    missing.append(f"{page.name}: {word}")
    assert not missing


def test_options() -> None:
    scripts = [path.name for path in ROOT.glob("*.py") if path.name != "hubconf.py"]
    all_options = set().union(*map(options_of, [*scripts, "step2/main.py", "benchmarks.ablation"]))
    unknown = []
    for page in PAGES:
        for code in split(page)[1]:
            named = [(module or script, rest) for module, script, rest in COMMAND.findall(code) if "--" in rest]
            cases = [(options_of(name), rest) for name, rest in named]
            cases += [(all_options, code)] if code.startswith("--") else []
            unknown += [
                f"{page.name}: {option} in {code}"
                for options, text in cases
                for option in OPTION.findall(text)
                if option not in options
            ]
    assert not unknown


def test_one_version() -> None:
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        assert utils.__version__ in (ROOT / name).read_text(), name
