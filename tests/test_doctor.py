"""`mvsent doctor` says what this machine has, never a key's value, and never fails."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mvsent import doctor
from mvsent.cli import app

run = CliRunner().invoke


def test_doctor_names_python_torch_weights_vectors_and_every_key() -> None:
    printed = run(app, ["doctor"])
    assert printed.exit_code == 0
    for word in (
        "python",
        "torch",
        "cuda",
        "inception_v3",
        "efficientnet_lite0",
        "word vectors",
        "feature cache",
    ):
        assert word in printed.stdout
    for key in ("FLICKR_API_KEY", "GETTY_API_KEY", "GETTY_API_SECRET"):
        assert key in printed.stdout


def test_doctor_says_that_a_key_is_set_and_never_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", "sesame-0123456789")
    monkeypatch.delenv("GETTY_API_KEY", raising=False)
    monkeypatch.setenv("GETTY_API_SECRET", "")
    for arguments in (["doctor"], ["doctor", "--json"]):
        assert "sesame" not in run(app, arguments).stdout
    assert doctor.keys() == {
        "FLICKR_API_KEY": "set",
        "FLICKR_API_SECRET": "not set",
        "FLICKR_OAUTH_TOKEN": "not set",
        "FLICKR_OAUTH_TOKEN_SECRET": "not set",
        "GETTY_API_KEY": "not set",
        "GETTY_API_SECRET": "not set",
    }


def test_doctor_json_is_one_document_with_every_section() -> None:
    document = json.loads(run(app, ["doctor", "--json"]).stdout)
    assert list(document) == [
        "versions",
        "extras",
        "device",
        "pretrained weights",
        "word vectors",
        "encoders",
        "storage",
        "API keys",
    ]
    assert all(isinstance(finding, str) for section in document.values() for finding in section.values())


def test_a_broken_installation_is_a_finding_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Findings:
        raise OSError("libcudart.so.13:\ncannot open shared object file")

    monkeypatch.setattr(doctor, "device", broken)
    assert doctor.examine().sections["device"] == {
        "cannot be told": "OSError: libcudart.so.13: cannot open shared object file"
    }


def test_a_package_that_is_not_there_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    found = doctor.versions()
    assert found["torch"] == "MISSING: pip install torch"
    assert doctor.extras()["review"] == "not installed: cleanlab; pip install 'mvsent[review]'"


def test_an_extra_that_is_half_there_names_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", {"onnx": "1.2", "onnxscript": "0.3"}.get)
    assert doctor.extras()["export"] == (
        "onnx 1.2, onnxscript 0.3; not installed: onnxruntime; pip install 'mvsent[export]'"
    )


def test_the_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = {
        extra: {re.split("[><=]", one)[0] for one in packages}
        for extra, packages in project["optional-dependencies"].items()
    }
    assert {extra: set(packages) for extra, packages in doctor.EXTRAS.items()} == {
        extra: packages
        for extra, packages in declared.items()
        if extra not in ("dev", "bench", "docs")  # for who works on it
    }
