"""The layout: imports go one way, from the scripts down to utils/core."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# From the bottom up: a package imports itself and those on the lines above its own.
ORDER = (
    ("utils.core",),
    ("datasets", "networks"),
    ("utils.denoising", "utils.alignment", "utils.iteration", "utils.mining", "utils.evaluation"),
    ("utils.crf", "utils.saliency", "utils.training", "utils.report"),
    ("step2",),
    ("scripts",),
    ("benchmarks",),
)
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}
# Beside one another, with one direction all the same.
BESIDE = {
    ("networks", "datasets"),
    ("utils.iteration", "utils.denoising"),
    ("utils.iteration", "utils.alignment"),
}


def package_of(module: str) -> str | None:
    """The package of ORDER that a module belongs to; None for a library's."""
    found = [package for package in LEVEL if module == package or module.startswith(f"{package}.")]
    if found:
        return max(found, key=len)
    return "scripts" if (ROOT / f"{module.split('.')[0]}.py").exists() else None


def imports(path: Path) -> list[str]:
    """The modules that a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


FOLDERS = ("datasets", "networks", "utils", "step2", "benchmarks")
SOURCES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")))
)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    own = package_of(".".join(path.with_suffix("").parts)) or "scripts"
    for module in imports(ROOT / path):
        package = package_of(module)
        if package in (None, own) or (own, package) in BESIDE:
            continue
        assert LEVEL[package] < LEVEL[own], f"{path} ({own}) imports {module} ({package})"


def test_the_top_level_of_utils_is_the_paper() -> None:
    files = {path.name for path in (ROOT / "utils").glob("*.py")} - {"__init__.py"}
    assert files == {"denoising.py", "alignment.py", "iteration.py", "mining.py"}


def test_library_modules_leave_the_path_alone() -> None:
    for path in SOURCES:
        if len(path.parts) > 1 and path.parts[0] != "benchmarks" and path != Path("step2/main.py"):
            assert "sys.path" not in (ROOT / path).read_text(encoding="utf-8"), path
