"""A sound task, and one for every way in which a task can be broken, with what its check says."""

import itertools
import random
import time
from typing import ClassVar

import numpy as np
import torch
from torch import nn

POINTS = torch.randn(96, 4, generator=torch.Generator().manual_seed(96))
LABELS = (POINTS[:, 0] > 0).long()


class Sound:
    """What every task below breaks in one point."""

    train, val, test = slice(0, 64), slice(64, 80), slice(80, 96)

    def model(self):
        return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 2))

    def batches(self, split, generator):
        points, labels = POINTS[getattr(self, split)], LABELS[getattr(self, split)]
        while split == "train":
            for chosen in torch.randperm(64, generator=generator).split(16):
                yield points[chosen], labels[chosen]
        yield points, labels

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model, batch):
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).double().mean().item()}


class ModelIsNoModule(Sound):
    def model(self):
        return lambda points: points


class ModelIsFrozen(Sound):
    def model(self):
        return super().model().requires_grad_(False)


class ModelIsKept(Sound):
    def __init__(self):
        self.kept = super().model()

    def model(self):
        return self.kept


class ModelStartsFromNoSeed(Sound):
    def model(self):
        model = super().model()
        nn.init.constant_(model[3].bias, np.random.default_rng().random() + random.SystemRandom().random())
        return model


class ModelRaises(Sound):
    def model(self):
        return nn.Linear(4)


class BatchesIgnoreTheGenerator(Sound):
    def batches(self, split, generator):
        return super().batches(split, torch.default_generator)


class AugmentationIgnoresTheGenerator(Sound):
    def batches(self, split, generator):
        for points, labels in super().batches(split, generator):
            yield (points + 0.01 * torch.randn(points.shape) if split == "train" else points), labels


class TrainEnds(Sound):
    def batches(self, split, generator):
        for number, batch in enumerate(super().batches(split, generator)):
            if number == 7:
                return
            yield batch


class TrainIsEmpty(Sound):
    def batches(self, split, generator):
        return super().batches(split, generator) if split != "train" else iter(())


class ValNeverEnds(Sound):
    def batches(self, split, generator):
        yield from super().batches(split, generator) if split == "train" else ()
        while True:
            yield from zip(*(t[getattr(self, split)].split(5) for t in (POINTS, LABELS)), strict=True)


class EndlessTest(Sound):
    def batches(self, split, generator):
        while split == "test":
            yield torch.randn(1, 4, generator=generator), torch.zeros(1)
        yield from super().batches(split, generator)


class EmptyTest(Sound):
    test = slice(0, 0)

    def batches(self, split, generator):
        return super().batches(split, generator) if split != "test" else iter(())


class SizeIsATensor(Sound):
    def size(self, batch):
        return torch.tensor(16)


class ValIsPartOfTrain(Sound):
    val = slice(0, 32)


class ValIsTest(Sound):
    test = Sound.val


class GroupsOfAnotherModel(Sound):
    def param_groups(self, model):
        return list(self.model().parameters())


class GroupsAreNone(Sound):
    def param_groups(self, model):
        model.parameters()


class LossPerExample(Sound):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(*[model(batch[0]), batch[1]], reduction="none")


class LossIsANumber(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch).item()


class LossIsNaN(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch) * torch.nan


class LossIsDetached(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch).detach()


class LossOfTheWrongShape(Sound):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1][:7])


class LossHasNoiseWithoutSeed(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch) * (1 + model.training * 1e-3 * np.random.default_rng().random())


class LossDependsOnTheTime(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch) + model.training * 1e-3 * (time.perf_counter() % 1)


class LossCountsItsCalls(Sound):
    calls = itertools.count(1)  # of the class: shared by all trials of a process

    def loss(self, model, batch):
        return super().loss(model, batch) * (1 + model.training / next(self.calls))


class EvaluateReturnsTensors(Sound):
    def evaluate(self, model, batch):
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).double().mean()}


class EvaluateReturnsNothing(Sound):
    def evaluate(self, model, batch):
        pass


class EvaluateHasOtherKeys(Sound):
    def evaluate(self, model, batch):
        return {"acc": 0.5}


class DropoutInEvaluation(Sound):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(nn.functional.dropout(model(batch[0])), batch[1])


class ValIsDrawnAnew(Sound):
    def batches(self, split, generator):
        for points, labels in super().batches(split, generator):
            yield (points + torch.randn(points.shape) if split == "val" else points), labels


class LossesAreOneNumber(Sound):
    def losses(self, model, batch):
        return self.loss(model, batch)


class LossesAreSums(Sound):
    def losses(self, model, batch):
        return 2 * nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


class LossesOfAnUnknownMetric(Sound):
    def losses(self, model, batch):
        return {"acc": (model(batch[0]).argmax(1) == batch[1]).double()}


