"""Recipes: build an optimizer and a schedule for a model and a run length, with the source of each choice."""

from fallline.recipes.convnet import convnet
from fallline.recipes.fine_tuning import fine_tuning
from fallline.recipes.groups import layer_groups, parameter_groups
from fallline.recipes.language_model import language_model
from fallline.recipes.recipe import Choice, Recipe, scale_lr
from fallline.recipes.vision_transformer import vision_transformer

__all__ = [
    "Choice",
    "Recipe",
    "convnet",
    "fine_tuning",
    "language_model",
    "layer_groups",
    "parameter_groups",
    "scale_lr",
    "vision_transformer",
]
