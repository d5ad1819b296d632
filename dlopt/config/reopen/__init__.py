"""Open the configuration of an existing run: which classes it may name, what may change, and whether it still fits."""
