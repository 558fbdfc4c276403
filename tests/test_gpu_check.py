"""`python -m benchmarks gpu` on a CPU: its checks pass, and one that cannot is a row and an exit code."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bench_gpu, gpu_checks
from benchmarks.bench_gpu import Check, carried_out
from benchmarks.gpu_checks import CPU, Measured, Scale, compare_model
from mvsent.models import registry

LATER = float("inf")


@pytest.mark.slow
def test_every_check_passes_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_gpu.main(tmp_path, small=True) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "gpu-check.md").read_text(encoding="utf-8")
    document = json.loads((tmp_path / "gpu-check.json").read_text(encoding="utf-8"))
    assert document["torch"] == torch.__version__ and document["device"].startswith("CPU")
    of_model = [row["check"].split(",")[0] for row in document["checks"] if "float32: share" in row["check"]]
    assert of_model == registry.names()


def test_a_model_that_answers_otherwise_on_the_device_is_a_failed_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = gpu_checks.computed

    def computed(*asked: object) -> dict[str, torch.Tensor]:
        found = plain(*asked)
        wrong = found["answers"] + 0.01 * (asked[-1] == torch.bfloat16)
        return found | {"answers": wrong}

    monkeypatch.setattr(gpu_checks, "computed", computed)
    found = compare_model("image-only", Scale(6, 4), CPU, torch.bfloat16)
    assert found.value == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("value", "tolerance", "result"),
    [(0.1, 0.1, "pass"), (0.2, 0.1, "FAIL"), (float("nan"), 0.1, "FAIL"), (0.2, None, "measured")],
)
def test_a_value_passes_within_its_tolerance(value: float, tolerance: float | None, result: str) -> None:
    assert carried_out(Check("drawn", lambda: Measured(value), tolerance), LATER).result == result


def test_a_check_that_crashes_says_how() -> None:
    def crash() -> Measured:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    row = carried_out(Check("drawn", crash, 1.0), LATER)
    assert (row.result, row.note) == (
        "FAIL",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
    )


def test_no_check_begins_after_its_time() -> None:
    row = carried_out(Check("drawn", lambda: Measured(0.0), 1.0), until=0)
    assert (row.result, row.note) == ("FAIL", "not made: 420 s were over")
