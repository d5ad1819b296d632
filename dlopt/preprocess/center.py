"""Centring."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Center:
    """x <- x - mu for each feature, mu the mean over the training split alone; scales stay as they are.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.3.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"mu": inputs.double().mean(0).to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return inputs - statistics["mu"]
