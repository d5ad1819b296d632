"""Two examples sent through a network, to know before a run what it makes, whether it fits, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlopt import parts
from dlopt.config.problems import Problems, nearest
from dlopt.experiment import Settings

WORK_PER_THREAD = 4e7
"""Multiply-adds of a step that are worth a further thread: below, waiting for each other costs more than is gained.

On two cores a step of 5e6 gains a tenth from the second thread, one of 8e7 and more gains 1.6 times; on machines with
many cores small work becomes several times slower with all of them.
"""


def probe(model: nn.Module, train: parts.Split, loss: parts.Loss, outputs: int, problems: Problems) -> list[str]:
    """Send two examples through the network and the loss; the names of the loss's metrics."""
    rows = torch.arange(min(2, len(train))) if train.rows is None else train.rows[:2]
    x, y = train.inputs[rows].to(torch.float32), train.targets[rows]
    model.eval()
    try:
        with torch.no_grad():
            made = model.float()(x)
            if tuple(made.shape) != (len(x), outputs):
                problems.add(
                    "arch",
                    f"makes outputs of shape {tuple(made.shape)} from {len(x)} examples, must be {(len(x), outputs)}",
                )
                return []
            y = y.to(made.dtype) if y.is_floating_point() else y
            value = loss(made, y)
            metrics = list(loss.metrics(made, y))
    except Exception as error:
        problems.add(
            "arch", f"fails on a batch of shape {tuple(x.shape)}: {type(error).__name__}: {str(error).splitlines()[0]}"
        )
        return []
    finally:
        model.train()
    if value.shape != ():
        problems.add("loss", f"must be a single number, the mean over a batch; it has shape {tuple(value.shape)}")
    if not any(p.requires_grad for p in model.parameters()):
        problems.add("arch", "has no weights to train")
    return metrics


def check_metrics(
    metrics: Sequence[str],
    validates: bool,
    settings: Settings,
    regularization: Mapping[str, parts.Regularization],
    problems: Problems,
) -> None:
    names = ["loss", *metrics]
    possible = [f"{split}/{name}" for split in ("val", "train") for name in names]
    written = possible if validates else [f"train/{name}" for name in names]
    if metrics and settings.objective not in possible:
        problems.add("objective", f"no run writes '{settings.objective}'{nearest(settings.objective, written)}")
    for name, part in regularization.items():
        monitor = getattr(part, "monitor", None)
        if metrics and monitor is not None and monitor not in written:
            if monitor in possible:
                why = "needs a validation split; set validation.fraction above 0"
            else:
                why = f"no run writes '{monitor}'{nearest(monitor, written)}"
            problems.add(f"regularization.{name}.monitor", why)


def threads(settings: Settings, model: nn.Module, train: parts.Split, available: int) -> int:
    """Threads by the multiply-adds of a step, counted on two examples; never more than there are available."""
    if settings.threads != "auto":
        return settings.threads
    x = train.inputs[:2].to(torch.float32)
    batch = len(train) if settings.batch_size == "full" else settings.batch_size
    done = 0

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal done
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and isinstance(output, Tensor):
            done += output.numel() * weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        model(x)
    model.train()
    for hook in hooks:
        hook.remove()
    step = 3 * batch * done / len(x)  # forward, and twice as much backward
    return max(1, min(available, round(step / WORK_PER_THREAD)))
