"""The cases: a data set, a network and a number of steps, said once for every side."""

from dataclasses import dataclass

BATCH = 100
LR = 0.001


@dataclass(frozen=True)
class Case:
    """One training problem.

    data      mnist1d, fashion_mnist, or synthetic
    widths    units of each hidden layer of an MLP; None is the convolutional net of the MNIST-1D paper
    steps     steps of a run
    threads   that torch may use, on both sides
    target    the smallest ratio of steps per second, dlopt over the hand-written loop, that is good enough
    """

    name: str
    data: str
    widths: tuple[int, ...] | None
    steps: int
    target: float
    threads: int = 1

    @property
    def overrides(self) -> list[str]:
        """The case as one types it to dlopt."""
        own = ["data=custom", "data._target_=benchmarks.data.Synthetic"]
        data = own if self.data == "synthetic" else [f"data={self.data}"]
        arch = ["arch=cnn"] if self.widths is None else ["arch=mlp", f"arch.widths=[{','.join(map(str, self.widths))}]"]
        fixed = [f"batch_size={BATCH}", f"optimizer.lr={LR}", "validation.fraction=0", f"threads={self.threads}"]
        return [*data, *arch, f"steps={self.steps}", "device=cpu", *fixed]


CASES = (
    Case("MLP 40-100-100-10", "mnist1d", (100, 100), steps=6000, target=1.0),
    Case("CNN of MNIST-1D", "mnist1d", None, steps=3000, target=0.97),
    Case("MLP 784-1024-1024-10", "synthetic", (1024, 1024), steps=600, target=0.95),
    Case("CNN on Fashion-MNIST", "fashion_mnist", None, steps=1800, target=0.97, threads=2),  # three epochs
)
