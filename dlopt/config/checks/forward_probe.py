"""Send two examples through everything that a training step applies, to check shapes, purity and cost before a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlopt import parts, prng
from dlopt.base.loss import flatten_steps
from dlopt.base.transforms import PixelScale, augment
from dlopt.config.problems import Problems, format_error
from dlopt.errors import OptionError
from dlopt.objective.auxiliary import get_output, has_heads, list_outputs
from dlopt.objective.micro_batches import count_micro_batches
from dlopt.ranges import Range
from dlopt.training.batches import to_probabilities
from dlopt.training.experiment import Settings

AVAILABLE_THREADS = torch.get_num_threads()
"""Threads that torch uses by default."""
WORK_PER_THREAD = 4e7
"""Multiply-adds of a step per thread: below, synchronization costs more than a further thread gains.

On two cores, the second thread makes a step of 5e6 faster by 10%, and one of 8e7 or more by 60%. On machines with many
cores, small work becomes several times slower with all of them.
"""


def probe(
    model: nn.Module,
    train: parts.Split,
    loss: parts.Loss,
    changes: Mapping[str, parts.Augmentation | parts.Regularization],
    outputs: int,
    dtype: torch.dtype,
    problems: Problems,
    scale: PixelScale | None = None,
) -> list[str] | None:
    """Send two examples through the batch transforms in order, then through network and loss.

    Return the names of the loss's metrics; None with a problem added.
    """
    x, y = _take_two(train, dtype)
    scale = None if scale is None else PixelScale(*(ends.to(dtype) for ends in scale))
    mixing = [at for at, part in changes.items() if part.mixes]
    x, _ = _apply_transforms(x, to_probabilities(y, outputs, dtype) if mixing else y, changes, problems, scale)
    predictions = _forward(
        model.to(dtype), x, (len(x), *y.shape[1 : y.ndim - y.is_floating_point()], outputs), problems
    )
    if predictions is None:
        return None
    try:
        loss.check(predictions)
    except ValueError as error:
        problems.add(f"loss.{error.key}" if isinstance(error, OptionError) else "loss", str(error))
        return None
    try:
        metrics = _measure(loss, predictions, y)
    except Exception as error:
        shapes = f"outputs {tuple(predictions.shape)} and targets {tuple(y.shape)}"
        problems.add("loss", f"fails on {shapes}: {format_error(error)}")
        return None
    value = metrics["loss"]
    if not isinstance(value, Tensor) or value.shape != ():
        shape = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        problems.add("loss", f"must make a tensor of shape (), the mean over a batch; it makes one {shape}")
    elif mixing:
        _check_probabilities(loss, predictions, y, mixing[0], problems)
    if not any(p.requires_grad for p in model.parameters()):
        problems.add("arch", "has no weights to train")
    _check_training(model, x, predictions, problems)
    return [name for name in metrics if name != "loss"]


def _measure(loss: parts.Loss, predictions: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the loss and its metrics."""
    with torch.no_grad():
        return {"loss": loss.mean(predictions, y)} | loss.measure(*flatten_steps(predictions, y))


def _check_probabilities(loss: parts.Loss, predictions: Tensor, y: Tensor, mixing: str, problems: Problems) -> None:
    """Check that a loss gives the same for one-hot probabilities as for classes."""
    probabilities = to_probabilities(y, predictions.shape[-1], predictions.dtype)
    try:
        actual, expected = (_measure(loss, predictions, targets) for targets in (probabilities, y))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    except Exception as error:
        wrong = "not the same of them as of classes" if isinstance(error, AssertionError) else format_error(error)
        effect = f"{mixing} mixes targets into probabilities (batch, outputs)"
        refusal = f"which {type(loss).__name__} does not take ({wrong})"
        problems.add("loss", f"{effect}, {refusal}; use loss=cross_entropy, or leave {mixing} out")


