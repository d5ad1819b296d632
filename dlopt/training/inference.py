"""Inference with a trained network: outputs, probabilities and metrics, preprocessed as in training.

predictor, notices = load_predictor(find_run("last"))      # dlopt.config.reopen.load_predictor
predictor.predict(inputs)                                  # outputs (N, outputs) of raw inputs (N, *shape)
predictor.predict_classes(inputs)                          # ["cat", "dog", ...]
predictor.evaluate("test")                                 # {"loss": 0.31, "accuracy": 0.94}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from dlopt import prng
from dlopt.base.data import SourceRows, Split, TargetKind
from dlopt.base.loss import Loss
from dlopt.base.mapped_inputs import MappedInputs, map_inputs
from dlopt.base.regularization import Regularization
from dlopt.base.transforms import Preprocess
from dlopt.errors import join_truncated
from dlopt.objective.problem import Problem
from dlopt.training.batches import DataPlacement, Examples
from dlopt.training.evaluation import CHUNK, compute_metrics, predict_split
from dlopt.training.loop import set_torch_switches


class Predictor:
    """A trained network with the preprocessing, encodings and class names of its run.

    Nothing in it is random: dropout is off, and normalizations use their running statistics. Results are tensors on
    `device` without gradients.

    Attributes:
        model          the network at the loaded weights, on `device`
        w              its trainable weights as one vector, (P,), and the memory of the model's parameters
        problem        model, loss and regularization as training evaluates them; takes any other weight vector
        loss           the run's loss, which also gives the metrics
        preprocessing  the fitted steps in order: (part, statistics of the training split)
        splits         raw examples by name: train, val, test and all, if the run has them. Each is a tuple of splits,
                       which are evaluated as one
        kind           classes or numbers: what is predicted
        names          names of the classes or of the predicted numbers; may be empty
        encoding       encoding of the data file, in plain values; `scale` and `middle` of standardized targets
        is_labeled     whether the examples have targets; else they are zeros
        source         the rows of the table that other data come from, if they do
        checkpoint     kind of the checkpoint with the weights: best, last, average or kept
        step           the number of training steps at that checkpoint
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        regularization: Sequence[Regularization] = (),
        preprocessing: Sequence[tuple[Preprocess, Mapping[str, Tensor]]] = (),
        splits: Mapping[str, tuple[Split, ...]] | None = None,
        kind: TargetKind | None = None,
        names: Sequence[str] = (),
        encoding: Mapping[str, Any] | None = None,
        is_labeled: bool = True,
        source: SourceRows | None = None,
        checkpoint: str = "",
        step: int = 0,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
        micro_batch_size: int | None = None,
        threads: int | None = None,
        deterministic: bool = False,
    ) -> None:
        """Move the model to device and dtype; it must not be used elsewhere afterwards.

        kind is what the loss is for; None: its only kind, or classes for a loss that takes both.
        autocast is the type of torch.autocast, or None for none; threads are CPU threads (None: torch's own number).
        micro_batch_size is the run's, which limits the examples of one pass over a split.
        """
        self.device = torch.device(device)
        self.dtype = dtype
        self.model = model.to(self.device, dtype)
        self.loss = loss
        self.problem = Problem(self.model, loss, regularization, precision=autocast, micro_batch_size=micro_batch_size)
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        self.w = self.problem.bind(self.problem.layout.flatten(parameters))
        self.preprocessing = tuple(preprocessing)
        self.splits = dict(splits or {})
        self.kind: TargetKind = kind or ("numbers" if loss.targets == "numbers" else "classes")
        self.names = tuple(names)
        self.encoding = dict(encoding or {})
        self.is_labeled = is_labeled
        self.source = source
        self.checkpoint = checkpoint
        self.step = step
        self._threads = threads or torch.get_num_threads()
        self._deterministic = deterministic

    def __repr__(self) -> str:
        named = f", {self.kind} {join_truncated(self.names)}" if self.names else ""
        weights = f", {self.checkpoint} checkpoint (step {self.step})" if self.checkpoint else ""
        return f"Predictor({type(self.model).__name__}{named}{weights}, on {self.device})"

    def set_torch_switches(self) -> AbstractContextManager[None]:
        """Return a context in which torch has the run's number of threads and its deterministic mode."""
        return set_torch_switches(self._threads, deterministic=self._deterministic)

    # ------------------------------------------------------------------------------------------- new inputs

    def preprocess(self, inputs: Tensor) -> Tensor:
        """Transform raw inputs, (N, *shape), with the statistics of the training split; same shape."""
        for part, statistics in self.preprocessing:
            inputs = part.apply(inputs, statistics)
        return inputs

    def predict(self, inputs: Tensor, batch_size: int = CHUNK) -> Tensor:
        """Return the outputs, (N, outputs), of raw inputs, (N, *shape), computed batch_size examples at a time.

        Raises ValueError if there are no inputs. Errors of the network, such as one about a wrong shape, are passed on.
        """
        if not len(inputs):
            raise ValueError(f"inputs: must hold at least one example, got shape {tuple(inputs.shape)}")
        with self.set_torch_switches():
            x = self.preprocess(inputs)
            x = x.to(self.dtype) if x.is_floating_point() else x
            chunks = [self.problem.predict(self.w, chunk.to(self.device)) for chunk in x.split(batch_size)]
        return torch.cat(chunks)

    def probabilities(self, inputs: Tensor, batch_size: int = CHUNK) -> Tensor:
        """Return class probabilities, (N, classes), of raw inputs, (N, *shape): the softmax of the outputs.

        For loss=bce they are sigmoids, which need not sum to 1. For loss=nll, whose outputs are log-probabilities, the
        softmax gives the probabilities themselves. For
        loss=hinge the outputs are margins and the probabilities are not calibrated.
        Raises ValueError if the network predicts numbers.
        """
        if self.loss.targets == "numbers":
            raise ValueError(f"loss: {type(self.loss).__name__} is for numbers, which have no class probabilities")
        return self.loss.predict(self.predict(inputs, batch_size))

    def predict_classes(self, inputs: Tensor, batch_size: int = CHUNK) -> list[str]:
        """Return the name of the most probable class of each raw input, (N, *shape); without names, its number.

        Raises ValueError if the network predicts numbers.
        """
        if self.kind == "numbers":
            raise ValueError("the run predicts numbers, not classes: use predict_numbers")
        outputs = self.predict(inputs, batch_size)
        names = self.name_outputs(outputs.shape[-1])
        return [names[i] for i in self.interpret(outputs).argmax(-1).tolist()]

    def predict_numbers(self, inputs: Tensor, batch_size: int = CHUNK) -> Tensor:
        """Return the predicted numbers, (N, outputs) float64, of raw inputs, (N, *shape), in the units of the data.

        Raises ValueError if the network predicts classes.
        """
        if self.kind == "classes":
            raise ValueError("the run predicts classes: use predict_classes or probabilities")
        return self.interpret(self.predict(inputs, batch_size))

    def interpret(self, outputs: Tensor) -> Tensor:
        """Return what outputs (..., outputs) predict in float64: probabilities, or numbers in the units of the data."""
        predictions = self.loss.predict(outputs.double())
        return predictions if self.kind == "classes" else self.to_units(predictions)

    def to_units(self, numbers: Tensor) -> Tensor:
        """Return numbers like the targets that the network was trained on, (..., outputs), in the units of the data."""
        return numbers * (self.encoding.get("scale") or 1.0) + (self.encoding.get("middle") or 0.0)

    def name_outputs(self, count: int) -> tuple[str, ...]:
        """Return the names of this many outputs: those of the run, else their places; a single number is the target."""
        is_single = self.kind == "numbers" and count == 1
        return self.names or (("target",) if is_single else tuple(map(str, range(count))))

    # ------------------------------------------------------------------------------------------- the run's splits

    def examples(self, split: str, count: int | None = None) -> Examples:
        """Return a split's examples, preprocessed and on `device`; at most `count` random ones, always the same.

        Raises ValueError if there is no such split.
        """
        pieces = self._preprocess_split(split)
        total = sum(map(len, pieces))
        if count is not None and count < total:
            generator = prng.generator(prng.key(0, "examples"))
            chosen = torch.randperm(total, generator=generator)[:count].sort().values
            pieces = list(select_examples(pieces, chosen))
        return self._place(pieces if len(pieces) == 1 else [_concatenate(pieces)])

    def _preprocess_split(self, split: str) -> list[Split]:
        """Return the pieces of a split, preprocessed. Raises ValueError if there is no such split."""
        if split not in self.splits:
            raise ValueError(f"there is no {split} split; there is {', '.join(self.splits) or 'none'}")
        return [self._preprocess(piece) for piece in self.splits[split]]

    def _preprocess(self, piece: Split) -> Split:
        return Split(map_inputs(self.preprocess, piece.inputs), piece.targets, piece.rows)

    def _place(self, pieces: Sequence[Split]) -> Examples:
        return Examples(pieces, DataPlacement.of(self.device, self.dtype, pieces), lanes=False)

    def predict_split(self, split: str, advance: Callable[[int], None] | None = None) -> tuple[Tensor, Tensor]:
        """Return the outputs, (N, outputs), and the targets, (N,) or (N, outputs), of a split.

        advance, if given, is called with the number of examples of each batch that is done.
        """
        with self.set_torch_switches():
            pieces = self._preprocess_split(split)
            if not any(isinstance(piece.inputs, MappedInputs) for piece in pieces):
                pieces = pieces if len(pieces) == 1 else [_concatenate(pieces)]
            results = [predict_split(self.problem, self.w, self._place([p]), advance=advance) for p in pieces]
            outputs, targets = (torch.cat(column) for column in zip(*results, strict=True))
            return outputs, targets

    def predict_examples(self, examples: Split, batch_size: int | None = None) -> Tensor:
        """Return the outputs, (N, outputs), of raw examples, as `predict_split` computes them.

        batch_size is the number of examples of one forward pass; None: that of `predict_split`.
        """
        with self.set_torch_switches():
            pieces = [self._preprocess(examples)]
            return predict_split(self.problem, self.w, self._place(pieces), batch_size=batch_size)[0]

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the mean loss, without penalties, and the loss's metrics of outputs that were predicted.

        Raises ValueError if the examples have no targets.
        """
        if not self.is_labeled:
            raise ValueError("targets: the data have none, so there are no metrics")
        with self.set_torch_switches():
            metrics = compute_metrics(self.problem, outputs, targets)
        return {name: value.to(self.dtype).item() for name, value in metrics.items()}

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Return loss and metrics on a split: the numbers that training wrote for the same weights."""
        return self.measure(*self.predict_split(split))


def _concatenate(pieces: Sequence[Split]) -> Split:
    return Split(*(torch.cat(column) for column in zip(*(piece.gather() for piece in pieces), strict=True)))


def select_examples(pieces: Sequence[Split], chosen: Tensor) -> Iterator[Split]:
    """Yield the examples of each piece at these places among those of all pieces; nothing else is read."""
    first = 0
    for piece in pieces:
        rows = chosen[(chosen >= first) & (chosen < first + len(piece))] - first
        rows = rows if piece.rows is None else piece.rows[rows]
        yield Split(piece.inputs[rows], piece.targets[rows])
        first += len(piece)
