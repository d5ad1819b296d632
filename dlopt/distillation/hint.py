"""Hints: a layer of a teacher as the target of a layer of the student."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from dlopt.parts import Distillation, TargetKind
from dlopt.ranges import Probability


@dataclass(frozen=True)
class Hint(Distillation):
    """Trains a layer of the student, the guided layer, to predict the outputs of a layer of the teacher, the hint.

        f = (1 - weight) loss + weight mean of (r(v) - u)^2

    v and u are the outputs of guided layer and hint layer, and r is a regressor to the shape of u. The mean is over
    examples and entries. The regressor has its own parameters in the weight vector, hint_regressor.map, drawn by init
    and bias_init. It is not a part of the student's network: best and averaged weights are stored without it.

    FitNets are trained in two stages. First weight=1: only the layers up to the guided one, and the regressor, have a
    gradient. Then a second run starts from this one, with init=pretrained and distillation=soft_targets.

    teacher     a run: its directory, or a unique part of its name
    trust       execute code that the teacher's run names, such as custom classes
    weight      0: only the loss, without a regressor; 1: only the hint
    layer       the guided layer of the student, by the name of a module or by its label in curves; null: the activation
                in the middle, or the layer in the middle if there are no activations
    hint_layer  the hint layer of the teacher, in the same way
    regressor   linear: of all entries; 1x1 or 3x3: a convolution (in one or two dimensions) of feature maps with the
                same positions; auto: 1x1 if it is possible, else linear

    Source: Romero et al. 2015, FitNets: hints for thin deep nets, section 2.2. Their equation (3) has half the sum over
    the entries, and their regressor is a convolution without padding.
    """

    compares_layers: ClassVar[bool] = True

    teacher: str | None
    trust: bool
    weight: Probability
    layer: str | None
    hint_layer: str | None
    regressor: Literal["auto", "linear", "1x1", "3x3"]

    def losses(self, student: torch.Tensor, teacher: torch.Tensor, kind: TargetKind) -> torch.Tensor:
        return (student - teacher).flatten(1).square().mean(-1)
