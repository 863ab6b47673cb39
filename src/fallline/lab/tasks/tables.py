"""Tables included in scikit-learn: breast cancer (Street et al. 1993) and diabetes (Efron et al. 2004)."""

import functools
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from fallline.lab.tasks.supervised import Batch, Classification, Regression, Supervised


@functools.cache
def load_breast_cancer_pool() -> Batch:
    """Return 30 standardized features of all cell nuclei images (569, 30), and labels (569,): 0 malignant, 1 benign."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return _standardize(torch.tensor(data.data)), torch.tensor(data.target, dtype=torch.int64)


@functools.cache
def load_diabetes_pool() -> Batch:
    """Return 10 standardized features of all patients (442, 10), and the standardized progression (442,)."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    return _standardize(torch.tensor(data.data)), _standardize(torch.tensor(data.target))


def _standardize(values: torch.Tensor) -> torch.Tensor:
    """Return float32 values with mean 0 and variance 1 over the rows of the pool.

    The statistics are those of the whole pool, so that a row is the same in every split: the intervals of a study
    recognize test examples by their content.
    """
    return ((values - values.mean(0)) / values.std(0, correction=0)).float()


class _Table(Supervised):
    """A table whose rows are split with the split seed of the study."""

    steps: ClassVar[int] = 200
    network: ClassVar[str] = "perceptron"
    settings: ClassVar[Mapping[str, Any]] = {"batch_size": 32, "precision": "float32"}
    resplit: ClassVar[bool] = True

    @abstractmethod
    def pool(self) -> Batch:
        """Return the features (rows, features) and the targets (rows,)."""

    def load(self, split: str) -> Batch:
        """Return the features (n, features) and the targets (n,) of a split: a fifth each is "val" and "test"."""
        features, targets = self.pool()
        chosen = self.split_indices(len(targets))[split]
        return features[chosen], targets[chosen]


class BreastCancer(_Table, Classification):
    """Benign or malignant, from the measured shapes of cell nuclei."""

    name: ClassVar[str] = "breast-cancer"
    summary: ClassVar[str] = "569 breast tumours (30 features), MLP 30-32-32-2, cross-entropy, batch 32"
    split_seed: int = 569

    def model(self) -> nn.Module:
        """Return a perceptron with two hidden layers of 32 units."""
        return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def pool(self) -> Batch:
        """Return the features and labels of all tumours."""
        return load_breast_cancer_pool()


class Diabetes(_Table, Regression):
    """Progression of diabetes one year after the measurements, in standard deviations."""

    name: ClassVar[str] = "diabetes"
    summary: ClassVar[str] = "442 diabetes patients (10 features), MLP 10-32-32-1, squared error, batch 32"
    split_seed: int = 442

    def model(self) -> nn.Module:
        """Return a perceptron with two hidden layers of 32 units."""
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def pool(self) -> Batch:
        """Return the features and the progression of all patients."""
        return load_diabetes_pool()
