"""Names of groups, options and keys in earlier versions: an old name is refused, and the new one is suggested."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

RENAMED_GROUPS = {"bias": "bias_init"}

RENAMED_OPTIONS: Mapping[str, Mapping[str, str]] = {"init": {"search": "layer_scale"}}

_SCHEDULE_KEYS = {"min_change": "threshold", "floor": "min_factor"}

RENAMED_KEYS: Mapping[str, Mapping[str, str]] = {
    "averaging": {"start": "start_fraction"},
    "hydra": {
        "trials": "n_trials",
        "least": "min_resource",
        "reduction": "reduction_factor",
        "startup": "n_startup_trials",
        "candidates": "n_ei_candidates",
        "warmup": "n_warmup_steps",
    },
    "init": {"rest": "default"},
    "optimizer": {
        "decay": "weight_decay",
        "steps": "ns_steps",
        "adam_rate": "adam_lr_scale",
        "every": "precondition_frequency",
        "base": "base_optimizer",
    },
    "regularization": {"min_change": "min_delta", "interval": "check_every", "ignore": "warmup_evaluations"},
    "schedule": _SCHEDULE_KEYS,
    "schedules": _SCHEDULE_KEYS,
}
"""Old and new names of keys, by the group below which they stand."""

_ACCUMULATION = "micro_batch_size: batch_size=400 micro_batch_size=100 adds the gradients of 4 passes"

KEYS_OF_OTHER_TOOLS: Mapping[str, str] = {
    "accelerator": "device",
    "accumulate_grad_batches": _ACCUMULATION,
    "grad_clip": "clip.norm",
    "gradient_accumulation_steps": _ACCUMULATION,
    "gradient_clip_val": "clip.norm",
    "learning_rate": "optimizer.lr",
    "max_grad_norm": "clip.norm",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "random_state": "seed",
    "weight_decay": "regularization=weight_decay",
}
"""What keys of Lightning, of transformers and of scikit-learn are called here."""

_ADDED_TO_BOTH: dict[str, Any] = {"group": None, "time": None, "validation_path": None, "test_path": None}

ADDED_KEYS: dict[str, dict[str, Any]] = {
    "dlopt.averaging.ema.ExponentialMovingAverage": {"start": 0, "interval": 1, "unit": "steps"},
    "dlopt.data.table.TableData": {"encoding": "auto", "dates": [], "date_format": "auto", **_ADDED_TO_BOTH},
    "dlopt.data.arrays.ArrayData": {"memory_map": "auto", "lengths": None, **_ADDED_TO_BOTH},
    "dlopt.activation.gelu.GELU": {"approximate": "none"},
    "dlopt.arch.resnet.ResNet": {"zero_gamma": False},
    "dlopt.init.fan_in_uniform.FanInUniform": {"gain": 1.0},
    "dlopt.init.he.He": {"gain": 1.4142135623730951},
    "dlopt.init.he_uniform.HeUniform": {"gain": 1.4142135623730951},
    "dlopt.init.lecun_normal.LecunNormal": {"gain": 1.0},
    "dlopt.init.variance_scaling.VarianceScaling": {"mode": "fan_in", "distribution": "normal"},
    "dlopt.init.pretrained.Pretrained": {"match": None},
    "dlopt.loss.cross_entropy.CrossEntropy": {"class_weights": None},
    "dlopt.loss.hinge.Hinge": {"class_weights": None},
    "dlopt.loss.nll.NegativeLogLikelihood": {"class_weights": None},
}
"""Keys that an option lacks in older runs, by its class, with the value that it had there."""

ADDED_DATA_KEYS: dict[str, object] = {"order": "reshuffle"}
"""Keys that every data option lacks in older runs, with the value that they had there."""

ADDED_SETTINGS: dict[str, Any] = {
    "micro_batch_size": None,
    "tolerance": {"gradient": None, "step": None},
    "clip": {"agc": None, "agc_eps": 1e-3, "agc_output": False},
}
"""Settings that older runs lack, with the value that they had there; of a node of keys, some or all."""


def describe_renamed_key(key: str, current_names: Collection[str]) -> str | None:
    """Return `OLD is now NEW` if a part of an unknown dotted key has a new name that is among the known ones."""
    group, *names = key.split(".")
    if group in RENAMED_GROUPS:
        return f"{group} is now {RENAMED_GROUPS[group]}"
    renamed = RENAMED_KEYS.get(group, {})
    return next((f"{name} is now {renamed[name]}" for name in names if renamed.get(name) in current_names), None)


def describe_renamed_option(group: str, option: str) -> str | None:
    """Return `GROUP=OLD is now GROUP=NEW` if an option has a new name."""
    new = RENAMED_OPTIONS.get(group, {}).get(option)
    return f"{group}={option} is now {group}={new}" if new else None
