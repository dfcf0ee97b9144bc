"""The layout: imports go one way, from the scripts down to utils/core."""

import ast
from pathlib import Path

from conftest import ROOT

# From the bottom up: a package imports itself and those on the lines above its own.
ORDER = (
    ("utils.core",),
    ("datasets", "networks"),
    ("utils.denoising", "utils.alignment", "utils.iteration", "utils.mining", "utils.evaluation"),
    ("utils.crf", "utils.saliency", "utils.training", "utils.report"),
    ("step2",),
    ("utils.evaluation.predictor",),  # of networks of both stages
    ("scripts",),
    ("benchmarks",),
)
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}
# Beside one another, with one direction all the same.
BESIDE = {("networks", "datasets"), ("utils.iteration", "utils.denoising"), ("utils.iteration", "utils.alignment")}
FOLDERS = ("datasets", "networks", "utils", "step2", "benchmarks")
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]


def package_of(module: str) -> str | None:
    """The package of ORDER that a module belongs to; None for a library's."""
    found = [package for package in LEVEL if module == package or module.startswith(f"{package}.")]
    if found:
        return max(found, key=len)
    return "scripts" if (ROOT / f"{module.split('.')[0]}.py").exists() else None


def imports(path: Path, inside: bool = True) -> list[str]:
    """The modules that a file imports, with `inside` also inside functions and other blocks."""
    found, tree = [], ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_imports_go_one_way() -> None:
    wrong = []
    for path in SOURCES:
        name = path.relative_to(ROOT)
        own = package_of(".".join(name.with_suffix("").parts)) or "scripts"
        for module in imports(path):
            package = package_of(module)
            if package not in (None, own) and (own, package) not in BESIDE and LEVEL[package] >= LEVEL[own]:
                wrong.append(f"{name} ({own}) imports {module} ({package})")
    assert not wrong


def test_optional_packages_are_imported_where_they_are_used() -> None:
    optional = {"rembg", "onnx", "onnxruntime", "jinja2", "matplotlib", "scipy", "tensorboard", "pydensecrf"}
    assert not [path for path in SOURCES if optional & {name.split(".")[0] for name in imports(path, inside=False)}]


def test_the_top_level_of_utils_is_the_paper() -> None:
    files = {path.name for path in (ROOT / "utils").glob("*.py")} - {"__init__.py"}
    assert files == {"denoising.py", "alignment.py", "iteration.py", "mining.py"}


def test_files_are_short() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {str(path): length for path, length in lengths.items() if length > 250}
