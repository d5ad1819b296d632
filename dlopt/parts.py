"""The classes that components derive from: import them from here in code of your own."""

from dlopt.base.activation import Activation
from dlopt.base.augmentation import Augmentation
from dlopt.base.averaging import Averaging
from dlopt.base.data import Data, Dataset, Split, TargetKind
from dlopt.base.diagnostic import Diagnostic, Reading, StepRecord
from dlopt.base.init import DataDependentInit, Init, InitProbe, InPlaceInit, LayerGradients
from dlopt.base.loss import Loss
from dlopt.base.normalization import BatchStatisticsModule, Normalization
from dlopt.base.optimizer import ObjectiveOracle, Optimizer, Step
from dlopt.base.preprocess import Preprocess
from dlopt.base.regularization import Regularization, StochasticSite
from dlopt.base.schedule import Schedule, TrainingTime, Unit, span
from dlopt.base.wrapper import Wrapper, overrides

__all__ = [
    "Activation",
    "Augmentation",
    "Averaging",
    "BatchStatisticsModule",
    "Data",
    "DataDependentInit",
    "Dataset",
    "Diagnostic",
    "InPlaceInit",
    "Init",
    "InitProbe",
    "LayerGradients",
    "Loss",
    "Normalization",
    "ObjectiveOracle",
    "Optimizer",
    "Preprocess",
    "Reading",
    "Regularization",
    "Schedule",
    "Split",
    "Step",
    "StepRecord",
    "StochasticSite",
    "TargetKind",
    "TrainingTime",
    "Unit",
    "Wrapper",
    "overrides",
    "span",
]
