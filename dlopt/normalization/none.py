"""No normalization."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NoNormalization:
    """Layers are not normalized."""

    def __call__(self, features: int, dims: int) -> None:
        return None
