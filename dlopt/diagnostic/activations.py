"""Size, saturation and dead units of hidden activations."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from dlopt.parts import Diagnostic, StepRecord
from dlopt.ranges import Range


@dataclass(frozen=True)
class Activations(Diagnostic):
    """Size, saturation and dead units of hidden activations, on the mini-batch and at the iterate of the step.

        activation/mean/<layer>        mean over examples, units and positions
        activation/std/<layer>         standard deviation over the same
        activation/saturated/<layer>   fraction of outputs within margin (high - low) of low or high, the limits of the
                                       activation: 0 and 1 for a sigmoid, -1 and 1 for tanh; only for bounded ones
        activation/dead/<layer>        fraction of units that are zero for every example and position of the batch

    Outputs have shape (examples, units, positions ...). <layer> is the name of the activation in the network; in an
    nn.Sequential activations are numbered without what is between them, as layers are by diagnostic=gradients. One that
    is used several times is measured at its last use. A dead unit is zero on all of the data, so the value is an upper
    bound, which is tighter for larger batches.

    margin   fraction of the range between the limits that counts as saturated

    Cost: one forward pass per measurement.

    Measured on one core: 2.3 ms and 7.5 ms, 2.5% and 0.8% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).

    Slip: the NYU lecture calls a unit dead if its input is negative for one example.

    Source: Glorot and Bengio 2010, section 3, for means, deviations and saturation.
    """

    margin: Annotated[float, Range(ge=0, lt=0.5)]

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        tags = {}
        lead = record.before.ndim - 1
        for name, outputs in record.objective.activations(record.before).items():
            layer = record.layout.label_activation(name)
            x = outputs if outputs.ndim > lead + 1 else outputs.unsqueeze(-1)
            x = x.reshape(*x.shape[: lead + 2], -1)  # (..., examples, units, positions)
            variance, mean = torch.var_mean(x, (-3, -2, -1), correction=0)
            tags[f"activation/mean/{layer}"] = mean
            tags[f"activation/std/{layer}"] = variance.sqrt()
            if name in record.objective.bounds:
                low, high = record.objective.bounds[name]
                edge = self.margin * (high - low)
                near = (x <= low + edge) | (x >= high - edge)
                tags[f"activation/saturated/{layer}"] = near.to(x.dtype).mean((-3, -2, -1))
            tags[f"activation/dead/{layer}"] = (x == 0).all(-1).all(-2).to(x.dtype).mean(-1)
        return tags, None