def _apply_transforms(
    x: Tensor,
    y: Tensor,
    changes: Mapping[str, parts.Augmentation | parts.Regularization],
    problems: Problems,
    scale: PixelScale | None,
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets after the transforms; one that fails is skipped, with a problem added."""
    for at, part in changes.items():
        if not problems.has_no_problem(at):
            continue
        before, copies, key = torch.get_rng_state(), (x.clone(), y.clone()), prng.key(0, at)
        try:
            if isinstance(part, parts.Regularization):
                batch: Any = part.inputs(copies[0], key), part.targets(copies[1])
            else:
                batch = augment(part, *copies, key, scale)
        except OptionError as error:
            problems.add(f"{at}.{error.key}" if error.key else at, str(error))
            continue
        except Exception as error:
            problems.add(at, f"fails on inputs {tuple(x.shape)} and targets {tuple(y.shape)}: {format_error(error)}")
            continue
        finally:
            uses_global_generator = not torch.equal(before, torch.get_rng_state())
            torch.set_rng_state(before)
        expected, actual = _describe_tensors((x, y)), _describe_tensors(batch)
        if actual != expected:
            problems.add(at, f"must make inputs and targets like the given ones, {expected}; it makes {actual}")
            continue
        if uses_global_generator:
            wrong = "draws from torch's global generator, so runs are not reproducible"
            problems.add(at, f"{wrong}; draw from the key, with dlopt.prng.uniform or another function of dlopt.prng")
        if not all(_is_same(old, new) for old, new in zip((x, y), copies, strict=True)):
            problems.add(at, "changes the batch that it is given, which may be handed out again; make a new tensor")
        x, y = batch
    return x, y


def _is_same(old: Tensor, new: Tensor) -> bool:
    """Return whether tensors hold the same numbers; NaN, which marks padding, is the same as NaN."""
    return torch.allclose(old, new, rtol=0, atol=0, equal_nan=True)


def _describe_tensors(value: Any) -> str:
    """Return shapes and types in words."""
    if isinstance(value, tuple):
        return " and ".join(map(_describe_tensors, value))
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


def _take_two(train: parts.Split, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return two examples, as training will see them."""
    rows = torch.arange(min(2, len(train))) if train.rows is None else train.rows[:2]
    x, y = train.inputs[rows], train.targets[rows]
    return (x.to(dtype) if x.is_floating_point() else x), (y.to(dtype) if y.is_floating_point() else y)


def _infer(model: nn.Module, x: Tensor, hook: Callable[[str, nn.Module, Any, Any], None] | None = None) -> Any:
    """Return the outputs in inference mode. The hook gets the name of each module, itself, its arguments and output."""
    modules = model.named_modules()
    handles = [module.register_forward_hook(partial(hook, name)) for name, module in modules] if hook else []
    model.eval()
    try:
        with torch.no_grad():
            return get_output(model(x))
    finally:
        model.train()
        for handle in handles:
            handle.remove()


def _forward(model: nn.Module, x: Tensor, expected: tuple[int, ...], problems: Problems) -> Tensor | None:
    """Return the outputs of the network, of the expected shape; None with a problem added."""
    try:
        predictions = _infer(model, x)
    except Exception as error:
        problems.add("arch", f"fails on a batch of shape {tuple(x.shape)} and type {x.dtype}: {format_error(error)}")
        return None
    if not isinstance(predictions, Tensor):
        problems.add("arch", f"must make one tensor of outputs; it makes a {type(predictions).__name__}")
        return None
    if tuple(predictions.shape) != expected:
        shape = tuple(predictions.shape)
        problems.add("arch", f"makes outputs of shape {shape} from {len(x)} examples, must be {expected}")
        return None
    return predictions


def _check_training(model: nn.Module, x: Tensor, predictions: Tensor, problems: Problems) -> None:
    """Check that a forward pass in training mode draws no global random numbers and changes no buffer.

    Check also what it returns: outputs like the predictions, and auxiliary outputs if their losses have a weight.
    """
    before = torch.get_rng_state()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    try:
        with torch.no_grad():
            result = model(x)
    except Exception:
        return  # for example, a batch of two is too small: training will report it
    finally:
        uses_global_generator = not torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
        for module in model.modules():
            if isinstance(module, parts.BatchStatisticsModule):
                module.batch_stats = {}
    _check_heads(model, result, predictions, problems)
    if uses_global_generator:
        wrong = "draws from torch's global generator in training, so runs are not reproducible"
        problems.add(
            "arch", f"{wrong}; use nn.Dropout, or the dropout(site) that dlopt passes, and no other randomness"
        )
    changed = [name for name, b in model.named_buffers() if not torch.equal(b, buffers[name])]
    if changed:
        wrong = f"changes its buffer {changed[0]} in training"
        problems.add("arch", f"{wrong}; derive such a module from dlopt.parts.BatchStatisticsModule")


def _check_heads(model: nn.Module, result: Any, predictions: Tensor, problems: Problems) -> None:
    """Check the outputs in training, and that auxiliary ones have a weight and a weight has auxiliary outputs."""
    weight, name = getattr(model, "auxiliary_weight", None), type(model).__name__
    if has_heads(result) and weight is None:
        remedy = (
            "give its __init__ a parameter auxiliary_weight, kept as an attribute, and type arch.auxiliary_weight=0.3"
        )
        problems.add("arch", f"{name} returns auxiliary outputs in training, whose losses have no weight; {remedy}")
    elif weight is not None and not has_heads(result):
        problems.add("arch.auxiliary_weight", f"{name} has no auxiliary outputs in training; leave it null, or out")
    elif weight is not None and not (isinstance(weight, (int, float)) and weight in Range(ge=0)):
        problems.add("arch.auxiliary_weight", f"must be a number >= 0, got {weight!r}")
    elif has_heads(result):
        shapes = {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in list_outputs(result)}
        if shapes != {shape := tuple(predictions.shape)}:
            wrong = next(iter(shapes - {shape}))
            problems.add("arch", f"outputs and auxiliary outputs must be tensors of shape {shape}, one has {wrong}")


def check_smallest_batch(
    model: nn.Module, train: parts.Split, settings: Settings, drop_last: bool, problems: Problems
) -> None:
    """Check that batch normalization gets more than one value per feature in the smallest forward pass."""
    count = len(train)
    size = min(settings.resolve_batch_size(count), count)
    rest = 0 if drop_last else count % size
    smallest = rest or size
    split = next((n for n in (smallest, size) if n // count_micro_batches(n, settings.micro_batch_size) == 1), None)
    if split is None:
        return
    single: list[str] = []

    def find_single(name: str, module: nn.Module, inputs: Any, _: Any) -> None:
        uses_batch = isinstance(module, parts.BatchStatisticsModule) and module.normalizes
        is_normalized = uses_batch and not module.frozen
        if is_normalized and inputs[0].numel() == inputs[0].shape[1:2].numel():
            single.append(name)

    _infer(model, _take_two(train, settings.dtype)[0][:1], find_single)
    if single and smallest > 1:
        cause = (
            f"makes a part of one example of {split}, in which {single[0]} has one number of each feature to normalize"
        )
        problems.add("micro_batch_size", f"{cause}; use more, or normalization=layer")
    elif single:
        batch = "the last of an epoch" if rest else "a mini-batch"
        remedy = "data.drop_last=true" if rest else "normalization=layer"
        cause = f"makes {batch} of one example, in which {single[0]} has one number of each feature to normalize"
        problems.add("batch_size", f"{cause}; use another, or {remedy}")


def check_causality(model: nn.Module, train: parts.Split, dataset: parts.Dataset, problems: Problems) -> None:
    """Check that no output depends on later tokens if they are the targets; those of the second half are changed."""
    if not dataset.predicts_next or dataset.tokens is None:
        return
    x = _take_two(train, torch.float32)[0]
    half = x.shape[1] // 2
    changed = x.clone()
    changed[:, half:] = torch.where(x[:, half:] == 0, 0, 1 + x[:, half:] % (dataset.tokens - 1))  # 0 is padding
    before, after = (_infer(model, inputs)[:, :half] for inputs in (x, changed))
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-6, equal_nan=True):
        wrong = f"{type(model).__name__} sees later steps, and its targets are the tokens of the next step"
        problems.add("arch", f"{wrong}: use arch.bidirectional=false, or arch.causal=true for a transformer")


def check_mean(model: nn.Module, train: parts.Split, loss: parts.Loss, settings: Settings, problems: Problems) -> None:
    """Check that the loss of two examples is the mean of their losses, if it will be computed in micro-batches."""
    if settings.micro_batch_size is None or len(train) < 2:
        return
    x, y = _take_two(train, settings.dtype)
    outputs = _infer(model, x)
    try:
        whole, first, second = (loss.mean(outputs[i], y[i]) for i in (slice(0, 2), slice(0, 1), slice(1, 2)))
    except Exception as error:
        problems.add("loss", f"fails on a part of a batch, which micro_batch_size needs: {format_error(error)}")
        return
    if not torch.allclose(whole, (first + second) / 2, rtol=1e-3, atol=1e-5, equal_nan=True):
        needs = "must be the mean over the examples of a batch with micro_batch_size"
        problems.add("loss", f"{needs}; for two examples it is {whole:.4g}, and {first:.4g} and {second:.4g} for each")


def choose_threads(settings: Settings, model: nn.Module, train: parts.Split) -> int:
    """Choose the number of threads by the multiply-adds of a step, counted on two examples."""
    if settings.threads != "auto":
        return settings.threads
    x, _ = _take_two(train, settings.dtype)
    work = 0

    def count(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal work
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and isinstance(output, Tensor):
            work += output.numel() * weight[0].numel()

    _infer(model, x, count)
    examples = settings.micro_batch_size or settings.resolve_batch_size(len(train))
    step = 3 * examples * work / len(x)  # forward, and twice as much backward
    return max(1, min(AVAILABLE_THREADS, round(step / WORK_PER_THREAD)))
