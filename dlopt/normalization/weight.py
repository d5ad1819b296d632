"""Weight normalization."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn

from dlopt.base.layout import Layout
from dlopt.normalization._weights import WeightFunction, convert_layers, iterate_layers


@dataclass(frozen=True)
class WeightNormalization:
    """Weight normalization: the weights of each unit are a length times a direction, both learned.

        w = g v / |v|

    v has the shape of the weights of the unit, and g is a number. The gradient by v is orthogonal to v, so the length
    of v only grows, and with it the learning rate of the direction shrinks. It normalizes every linear layer and
    convolution, the last one included, and no activations: training and inference are the same, for any batch.
    Recurrent layers and embeddings stay as they are.

    The init draws v, and g = |v| at the start, so v is the weight that the network begins with. The paper sets g and
    the bias by the data, which is left out; inits that rescale layers by the data, such as lsuv, cannot, and are
    refused. Penalties and weight decay act on v only, which changes the effective learning rate and not the network. A
    unit whose v is zero has no direction, so init=zeros cannot start.

    Source: Salimans and Kingma 2016, equations 2 and 3. The parameters are those of torch.nn.utils.weight_norm.
    """

    def __call__(self, features: int, dims: int) -> None:
        return None

    def replace_weights(self, model: nn.Module) -> nn.Module:
        return convert_layers(model, NormalizedWeight, lambda layer: None)

    def initialize(self, w: Tensor, model: nn.Module, fixed: Collection[str]) -> Tensor:
        views = Layout.of(model).views(w := w.clone())
        for name, _ in iterate_layers(model, NormalizedWeight):
            g, v = (f"{name}.{part}".lstrip(".") for part in ("weight_g", "weight_v"))
            if g in views and v in views and g not in fixed:
                views[g].copy_(views[v].flatten(1).norm(dim=1))
        return w


class NormalizedWeight(WeightFunction):
    """A layer with the parameters weight_g, (units,), and weight_v, of the shape of the weight."""

    weight_g: Tensor
    weight_v: Tensor

    def prepare(self, weight: nn.Parameter) -> None:
        self.weight_g = nn.Parameter(weight.detach().flatten(1).norm(dim=1))
        self.weight_v = weight

    def compute_weight(self) -> Tensor:
        v = self.weight_v
        scale = self.weight_g / v.flatten(1).norm(dim=1)
        return v * scale.view(-1, *[1] * (v.ndim - 1))
