"""TensorBoard: bands over repeated runs, the order of metrics, and the names of runs."""
