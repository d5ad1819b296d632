"""How a path can end, as the table of a race names it. Does not import torch."""

STATUSES = {
    "converged": "f - f* <= 1e-6 at the end",
    "not converged": "f - f* > 1e-6, or f* is unknown, after all steps",
    "growing": "after all steps f is above its value at the start",
    "diverged": "far outside of the picture, or f or a weight is NaN or infinite",
    "at rest": "gradient and step are below 1e-10, elsewhere than at a known minimum or saddle point",
    "at a saddle point": "the gradient is small next to a known saddle point",
    "left the saddle": "f is below the saddle point, on a surface without a minimum",
}
"""What each status means."""


def describe_statuses() -> str:
    """Return a line for each status."""
    width = max(map(len, STATUSES))
    return "\n".join(f"  {name:<{width}}  {meaning}" for name, meaning in STATUSES.items())
