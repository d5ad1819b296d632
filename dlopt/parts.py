"""The base classes of components: custom components import them from here."""

from dlopt.base.data import Data, Dataset, Split, TargetKind
from dlopt.base.diagnostic import Diagnostic, Reading, StepRecord
from dlopt.base.history import History
from dlopt.base.init import DataDependentInit, Init, InitProbe, InPlaceInit, LayerGradients
from dlopt.base.linesearch import LinePoint, LineSearch, LineStep, StepSize, Trials
from dlopt.base.loss import Distillation, Loss
from dlopt.base.network import Activation, BatchStatisticsModule, Normalization, NormalizationOfWeights
from dlopt.base.optimizer import Averaging, ObjectiveOracle, Optimizer, Step
from dlopt.base.regularization import Regularization, StochasticSite
from dlopt.base.schedule import Schedule, TrainingTime, Unit, span
from dlopt.base.transforms import Augmentation, ChunkedPreprocess, Preprocess
from dlopt.base.wrapper import Wrapper, overrides
