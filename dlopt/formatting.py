"""How values, metrics and durations are written as text."""

from typing import Any


def format_override(value: Any) -> str:
    """A value as it stands behind `key=` on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "[" + ",".join(map(format_override, value)) + "]" if isinstance(value, list) else str(value)


def metric_label(metric: str) -> str:
    """A metric's name above a picture."""
    return {"r2": "R²", "auc": "AUC", "top5": "top-5 accuracy"}.get(metric, metric)


def format_metric(value: Any) -> str:
    """A metric with four decimals, or three digits where those would say nothing; - where there is none."""
    return "-" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def format_duration(seconds: float | None) -> str:
    """12.3 s, 4:05 or 2:03:04."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
