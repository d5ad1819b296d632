"""dlopt: a laboratory for the optimization of deep networks, from the command line and from Python.

run = dlopt.train(["data=digits", "optimizer=adam"])   # train; the overrides are those of `dlopt train`
run.curves(), run.plot(), run.summary                  # a polars frame, a matplotlib figure, the final metrics
dlopt.runs(where="optimizer=adam")                     # a polars frame with a row for each run
dlopt.load("last").probabilities(inputs)               # predict with the best weights of a run
dlopt.predict("new.csv", "last")                       # a polars frame with a prediction for each row of a file

Nothing is imported before it is used: `import dlopt` takes a millisecond.
"""

TYPE_CHECKING = False  # importing typing would take a third of the time of `dlopt --help`
if TYPE_CHECKING:
    from dlopt.api.frames import runs
    from dlopt.api.load import load
    from dlopt.api.predict import predict
    from dlopt.api.run import Run, open_run
    from dlopt.api.sweep import Sweep, open_sweep
    from dlopt.api.train import train
    from dlopt.config.problems import ConfigError
    from dlopt.runner.open_run import RunError
    from dlopt.training.inference import Predictor

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Predictor",
    "Run",
    "RunError",
    "Sweep",
    "__version__",
    "load",
    "open_run",
    "open_sweep",
    "predict",
    "runs",
    "train",
]

_MODULES = {
    "ConfigError": "dlopt.config.problems",
    "Predictor": "dlopt.training.inference",
    "Run": "dlopt.api.run",
    "RunError": "dlopt.runner.open_run",
    "Sweep": "dlopt.api.sweep",
    "load": "dlopt.api.load",
    "open_run": "dlopt.api.run",
    "open_sweep": "dlopt.api.sweep",
    "predict": "dlopt.api.predict",
    "runs": "dlopt.api.frames",
    "train": "dlopt.api.train",
}
"""The module of each public name, which is imported when the name is used."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'dlopt' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
