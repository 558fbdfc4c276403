"""Rules of the house that no other tool checks: names, sizes, circles, and the English of docstrings."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[1] / "mvsent"
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
MAX_LINES, MAX_PARAMETERS = 350, 10

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def test_no_two_files_have_one_name() -> None:
    names = Counter(
        path.name for path in FILES if path.name not in {"__init__.py", "__main__.py", "registry.py"}
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_files_import_each_other() -> None:
    """A circle through any number of files, imports within functions included."""
    graph = grimp.build_graph("mvsent", cache_dir=None)
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    below["mvsent"] = set()  # the Python API, which imports its functions when they are first used
    while True:
        ends = {module for module, imported in below.items() if not imported & below.keys()}
        if not ends:
            break
        below = {module: imported for module, imported in below.items() if module not in ends}
    assert sorted(below) == []


def test_a_file_is_short_or_says_why_not() -> None:
    long = [path for path in FILES if len(path.read_text().splitlines()) > MAX_LINES]
    assert [str(path) for path in long if "# Longer than" not in path.read_text()] == []


def test_no_function_outside_the_models_takes_more_than_ten_parameters() -> None:
    long = [
        at(path, function)
        for path, tree in TREES.items()
        if "models" not in path.parts
        for function in functions(tree)
        if len([*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]) > MAX_PARAMETERS
    ]
    assert long == []


@pytest.mark.slow
def test_a_docstring_says_what_its_function_does_and_does_not_begin_with_what() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    riddles = [
        at(path, node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, documented) and (ast.get_docstring(node) or "").startswith("What ")
    ]
    assert riddles == []


def test_nothing_is_mended() -> None:
    pages = [*FILES, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]
    archaic = re.compile(r"\bmend(s|ed|ing)?\b|not to be had|\bwhosoever\b", re.IGNORECASE)
    assert [str(page.relative_to(ROOT)) for page in pages if archaic.search(page.read_text())] == []
