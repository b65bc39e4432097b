"""Recipes, the apps that they take, and a script that makes a job of one."""

from __future__ import annotations

from pathlib import Path

from flip_fl.nvflare.recipes import (
    FlipDiffusionRecipe,
    FlipEvalRecipe,
    FlipFedAvgRecipe,
    FlipFedOptRecipe,
    FlipRecipe,
)
from tests.support.evaluations import write_evaluation
from tests.support.small_apps import write_app
from tests.support.staged_app import write_staged_app

RECIPES = (FlipFedAvgRecipe, FlipFedOptRecipe, FlipEvalRecipe, FlipDiffusionRecipe)

SCRIPT = """
import sys
from flip_fl.nvflare.recipes import FlipFedAvgRecipe
made = FlipFedAvgRecipe(app={app!r}, num_rounds=3)
print(sys.argv[1:], "nvflare.recipe" in sys.modules)
from nvflare.recipe import SimEnv
made.execute(SimEnv(num_clients=2, workspace_root={root!r}))
"""


def app_for(recipe: type[FlipRecipe], folder: Path) -> Path:
    """An app that ``recipe`` takes."""
    if recipe is FlipEvalRecipe:
        return write_evaluation(folder, {"base": {"checkpoint": "linear.pt"}})
    return write_staged_app(folder) if recipe is FlipDiffusionRecipe else write_app(folder)
