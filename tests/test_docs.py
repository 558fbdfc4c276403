"""What the documentation shows is what is: links, counts, tables, make targets. Its commands: test_docs_commands.py."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REAL = os.environ.get("MVSENT_MVSA_ROOT", "")


def blocks(markdown: str) -> list[str]:
    """The contents of the fenced blocks that hold commands."""
    return re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Each command of a block with the lines that it prints: after `$ ` in a console, else every line."""
    found: list[tuple[str, list[str]]] = []
    is_console = block.lstrip().startswith("$ ")
    for line in block.splitlines():
        if not is_console and line.strip():
            found.append((line, []))
        elif line.startswith("$ "):
            found.append((line[2:], []))
        elif is_console:
            found[-1][1].append(line)
    return found


TYPED = [command for block in blocks(README) for command, _ in commands(block)]
SHOWN = {command: lines for block in blocks(README) for command, lines in commands(block)}


def of(program: str) -> list[str]:
    return [command for command in TYPED if shlex.split(command, comments=True)[:1] == [program]]


def run(command: str, cwd: Path, **environment: str) -> str:
    """What `mvsent …` prints, typed in `cwd`."""
    words = shlex.split(command, comments=True)
    done = subprocess.run(
        programs.python("-m", *words),
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def test_the_readme_has_the_two_set_up_commands_and_the_three_of_the_main_path() -> None:
    assert of("make")[:2] == ["make demo", "make test"]
    for start in ("mvsent reconcile-mvsa", "mvsent train", "mvsent eval --metrics roc,prc"):
        assert any(command.startswith(start) for command in TYPED), start


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="MVSENT_MVSA_ROOT does not name the published MVSA folder")
def test_the_readmes_counts_are_those_of_the_published_folder(tmp_path: Path) -> None:
    (tmp_path / "MVSA_Single").symlink_to(Path(REAL).resolve())
    command = next(command for command in of("mvsent") if command.startswith("mvsent reconcile-mvsa"))
    assert SHOWN[command], "the README shows what the command prints"
    assert run(command, tmp_path).split() == " ".join(SHOWN[command]).split()


def test_the_readmes_result_table_is_that_of_the_results_page() -> None:
    shown = SHOWN["mvsent eval --metrics roc,prc"]
    assert len(shown) > 10
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert [line.strip() for line in shown if line.strip() not in results] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Strictly: a broken link or anchor, a page outside the navigation, a docstring that cannot be read."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert "reconcile-tasks" in pages[tmp_path / "site" / "reference" / "commands" / "index.html"]
    for path, page in pages.items():
        fetched = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"?([^\s\">]+)|<link[^>]* href=\"?([^\s\">]+)", page
        )
        assert [one for one in fetched if "//" in "".join(one)] == [], path
        assert not re.search(r"data-md-component=\"?source\b", page), "its script would ask GitHub"


def test_generated_tables_name_their_columns_and_show_signs_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    reference = pytest.importorskip("reference")
    pages = (reference.commands_page, reference.metrics_page, reference.columns_page, reference.reasons_page)
    for page in (make() for make in pages):
        html = markdown(page)
        assert "<th></th>" not in html
        assert "\\" not in html
    commands = markdown(reference.commands_page())
    assert "<code>--rows &lt;int range&gt;</code>" in commands
    assert "<code>--polarity &lt;positive|negative&gt;</code>" in commands
    assert markdown(reference._text("a *b* <c> `d|<e>` [f] | g_h_")) == (
        "<p>a *b* &lt;c&gt; <code>d|&lt;e&gt;</code> [f] | g_h_</p>"
    )


def markdown(page: str) -> str:
    """The page as the site shows it."""
    from markdown import markdown

    return str(markdown(page, extensions=["tables"]))


def test_make_alone_lists_every_target_with_its_caption() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert re.findall(r"^make ([\w-]+)\s+\w", listed, re.MULTILINE) == targets


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert script[0] == "#!/usr/bin/env bash"
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert [line for line in script if line.startswith(("make", "pip", "python", "pytest"))] == ["make test"]
