"""Centring."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Center:
    """x <- x - mu for each feature, with the mean mu over the training split; scales do not change.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.3.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"mu": inputs.double().mean(0).to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return inputs - statistics["mu"]
