"""Recipes of models, and what they state about the steps: optimisers, learning rates, precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mvsent.config import TrainSettings
from mvsent.errors import UsageError
from mvsent.learn import optimisation
from mvsent.learn.checkpoint import EpochRecord
from mvsent.learn.finetune import ThroughEncoders
from mvsent.learn.loop import best_epoch
from mvsent.learn.optimisation import half_precision, make_optimizer, parameter_groups, rate_share, set_rates
from mvsent.models import registry
from mvsent.runs.evaluate import evaluate
from mvsent.runs.recipes import recipe_of, with_recipe
from mvsent.runs.train import train
from tests.test_training import FOLD, made_up, records, trainer

CPU = torch.device("cpu")


def test_what_the_user_gives_counts_more_than_the_recipe() -> None:
    own = with_recipe(TrainSettings(model="multisentinet"))
    assert (own.batch_size, own.optimizer, own.best_by, own.patience) == (32, "rmsprop", "loss", 5)
    assert own.options == {"train_words": True, "dropout": 0.0}
    given = TrainSettings(model="multisentinet", batch_size=7, options={"dropout": 0.3})
    mixed = with_recipe(given)
    assert (mixed.batch_size, mixed.optimizer) == (7, "rmsprop")
    assert mixed.options == {"train_words": True, "dropout": 0.3}
    assert with_recipe(mixed) == mixed
    shared = with_recipe(TrainSettings(model="multisentinet", recipe="shared"))
    assert shared == TrainSettings(model="multisentinet", recipe="shared")


def test_a_recipe_that_nobody_published_is_refused() -> None:
    with pytest.raises(UsageError, match="--recipe paper: the authors of comn publish none"):
        recipe_of("comn", "paper")
    with pytest.raises(UsageError, match="--recipe paper: logistic is not of a paper"):
        recipe_of("logistic", "paper")


@pytest.mark.parametrize("kind", ["own", "tuned", "shared", "paper"])
@pytest.mark.parametrize("name", registry.names())
def test_every_recipe_of_a_model_states_settings_and_options_that_exist(name: str, kind: str) -> None:
    card = registry.card(name)
    if kind == "paper" and card.paper_recipe is None:
        pytest.skip("its authors publish none")
    recipe = recipe_of(name, kind)
    assert recipe.source
    chosen = with_recipe(TrainSettings(model=name, recipe=kind))
    for key, value in recipe.settings.items():
        assert getattr(chosen, key) == value
    TrainSettings(**chosen.model_dump())  # every value is within its limits
    registry.options(name, chosen.options)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_each_optimiser_is_torchs(optimizer: str) -> None:
    settings = TrainSettings(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}[optimizer]
    own = kind(theirs.parameters(), lr=0.01, weight_decay=0.1)
    for network, steps in ((ours, make_optimizer(ours, settings)), (theirs, own)):
        for _ in range(3):
            steps.zero_grad()
            network(torch.ones(4, 3)).square().sum().backward()
            steps.step()
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
def test_learning_rates_rise_and_fall_as_those_of_transformers(decay: str) -> None:
    transformers = pytest.importorskip("transformers")
    n, n_warm = 20, 4
    settings = TrainSettings(warmup=n_warm / n, decay=decay, epochs=4, learning_rate=0.5)
    network = nn.Linear(1, 1)
    ours, theirs = make_optimizer(network, settings), torch.optim.Adam(network.parameters(), lr=0.5)
    schedule = {
        "none": lambda: transformers.get_constant_schedule_with_warmup(theirs, n_warm),
        "linear": lambda: transformers.get_linear_schedule_with_warmup(theirs, n_warm, n),
        "cosine": lambda: transformers.get_cosine_schedule_with_warmup(theirs, n_warm, n),
    }[decay]()
    for step in range(n):
        set_rates(ours, settings, step, per_epoch=5)
        # Theirs begins to rise from zero, a step without effect; ours is one step ahead while it rises.
        expected = (step + 1) / n_warm * 0.5 if step < n_warm else schedule.get_last_lr()[0]
        assert ours.param_groups[0]["lr"] == pytest.approx(expected)
        theirs.step()
        schedule.step()


@pytest.mark.slow
def test_a_killed_fold_with_every_part_of_a_recipe_continues_bit_for_bit(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(record: EpochRecord) -> None:
        if record.epoch == 1:
            raise Killed

    recipe = {"optimizer": "adamw", "warmup": 0.3, "decay": "cosine", "clip_norm": 0.1, "weight_decay": 0.01}
    expected = trainer(made_up(), **recipe).fit(FOLD, tmp_path / "whole.pt")
    with pytest.raises(Killed):
        trainer(made_up(), **recipe).fit(FOLD, tmp_path / "cut.pt", on_epoch=kill)
    assert records(trainer(made_up(), **recipe).fit(FOLD, tmp_path / "cut.pt")) == records(expected)
    plain = trainer(made_up()).fit(FOLD, tmp_path / "plain.pt")
    assert records(plain) != records(expected)


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    running = trainer(made_up(), clip_norm=1e-9, optimizer="rmsprop", epochs=1)
    norms = []
    step = running.optimizer.step

    def watched(*given: object) -> object:
        gradients = [p.grad for p in running.network.parameters() if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        return step(*given)

    running.optimizer.step = watched  # type: ignore[method-assign]
    running.fit(FOLD, tmp_path / "c.pt")
    assert norms and max(norms) <= 1.001e-9


def test_the_best_epoch_may_be_chosen_by_the_loss() -> None:
    history = [
        EpochRecord(i, 0, 0, loss, accuracy, 0)
        for i, (loss, accuracy) in enumerate([(0.9, 0.8), (0.7, 0.5), (0.7, 0.6)])
    ]
    assert best_epoch(history) == 0
    assert best_epoch(history, "loss") == 1


@pytest.mark.slow
def test_test_rows_choose_an_epoch_only_where_asked_and_the_figures_say_so(
    small_dataset: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(
        dataset=str(small_dataset),
        model="comn",
        weights="random",
        words="random",
        epochs=4,
        batch_size=16,
        folds=[0],
        choose_on="test",
    )
    done = train(settings, out=tmp_path / "run", quiet=True)
    [fold] = done.folds
    assert fold.validation_accuracy == pytest.approx(fold.test_accuracy)
    document = evaluate(done.run, [], quiet=True).document
    assert any("the TEST ROWS chose the best epochs" in note for note in document["notes"])
    for model in ("logistic", "pair-memory", "dmlanet-plus", "dmaf"):
        with pytest.raises(UsageError, match=f"--choose-on test: {model} would be fitted on test rows"):
            train(settings.model_copy(update={"model": model}), out=tmp_path / model)


def test_lower_layers_of_an_encoder_learn_more_slowly() -> None:
    encoder = nn.ModuleDict(
        {"embeddings": nn.Linear(1, 1), "layer": nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])}
    )
    network = ThroughEncoders(nn.Linear(2, 3), list(encoder.parameters()), transformer=encoder)
    settings = TrainSettings(learning_rate=0.1, encoder_learning_rate=0.01, layer_decay=0.5)
    groups = parameter_groups(network, settings)
    assert [group["lr"] for group in groups] == [0.1, 0.0025, 0.005, 0.01]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_half_precision_on_a_cpu_is_bfloat16_where_it_has_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for has in (True, False):
        monkeypatch.setattr(optimisation, "cpu_has_bf16", lambda has=has: has)
        assert half_precision(TrainSettings(bf16=True), CPU) is (torch.bfloat16 if has else None)
        assert half_precision(TrainSettings(), CPU) is None


@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
def test_a_share_of_the_rate_is_above_zero_and_at_most_one(decay: str) -> None:
    for n in (1, 2, 7, 100):
        for warmup in (0.0, 0.1, 0.99):
            shares = [rate_share(step, n, warmup, decay) for step in range(n)]
            assert all(0 < share <= 1 for share in shares)
            assert np.argmax(shares) <= np.ceil(warmup * n)


@pytest.mark.slow
def test_an_option_for_an_input_that_the_model_does_not_read_is_told(
    small_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrainSettings(
        dataset=str(small_dataset),
        model="image-only",
        text_vector="minilm",
        image_vector="none",
        lexicon="all",
        captions="captions.csv",
        weights="random",
        epochs=1,
        folds=[0],
    )
    train(settings, out=tmp_path / "run", quiet=True)
    told = [record.message for record in caplog.records if "has no effect" in record.message]
    assert told == [
        f"{option} has no effect, as image-only does not read it"
        for option in ("--text-vector", "--lexicon", "--captions")
    ]
