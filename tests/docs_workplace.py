"""Where the documentation's commands are typed: a folder with what the pages speak of, and programs of their names.

`mvsent` is mvsent itself, made short: fewer epochs, queries and folds, a free port, a server in the background.
`pip`, `make` and `label-studio` only check that what they were asked for exists.
"""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

from mvsent.cli import main
from mvsent.curate.images import check_image
from mvsent.lexicons import load_anps, select
from mvsent.reasons import Rejection
from mvsent.standin.drawn_dump import DumpDrawing, draw_dump
from mvsent.standin.drawn_mvsa import draw_dataset
from mvsent.standin.replay import KEY, SECRET, Replay
from tests import programs
from tests.tiny_models import write_bert, write_clip

ROOT = Path(__file__).parents[1]

BUILD = "--overwrite --min-sentiment 1.99 --per-query 3 --quota-per-hour 100000 --images-per-second 0"
SHORTER = {
    "benchmark": "--folds 0 --epochs 1 --overwrite",
    "build-flickr": BUILD,
    "build-getty": "--overwrite --min-sentiment 2.8 --per-query 3 --quota-per-hour 100000 --images-per-second 0",
    "demo": "--rows 60 --epochs 1",
    "reconcile-mvsa": "--overwrite",
    "explain": "-n 2 --measured 2",
    "refresh": "--quota-per-hour 100000",
    "replay": "--port 0 --side 100",
    "serve": "--port 0",
}
"""Appended to a command: an option given twice counts as the second one."""

SERVERS = {"replay": "export ", "serve": "Open http"}
"""Commands that run until they are stopped, and what they print when they answer."""


def fill(folder: Path, shell: dict[str, str]) -> None:
    """`folder` holds the data, runs and files that the pages' commands name."""
    draw_dataset(folder / "MVSA_Single", n_rows=100, seed=2, n_annotators=1)
    type_in(folder, "mvsent build-flickr --language any", shell)
    strong = {term.query: term.sentiment for term in select(load_anps(), min_sentiment=1.99)}
    pictures_at = shell["MVSENT_FLICKR_ENDPOINT"].partition("/services")[0]
    for number in range(2):
        drawing = DumpDrawing(strong, 0.1, pictures_at, seed=number)
        draw_dump(folder / f"yfcc100m_dataset-{number}.bz2", drawing, 300)
    type_in(folder, "mvsent reconcile-mvsa MVSA_Single", shell)
    type_in(folder, "mvsent train data/mvsa-single --threads 1 --folds 0,1", shell)
    type_in(folder, "mvsent train data/mvsa-single --model logistic --protocol grouped-kfold-5", shell)
    type_in(folder, "mvsent benchmark data/mvsa-single --table 2 --models dmlanet,dmlanet-plus", shell)
    interrupted = folder / "runs" / "interrupted"
    shutil.copytree(folder / "runs" / "dmlanet-mvsa-single-paper-5x-s0", interrupted)
    shutil.rmtree(interrupted / "fold-1")
    type_in(folder, "mvsent export data/mvsa-single --to label-studio --out tasks", shell)
    annotate(folder / "tasks" / "tasks.json", [folder / "project.json", folder / "project-1.json"])
    shutil.rmtree(folder / "tasks")
    pictures = [
        picture for picture in sorted((folder / "MVSA_Single" / "data").glob("*.jpg")) if is_whole(picture)
    ][:4]
    (folder / "pictures").mkdir()
    for picture in pictures:
        for file in (picture, picture.with_suffix(".txt")):
            shutil.copy(file, folder / "pictures")
    for name in ("cat.jpg", "picture.jpg"):
        shutil.copy(pictures[0], folder / name)
    (folder / "pairs.csv").write_text(
        "image,text,label\ncat.jpg,so good,positive\npicture.jpg,so bad,negative\n"
    )
    (folder / "pairs.jsonl").write_text('{"image": "cat.jpg", "text": "so good"}\n{"text": "so bad"}\n')
    (folder / "captions.csv").write_text("id,caption\nmvsa-single:1,a cat in the sun\n")
    write_bert(folder / "models" / "bert-base")
    write_clip(folder / "models" / "clip-vit-base-patch32")
    write_private(folder / ".flickr-key", f"FLICKR_API_KEY={KEY}\n")
    write_private(folder / ".getty-key", f"GETTY_API_KEY={KEY}\nGETTY_API_SECRET={SECRET}\n")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "results.md", folder / "docs")


def is_whole(picture: Path) -> bool:
    """Whether the picture can be decoded and has a text: some of a drawn folder lack either on purpose."""
    if not picture.with_suffix(".txt").exists():  # a drawn folder has gaps, too
        return False
    facts = check_image(picture.read_bytes(), max_pixels=10**7, max_bytes=10**7)
    return not isinstance(facts, Rejection)


def annotate(tasks: Path, exports: list[Path]) -> None:
    """Two people agree on every task."""
    found = json.loads(tasks.read_text())
    for number, task in enumerate(found, start=1):
        task["id"] = number
        chosen = task.pop("predictions")[0]["result"]
        task["annotations"] = [{"id": by, "completed_by": by, "result": chosen} for by in (1, 2)]
    for export in exports:
        export.write_text(json.dumps(found))


