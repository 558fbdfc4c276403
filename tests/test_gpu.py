"""What only a GPU would show, as far as a CPU can: half precision, another device on resuming, a full memory."""

import json
import os
from pathlib import Path

import pytest
import torch

from mvsent.errors import DeviceMemoryError
from mvsent.features.device import single_precision
from mvsent.models import registry
from mvsent.models.batch import Batch, Output
from mvsent.models.joint_cross_modal import JointCrossModal
from mvsent.models.label_rule import apply_rule, label_rule
from mvsent.runs import train as training
from mvsent.workers.devices import rank_device
from mvsent.workers.ranks import ALONE, Ranks

from .run_folder import write_run
from .test_models import sizes
from .test_training import CPU, FOLD, made_up, records, trainer


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, of)[0]


def test_an_unlikely_class_has_a_finite_gradient_in_half_precision() -> None:
    logits = torch.tensor([[12.0, 0.0, -12.0]], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = -apply_rule(label_rule((0, 1, 2)), logits, logits)[0, 2]
    assert gradient(65536 * loss, logits).isfinite().all()  # scaled as training scales it


def test_the_discrepancy_of_near_modalities_survives_half_precision() -> None:
    network = registry.build("joint-cross-modal", sizes(), {}).train()
    assert isinstance(network, JointCrossModal)
    random = torch.Generator().manual_seed(0)
    text, regions = (torch.tanh(torch.randn(64, 128, generator=random) / 10 + 1) for _ in range(2))
    text.requires_grad_(True)

    def slope(enabled: bool) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            penalty = network._penalty(text, regions.unsqueeze(1))
        assert penalty is not None
        return gradient(penalty, text)

    assert torch.allclose(slope(True), slope(False))


def test_answers_are_in_single_precision_where_training_is_not() -> None:
    single, half = trainer(made_up()), trainer(made_up())
    half.objective.lower = torch.bfloat16
    assert (half.predict_proba(FOLD.validation) == single.predict_proba(FOLD.validation)).all()


def test_a_run_begun_without_a_loss_scale_is_resumed_with_one(tmp_path: Path) -> None:
    begun = trainer(made_up(), epochs=2)
    history = begun.fit(FOLD, tmp_path / "c.pt")
    resumed = trainer(made_up(), epochs=4)
    resumed.scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert records(resumed.fit(FOLD, tmp_path / "c.pt"))[:2] == records(history)


def test_a_full_memory_names_the_option_that_helps(tmp_path: Path) -> None:
    class Greedy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, batch: Batch) -> Output:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has …")

    greedy = trainer(made_up())
    greedy = type(greedy)(Greedy(), greedy.source, greedy.settings, CPU)
    wanted = r"too little memory for a step \(CUDA out of memory\)\. Give a smaller --batch-size"
    with pytest.raises(DeviceMemoryError, match=wanted):
        greedy.fit(FOLD, tmp_path / "c.pt")
    with pytest.raises(DeviceMemoryError, match=wanted):
        greedy.predict_proba(FOLD.validation)


def test_single_precision_is_not_rounded_within_the_block_only() -> None:
    before = torch.backends.cudnn.allow_tf32
    with single_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_training_asks_cublas_for_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    training.compute_alike(torch.get_num_threads())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


SET: list[torch.device] = []


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", SET.append)
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device: f"GPU {torch.device(device).index or 0}"
    )


def test_a_rank_alone_on_its_machine_computes_on_the_device_that_was_named(two_gpus: None) -> None:
    alone = Ranks(rank=1, world=2, local_rank=0, local_world=1)
    assert rank_device("cuda:1", alone) == torch.device("cuda", 1)
    assert rank_device("auto", alone) == torch.device("cuda", 0)


def test_a_process_alone_leaves_the_other_gpus_untouched(two_gpus: None) -> None:
    assert rank_device("cuda:1", ALONE) == torch.device("cuda", 1) == SET[-1]


@pytest.mark.parametrize(("device", "told"), [("cpu", "CPU, "), ("cuda:1", "GPU 1"), ("auto", "GPU 0")])
def test_a_run_records_the_device_that_was_used(
    device: str, told: str, tmp_path: Path, two_gpus: None
) -> None:
    write_run(tmp_path / "run", device=device)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["device"].startswith(told)