class SplitIsTheTasksOwn(Sound):
    """Declared with resplit=True."""


class SplitIsKeptOutside(Sound):
    """Declared with resplit=True."""

    kept: ClassVar = {}

    def batches(self, split, generator):
        rows = self.kept.setdefault("rows", self.split_indices(96, val=16, test=16))
        self.train, self.val, self.test = rows["train"], rows["val"], rows["test"]
        return super().batches(split, generator)


class InputsAreIgnored(Sound):
    def loss(self, model, batch):
        return super().loss(model, (torch.zeros_like(batch[0]), batch[1] * 0 + torch.arange(len(batch[1])) % 2))


class NoBetterThanTrivial(Sound):
    def trivial_loss(self):
        return 1e-9


BROKEN = {
    ModelIsNoModule: ("model", "model must return a torch.nn.Module, got function; return the network itself"),
    ModelIsFrozen: ("model", "must have parameters that require gradients, got none; unfreeze"),
    ModelIsKept: ("model", "must return a new model on every call, got the same parameters twice; build the model"),
    ModelStartsFromNoSeed: (
        "model",
        "must have the same initial values for the same seed, got different values in 3.bias; draw them from",
    ),
    ModelRaises: ("model", "(broken_tasks.py, line "),
    BatchesIgnoreTheGenerator: (
        "batches",
        "must be the same for the same generator, got different ones in a second pass; draw",
    ),
    AugmentationIgnoresTheGenerator: ("batches", "draw from `generator` alone: torch.randperm"),
    TrainEnds: ("batches", "got an end after 7 of the 40 batches that 40 steps need; put the loop over"),
    TrainIsEmpty: ("batches", 'batches("train", …) must yield batches indefinitely, got no batch'),
    ValNeverEnds: (
        "splits",
        'batches("val", …) must end after one pass, got the first batch again as number 5; repeat',
    ),
    EndlessTest: ("splits", 'batches("test", …) must end after one pass, got over 100 batches'),
    EmptyTest: ("splits", 'batches("test", …) must yield at least one batch, got none; reserve'),
    SizeIsATensor: ("size", "must return the number of items as an int >= 1, got tensor(16); return the length"),
    ValIsPartOfTrain: ("overlap", "in two splits, got 32 of the 32 examples of val also in train; split the data once"),
    ValIsTest: ("overlap", "got 16 of the 16 examples of test also in val"),
    GroupsOfAnotherModel: (
        "param_groups",
        "must return parameters of the model, got other parameters; use the model that is passed",
    ),
    GroupsAreNone: ("param_groups", "param_groups: SGD: params must be an iterable of tensors"),
    LossPerExample: ("loss", "must return a scalar tensor, got shape (16,); take the mean"),
    LossIsANumber: ("loss", "must return a scalar tensor, got 0."),
    LossIsNaN: ("loss", "must be finite at the start, got nan; look for log(0)"),
    LossIsDetached: ("loss", "must have a gradient, got none; compute it from the model's output without detach"),
    LossOfTheWrongShape: (
        "loss",
        "Expected input batch_size (16) to match target batch_size (7). (broken_tasks.py, line",
    ),
    LossHasNoiseWithoutSeed: ("loss", "must be the same for the same model, batch and seed, got 0."),
    LossDependsOnTheTime: ("loss", "the system clock or a counter kept outside the task"),
    LossCountsItsCalls: ("loss", "must be the same for the same model, batch and seed, got "),
    EvaluateReturnsTensors: ("evaluate", "got {'accuracy': tensor(0.2500, dtype=torch.float64)}; call .item()"),
    EvaluateReturnsNothing: ("evaluate", "must return a dict of numbers, got NoneType"),
    EvaluateHasOtherKeys: (
        "evaluate",
        "must return 'accuracy', the metric by which configurations are selected, got acc; add it",
    ),
    LossesAreOneNumber: ("losses", "must return a tensor (n,) with one value per item, got shape (); use reduction"),
    LossesAreSums: ("losses", "the mean of losses must be the loss that loss or evaluate returns, got 1."),
    LossesOfAnUnknownMetric: ("losses", "must be the acc that loss or evaluate returns, got 0."),
    SplitIsTheTasksOwn: ("resplit", "must select examples with self.split_indices(count), got no call of this method;"),
    SplitIsKeptOutside: ("resplit", "depend on self.split_seed alone, got the same test set for another seed; call"),
    DropoutInEvaluation: ("deterministic", "must give the same numbers when it is repeated, got ("),
    ValIsDrawnAnew: ("deterministic", "and draw no random numbers in val"),
    InputsAreIgnored: ("overfit", "must overfit one batch in 200 steps of Adam, got a loss of 0."),
    NoBetterThanTrivial: ("overfit", "no better than ignoring the input (1e-09); make sure that the model receives"),
}
