"""Measurements of dlopt against plain PyTorch: `python -m benchmarks`. They print ratios, and assert nothing."""
