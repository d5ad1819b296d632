"""Output biases by the class shares."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.parts import InitProbe


@dataclass(frozen=True)
class ClassPrior:
    """softmax(b) = c,  so  b_k = log c_k,  c_k the share of class k in the training split; all other biases are zero.

    The net begins by predicting how frequent classes are, with the entropy of the shares as its loss where outputs are
    otherwise near zero, and need not learn that first. A class without examples counts as half of one.

    The output bias is found by what it does: shifted by v, it moves all outputs of the network by exactly v. Nets
    without such a bias, and numbers as targets, are refused.

    Source: Goodfellow, Bengio and Courville 2016, section 8.4, on biases of output units.
    """

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.zeros(parameter.shape)

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        if start.all_targets.is_floating_point():
            raise ValueError("class_prior is for classes; the targets of this data are numbers: use bias_init=zeros")
        at = find_output_bias(w, start)
        counts = start.all_targets.bincount(minlength=at.size).to(w.dtype).clamp(min=0.5)
        w = w.clone()
        w[at.slice] = (counts / counts.sum()).log()
        return w


def find_output_bias(w: Tensor, start: InitProbe) -> Parameter:
    """The bias by whose shift the outputs are shifted."""
    outputs = start.outputs(w)
    shift = torch.linspace(1.0, 2.0, outputs.shape[1], dtype=w.dtype)
    for p in start.layout:
        if p.kind == "bias" and p.shape == shift.shape:
            moved = w.clone()
            moved[p.slice] += shift
            if torch.allclose(start.outputs(moved), outputs + shift, rtol=1e-5, atol=1e-4):
                return p
    raise ValueError("class_prior needs a bias that is added to the network's outputs, and this one has none")
