"""The keys of hydra.sweeper and hydra.launcher in conf/hydra, with their ranges.

Hydra instantiates plugins, which take any key. So a class with the name of each option (Grid, Random, ...) holds its
keys and its text in the catalogue, as the class of a component does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dlopt.metrics.names import Statistic
from dlopt.ranges import Count, Range

N_SEEDS = 2**32
"""Number of valid seeds 0, 1, ..."""
Seed = Annotated[int, Range(ge=0, lt=N_SEEDS)]


@dataclass(frozen=True)
class MedianOptions:
    """Keys of the median rule; see SweeperOptions.

    n_startup_trials   completed trials before the first may be pruned
    n_warmup_steps     evaluations of a trial before it may be pruned, counted through its runs
    """

    n_startup_trials: Annotated[int, Range(ge=0)]
    n_warmup_steps: Annotated[int, Range(ge=0)]


@dataclass(frozen=True)
class HyperbandOptions:
    """Keys of Hyperband; see SweeperOptions.

    min_resource       evaluations up to the first rung
    reduction_factor   ratio r of the evaluations at successive rungs; one of r trials passes a rung
    """

    min_resource: Count
    reduction_factor: Annotated[int, Range(ge=2)]


@dataclass(frozen=True)
class TpeOptions:
    """Keys of the Parzen estimator; see Tpe.

    n_startup_trials   points drawn at random first
    n_ei_candidates    draws from the density of the good points; the most promising one is tried
    multivariate       whether one density covers all axes together; else each axis has its own
    """

    n_startup_trials: Annotated[int, Range(ge=0)]
    n_ei_candidates: Count
    multivariate: bool


@dataclass(frozen=True)
class SweeperOptions:
    """A search has an axis for each key with several values; in a shell, quote words with brackets:

      optimizer=sgd,adam                        options of a group
      optimizer=glob(ada*)                      all options whose names match
      regularization=none,l2,[l2,dropout]       lists of options
      batch_size=32,64                          numbers; choice(32,64) is the same
      epochs=range(10,40,10)                    10, 20, 30: the end is excluded
      optimizer.beta1=interval(0.5,0.99)        every number between, with the ends
      epochs=int(interval(5,50))                every whole number
      optimizer.lr=tag(log,interval(1e-4,1))    each decade has an equal share
      epochs=tag(log,int(interval(1,100)))      whole numbers, by decades

    A key that some options of an axis lack applies to the other options; a run without it has no value on its axis:
    optimizer=sgd,momentum optimizer.momentum=0.5,0.9 is a grid of three runs, one with sgd.

    A grid takes values and ranges. Intervals are for random, tpe and qmc; for these, a range is an axis of ordered
    numbers, too. All other values are choices without an order. Every run is checked before the first one starts, with
    the ends of each interval.

    sampler          how points are chosen; set by the option
    n_trials         total number of points, including earlier calls; resume=SWEEP continues to it; null: all points
                     of a grid
    seed             seed of the random points of the search; the seed of the runs is the key `seed`
    seeds            runs of each point: a number n for the seeds s, ..., s + n - 1, where s is the key `seed`, or a
                     list of seeds; null: one run
    statistic        how the values of the runs of a point become its value: mean or median
    storage          where the study is stored: null for study.log in the sweep's directory, a file that ends in .log,
                     or a database that several machines reach, as postgresql+psycopg://user@host/name
    study            name of the study in the storage; a database needs one; null: dlopt
    retry            whether failed points are tried again when a search resumes
    pruner           ends runs early that do worse than others did at the same point: none, median or hyperband
    params           axes and values as on the command line, for a file of your own; null: none
    max_batch_size   runs passed at once to an external launcher, such as submitit; null: 10 with tpe, else all

    A trial is a point and its runs: one, or one for each of `seeds`; with validation.scheme=kfold one for each of the
    validation.k folds; with both, one for each pair. Its value is the mean or median of the objective, which each run
    has at its best checkpoint:

      mean      v = (v_1 + ... + v_n) / n
      median    v = the middle one in order, or the mean of the middle two

    A diverged run has the worst possible objective. So a trial with a mean diverges if one run does, and a trial with
    a median if half of the runs do. A diverged trial has no value, is never the best, counts among `n_trials`, is a bad
    point to tpe, and is ignored by the median rule. A failed run makes its trial fail; `retry` starts it again. Runs of
    an interrupted or killed trial continue from their last checkpoints, at most twice if their process was lost.

    pruner=median ends a trial after evaluation k > `n_warmup_steps` if the best of its values so far is worse than the
    median of the values v'(k) of the completed trials, at least `n_startup_trials` (Golovin et al. 2017):

      min(v(1), ..., v(k)) > median of v'(k)        max and < for a metric that is to be large

    pruner=hyperband has rungs. A trial passes a rung if it is in the best 1 / `reduction_factor` of the trials that
    reached the rung so far (Li et al. 2018). R is one more than the evaluations of the longest of the trials that were
    completed first; until one is completed nothing is pruned. Each trial has one of the brackets s. The larger s is,
    the later is its first rung:

      rungs at k = min_resource reduction_factor^(s + i),  i = 0, 1, ...
      s = 0, ..., floor(log(R / min_resource) / log(reduction_factor))

    Evaluations, which are eval_every apart, are counted through the runs of a trial, which then run one after another.
    v(k) is the mean or median of the values of its earlier runs and of the current one after k. A pruned trial counts
    among `n_trials`.
    """

    sampler: Literal["grid", "random", "tpe", "qmc", "greedy"]
    n_trials: Count | None
    seed: Seed
    seeds: Count | list[Seed] | None
    statistic: Statistic
    storage: str | None
    study: str | None
    retry: bool
    pruner: Literal["none", "median", "hyperband"]
    median: MedianOptions
    hyperband: HyperbandOptions
    tpe: TpeOptions
    params: dict[str, Any] | None
    max_batch_size: Count | None

    @property
    def is_grid(self) -> bool:
        """Return whether all points are known before the search."""
        return self.sampler in ("grid", "greedy")


class Grid(SweeperOptions):
    """All points, in the order of the axes on the command line; the last axis varies fastest. An axis that applies to
    some options varies with the axis of these options.

    `n_trials` is null or the number of points. More than 10,000 runs start only with --yes; --dry-run estimates their
    time.
    """


class Random(SweeperOptions):
    """x = low + u (high - low),      u ~ U[0, 1) for each axis
    x = low (high / low)^u         on a logarithmic scale

    Each of n choices has the probability 1 / n, and so has each whole number. On a logarithmic scale a whole number m
    has the probability of the interval from m - 1/2 to m + 1/2. Point i depends only on `seed` and i: a longer search
    starts with the points of a shorter one, and several processes draw the points that one would.

    Source: Bergstra and Bengio 2012, Random search for hyper-parameter optimization, JMLR 13.
    """


class Tpe(SweeperOptions):
    """x = argmax l(x) / g(x)  over `tpe.n_ei_candidates` draws from l

    l and g are densities, sums of a kernel at each point: l of the good points, the best min(ceil(n / 10), 25) of the n
    so far, g of the others. Their quotient grows with the expected improvement. The first `tpe.n_startup_trials` are
    drawn at random. Running and diverged points count as bad, so that several workers avoid each other. A proposal
    depends on the results so far, and with several workers on their order.

    Source: Bergstra et al. 2011, Algorithms for hyper-parameter optimization, NIPS, equations 2 and 3.
    """


class Qmc(SweeperOptions):
    """u_i = point i of a Sobol sequence, scrambled by `seed`, in [0, 1)^d for d axes

    It replaces the uniform numbers of hydra/sweeper=random. Of the first 2^m points, each of 2^m equal parts of every
    axis holds one, so powers of two are good numbers of trials. A longer search starts with the points of a shorter
    one.

    Source: Sobol 1967; Owen 1998, Scrambling Sobol' and Niederreiter-Xing points, J. Complexity 14.
    """


class Greedy(SweeperOptions):
    """run k = 1, ..., n       the first k hidden layers; 1, ..., k - 1 are those of run k - 1, the output layer is new
    run n + 1              all layers of run n, all of them trained

    n is arch.depth, or the number of entries of arch.widths, or of arch.channels and arch.kernels. Run k is in the
    folder k - 1 of the sweep. In runs 2, ..., n the layers of the run before are fixed, with the statistics of their
    normalizations; init=pretrained init.frozen=false trains them, too. The option of `init` draws the new layers, with
    init=pretrained that of init.default. Layers come from the best checkpoint of a run.

    Every other key has one value. The runs follow each other in one process. A stopped or killed sweep resumes with the
    run that was in progress. If a run fails, so do those after it.

    Source: Bengio, Lamblin, Popovici and Larochelle 2007, Greedy layer-wise training of deep networks, NIPS, section 4:
    supervised pretraining.
    """


@dataclass(frozen=True)
class LauncherOptions:
    """Makes the runs of a search. On Ctrl-C the runs in progress save and the search ends; resume=SWEEP resumes it.

    External launchers, such as hydra/launcher=joblib or submitit_slurm if installed, receive runs in batches of
    hydra.sweeper.max_batch_size.
    """


class Local(LauncherOptions):
    """A progress bar shows the run in progress. A failed run does not end the search."""


@dataclass(frozen=True)
class Pool(LauncherOptions):
    """Each worker imports torch once and has an equal share of the cores, at least one. The runs have the same bits as
    with hydra/launcher=local and as many threads. A worker that runs out of memory or is killed is replaced.

    workers   number of processes, and of concurrent runs; auto: the number of cores
    """

    workers: Count | Literal["auto"]
