"""The classes that components derive from: the import for code of your own."""

from dlopt.base.activation import Activation
from dlopt.base.augmentation import Augmentation
from dlopt.base.averaging import Averaging
from dlopt.base.data import Data, Dataset, Kind, Split
from dlopt.base.diagnostic import Diagnostic, Moment, Reading
from dlopt.base.init import Backward, Init, LookingInit, PreparingInit, Start
from dlopt.base.loss import Loss
from dlopt.base.normalization import Normalization, Running
from dlopt.base.optimizer import Optimizer, Oracle, Step
from dlopt.base.preprocess import Preprocess
from dlopt.base.regularization import Regularization, Site
from dlopt.base.schedule import Schedule, Time, Unit, span
from dlopt.base.wrapper import Wrapper, overrides

__all__ = [
    "Activation",
    "Augmentation",
    "Averaging",
    "Backward",
    "Data",
    "Dataset",
    "Diagnostic",
    "Init",
    "Kind",
    "LookingInit",
    "Loss",
    "Moment",
    "Normalization",
    "Optimizer",
    "Oracle",
    "PreparingInit",
    "Preprocess",
    "Reading",
    "Regularization",
    "Running",
    "Schedule",
    "Site",
    "Split",
    "Start",
    "Step",
    "Time",
    "Unit",
    "Wrapper",
    "overrides",
    "span",
]
