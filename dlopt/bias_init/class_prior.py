"""Output biases from class frequencies."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.base.sequences import list_targets
from dlopt.parts import InitProbe


@dataclass(frozen=True)
class ClassPrior:
    """softmax(b) = c,  so  b_k = log c_k,  c_k the share of class k in the training split; all other biases are zero.

    The network starts by predicting class frequencies, so it need not learn them first. If outputs are otherwise near
    zero, its loss is the entropy of the shares. A class without examples counts as half an example.

    The output bias is identified by its effect: shifted by v, it moves all outputs of the network by exactly v.
    Networks without such a bias, and regression targets, are refused.

    Source: Goodfellow, Bengio and Courville 2016, section 8.4, on biases of output units.
    """

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.zeros(parameter.shape)

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        if start.all_targets.is_floating_point():
            raise ValueError("class_prior is for classes; the targets of this data are numbers: use bias_init=zeros")
        bias = find_output_bias(w, start)
        counts = list_targets(start.all_targets).bincount(minlength=bias.size).to(w.dtype).clamp(min=0.5)
        w = w.clone()
        w[bias.slice] = (counts / counts.sum()).log()
        return w


def find_output_bias(w: Tensor, start: InitProbe) -> Parameter:
    """Return the bias whose shift moves the outputs by the same amount. Raises ValueError if no bias does."""
    outputs = start.outputs(w)
    shift = torch.linspace(1.0, 2.0, outputs.shape[-1], dtype=w.dtype)
    for p in start.layout:
        if p.kind == "bias" and p.shape == shift.shape:
            moved = w.clone()
            moved[p.slice] += shift
            if torch.allclose(start.outputs(moved), outputs + shift, rtol=1e-5, atol=1e-4):
                return p
    raise ValueError("class_prior needs a bias that is added to the network's outputs, and this one has none")