def write_private(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def write_programs(folder: Path) -> Path:
    """A folder of programs for PATH: each calls this module with its own name."""
    folder.mkdir()
    for name in ("mvsent", "pip", "make", "curl", "python", "label-studio"):
        script = folder / name
        words = ("-m", "tests.docs_workplace", name)
        warm, fresh = shlex.join(programs.python(*words)), shlex.join([sys.executable, *words])
        # Ray does not start in a process that was forked from the warm one.
        script.write_text(f'#!/bin/sh\ncase "$*" in *ray*) exec {fresh} "$@";; esac\nexec {warm} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def environment(folder: Path, bin: Path, replay: Replay) -> dict[str, str]:
    """What a reader's shell would have, with the stand-in for both services."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MVSENT_")}
    return {
        **kept,
        "HOME": str(folder),
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MVSENT_CACHE": str(bin.parent / "cache"),
        "MVSENT_TRAIN_EPOCHS": "1",
        "MVSENT_FLICKR_ENDPOINT": replay.flickr_endpoint,
        "MVSENT_GETTY_ENDPOINT": replay.getty_endpoint,
        "MVSENT_GETTY_TOKEN_URL": replay.getty_token_url,
        "FLICKR_API_KEY": KEY,
        "GETTY_API_KEY": KEY,
        "GETTY_API_SECRET": SECRET,
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }


def type_in(folder: Path, block: str, environment: dict[str, str]) -> None:
    """Every command of `block` succeeds in a shell in `folder`."""
    code = re.sub(r"(FLICKR_API_KEY|GETTY_API_KEY)=…", rf"\1={KEY}", block)
    code = code.replace("GETTY_API_SECRET=…", f"GETTY_API_SECRET={SECRET}")
    pasted = folder / ".pasted"  # the lines that `mvsent replay` asked to paste
    before = ""
    if pasted.exists():
        before = f". {pasted}\n"
        port = re.search(r"127\.0\.0\.1:\d+", pasted.read_text())
        code = code.replace("127.0.0.1:8765", port[0] if port else "")  # `replay` got another port
    done = subprocess.run(
        ["bash", "-e", "-c", before + code],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def stop_servers(folder: Path) -> None:
    for file in folder.glob(".server-*"):
        os.kill(int(file.suffix[1:]), 15)
        file.unlink()


def _mvsent(arguments: list[str]) -> int:
    words = [*arguments, *SHORTER.get(arguments[0], "").split()]
    if arguments[0] == "benchmark" and "--models" not in arguments:
        words += ["--models", "logistic"]
    if arguments[0] == "benchmark" and "4" in arguments:
        words += ["--dry-run"]  # two dozen trainings; test_benchmark.py has them
    if arguments[0] == "train" and not {"--folds", "--resume"} & set(arguments):
        words += ["--folds", "0"]
    if arguments[0] in SERVERS and "--help" not in arguments:
        return _serve(programs.mvsent(*words), SERVERS[arguments[0]])
    sys.argv = ["mvsent", *words]
    main()
    return 0


def _serve(command: list[str], sign: str) -> int:
    """Start a server that outlives this process, and return as soon as it answers."""
    log = Path(f".log-{os.getpid()}")
    with log.open("w") as file:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        )
    Path(f".server-{os.getpid()}.{server.pid}").touch()
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if line.startswith(sign):
            break
    else:
        print(log.read_text(), file=sys.stderr)
        return 1
    if sign == SERVERS["replay"]:
        said += [server.stdout.readline() for _ in range(4)]
        Path(".pasted").write_text("".join(line for line in said if line.startswith("export ")))
    else:
        Path(".served").write_text(re.findall(r"http://[\d.:]+", said[-1])[0])
    return 0


def _pip(arguments: list[str]) -> int:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)) for name in group.split(",")}
    assert arguments[0] == "install", arguments
    assert named <= set(extras), named - set(extras)
    return 0


def _make(arguments: list[str]) -> int:
    return subprocess.run(
        ["/usr/bin/env", "make", "-n", *arguments], cwd=ROOT, env=_without_us(), check=False
    ).returncode


def _curl(arguments: list[str]) -> int:
    address = Path(".served").read_text()
    asked = [argument.replace("http://127.0.0.1:8000", address) for argument in arguments]
    return subprocess.run(["curl", "--fail", "-s", *asked], env=_without_us(), check=False).returncode


def _python(arguments: list[str]) -> int:
    from benchmarks.__main__ import GPU, MODULES

    assert arguments[:2] == ["-m", "benchmarks"], arguments
    assert set(arguments[2:]) <= {GPU, *MODULES}, arguments
    return 0


def _without_us() -> dict[str, str]:
    return {**os.environ, "PATH": os.environ["PATH"].partition(os.pathsep)[2]}


if __name__ == "__main__":
    program, *rest = sys.argv[1:]
    handlers = {"mvsent": _mvsent, "pip": _pip, "make": _make, "curl": _curl, "python": _python}
    sys.exit(handlers[program](rest) if program in handlers else 0)
