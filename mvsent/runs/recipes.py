"""The recipe of a model: settings that count unless the user gives others."""

from mvsent.config import TrainSettings
from mvsent.errors import UsageError
from mvsent.models import registry
from mvsent.models.registry import TrainingRecipe


def recipe_of(model: str, kind: str) -> TrainingRecipe:
    """The recipe of `model` that `--recipe` names. Raises: UsageError if its authors publish none."""
    card = registry.card(model)
    shared = TrainingRecipe("the same for every model")
    if kind == "shared":
        return shared
    if kind == "paper" and card.paper_recipe is None:
        raise UsageError(
            f"--recipe paper: the authors of {model} publish none"
            if card.kind == "paper"
            else f"--recipe paper: {model} is not of a paper",
            "Take own, tuned or shared",
        )
    if kind in ("own", "paper") and card.paper_recipe:
        return card.paper_recipe
    return card.tuned_recipe or shared


def with_recipe(settings: TrainSettings) -> TrainSettings:
    """The settings, of which those that were not given are those of the model's recipe.

    Applied again, it changes nothing.

    Raises: UsageError for a model or an option that does not exist, or a recipe that is not published.
    """
    recipe = recipe_of(settings.model, settings.recipe)
    taken = {name: value for name, value in recipe.settings.items() if name not in settings.model_fields_set}
    options = {**recipe.options, **settings.options}
    return settings.model_copy(update={**taken, "options": options})
