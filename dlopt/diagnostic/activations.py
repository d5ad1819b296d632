"""How large hidden activations are, how many saturate, and how many units are dead."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from dlopt.parts import Diagnostic, StepRecord
from dlopt.ranges import Range


@dataclass(frozen=True)
class Activations(Diagnostic):
    """What each hidden layer puts out on the step's own mini-batch, in training, at the iterate before the step.

        activation/mean/<layer>        mean over examples, units and positions
        activation/std/<layer>         standard deviation over the same
        activation/saturated/<layer>   share of outputs within margin (high - low) of low or of high, the two limits of
                                       the activation: 0 and 1 for a sigmoid, -1 and 1 for tanh; others have no such tag
        activation/dead/<layer>        share of units that are zero on every example and position of the batch

    Outputs are (examples, units, positions ...), as of a linear layer or a convolution; <layer> is the name of the
    activation in the network, and one that is used several times is seen at its last use. A network without
    activations has no tags.
    Dead is zero on all of the data: the share that is zero on a mini-batch is a bound from above, the tighter the
    larger the batch.

    Slip: the NYU lecture calls a unit dead whose input is negative for one example.

    margin   of saturation, as a share of the range between the limits

    Cost: one forward pass at each measurement.

    Source: Glorot and Bengio 2010, section 3, for means, deviations and saturation.
    """

    margin: Annotated[float, Range(ge=0, lt=0.5)]

    def measure(self, moment: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        found = {}
        for layer, outputs in moment.objective.activations(moment.before).items():
            x = _by_units(outputs, moment.before.ndim - 1)
            variance, mean = torch.var_mean(x, (-3, -2, -1), correction=0)
            found[f"activation/mean/{layer}"] = mean
            found[f"activation/std/{layer}"] = variance.sqrt()
            if layer in moment.objective.bounds:
                low, high = moment.objective.bounds[layer]
                edge = self.margin * (high - low)
                near = (x <= low + edge) | (x >= high - edge)
                found[f"activation/saturated/{layer}"] = near.to(x.dtype).mean((-3, -2, -1))
            found[f"activation/dead/{layer}"] = (x == 0).all(-1).all(-2).to(x.dtype).mean(-1)
        return found, None


def _by_units(x: Tensor, lead: int) -> Tensor:
    """Outputs as (..., examples, units, positions), for that many leading dimensions."""
    return x.reshape(*x.shape[: lead + 1], x.shape[lead + 1] if x.ndim > lead + 1 else 1, -1)
