"""Histograms of weights, gradients and activations."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from dlopt.base.diagnostic import Histogram
from dlopt.parts import Diagnostic, StepRecord
from dlopt.ranges import Count


@dataclass(frozen=True)
class Histograms(Diagnostic):
    """How values are distributed, in TensorBoard's dashboards HISTOGRAMS and DISTRIBUTIONS.

        histogram/weight/<parameter>       after the step
        histogram/gradient/<parameter>     of the loss and penalties that the step went by
        histogram/activation/<layer>       on the step's own mini-batch, in training, at the iterate before the step

    Buckets divide the range of the values into equal parts, anew at each measurement. Values that are not finite are
    left out. Histograms stand in the event file alone, not in the rows.

    bins   buckets of each histogram
    of     what is shown: weight, gradient, activation

    Cost: ten passes or so over what is shown, and for activations one forward pass.
    """

    bins: Count
    of: list[Literal["weight", "gradient", "activation"]]

    def measure(self, moment: StepRecord, memory: Any) -> tuple[dict[str, Histogram], Any]:
        shown: dict[str, Tensor] = {}
        for kind, w in (("weight", moment.after), ("gradient", moment.gradient)):
            if kind in self.of:
                shown |= {f"histogram/{kind}/{p.name}": w[..., p.slice] for p in moment.layout}
        if "activation" in self.of:
            outputs = moment.objective.activations(moment.before)
            lead = moment.before.ndim - 1
            shown |= {f"histogram/activation/{layer}": x.flatten(lead) for layer, x in outputs.items()}
        return {tag: Histogram.of(x, self.bins) for tag, x in shown.items()}, None
