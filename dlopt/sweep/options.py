"""The keys of hydra.sweeper and hydra.launcher, as conf/hydra has them, with their ranges; and what each option is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dlopt.metrics.names import Statistic
from dlopt.ranges import Count, Range

N_SEEDS = 2**32
"""How many seeds there are: 0, 1, ..."""
Seed = Annotated[int, Range(ge=0, lt=N_SEEDS)]


@dataclass(frozen=True)
class MedianOptions:
    """Of the median rule; see Keys.

    startup   trials that are done before the first may be pruned
    warmup    evaluations of a trial before it may be, counted through its runs
    """

    n_startup_trials: Annotated[int, Range(ge=0)]
    n_warmup_steps: Annotated[int, Range(ge=0)]


@dataclass(frozen=True)
class HyperbandOptions:
    """Of Hyperband; see Keys.

    least       evaluations up to the first rung
    reduction   of so many trials at a rung one goes on to the next, which is so many times as far
    """

    min_resource: Count
    reduction_factor: Annotated[int, Range(ge=2)]


@dataclass(frozen=True)
class TpeOptions:
    """Of the Parzen estimator; see Tpe.

    startup        points drawn at random first
    candidates     draws from the density of the good points, of which the most promising is tried
    multivariate   whether one density is of all axes together; else each axis has its own
    """

    n_startup_trials: Annotated[int, Range(ge=0)]
    n_ei_candidates: Count
    multivariate: bool


@dataclass(frozen=True)
class SweeperOptions:
    """A search has an axis for each key that is given several values; in a shell, quote what has brackets:

      optimizer=sgd,adam                        options of a group
      optimizer=glob(ada*)                      all whose names fit
      regularization=none,l2,[l2,dropout]       lists of options
      batch_size=32,64                          numbers; choice(32,64) is the same
      epochs=range(10,40,10)                    10, 20, 30: the end is left out
      optimizer.beta1=interval(0.5,0.99)        every number between, ends included
      epochs=int(interval(5,50))                every whole number
      optimizer.lr=tag(log,interval(1e-4,1))    each decade has an equal share
      epochs=tag(log,int(interval(1,100)))      whole numbers, by decades

    A grid takes values and ranges; intervals are for random, tpe and qmc, for which a range is an axis of ordered
    numbers too. All other values are choices without an order. Every run is checked before the first begins; of an
    interval its ends are.

    sampler          how points are chosen, which the option says
    trials           points in all, those of earlier calls too: resume=SWEEP goes on up to here; null: all of a grid
    seed             of the search itself, which decides what is drawn; the runs' own is the key `seed`
    seeds            runs of each point: n for the seeds s, ..., s + n - 1, where s is the key `seed`, or a list of
                     them; null: one run
    statistic        what the value of a point is of the values of its runs: mean or median
    storage          where the study lies: null for study.log in the sweep's directory, a file that ends in .log, or a
                     database that several machines reach, as postgresql+psycopg://user@host/name
    study            its name there, which a database needs; null: dlopt
    retry            whether points that failed are tried again when a search goes on
    pruner           ends runs early that do worse than others did by then: none, median or hyperband
    params           axes and values as on the command line, for a file of one's own; null: none
    max_batch_size   runs handed at once to a launcher of others, such as submitit; null: 10 with tpe, else all

    A trial is a point and its runs: one, or one for each of `seeds`; with validation.scheme=kfold one for each of the
    validation.k folds; with both, one for each pair. Its value is the mean or median of the objective, which each run
    has at its best checkpoint:

      mean      v = (v_1 + ... + v_n) / n
      median    v = the middle one in order, or the mean of the middle two

    Where a run diverges its objective is the worst there is. So a trial diverges by the first run of a mean, and by
    half of the runs of a median; it then has no value, is never the best, counts among `trials`, is a bad point to tpe,
    and takes no part in what the median rule compares with. A run that fails makes its trial fail. A trial that is
    interrupted or killed is tried again under a new number, three times at most if its process was lost.

    pruner=median ends a trial after evaluation k > `warmup` if the best of its values so far is worse than the median
    of those that the trials that are done, `startup` or more, had after their evaluation k (Golovin et al. 2017):

      min(v(1), ..., v(k)) > median of v'(k)        max and < for a metric that is to be large

    pruner=hyperband has rungs, and a trial goes on beyond one if it is among the best of 1 in `reduction` that came so
    far (Li et al. 2018). R is one more than the evaluations of the longest of the trials that were done first; before
    there is one nothing is pruned. Each trial has one of the brackets s, whose first rungs lie further out the larger s
    is:

      rungs at k = least reduction^(s + i),  i = 0, 1, ...
      s = 0, ..., floor(log(R / least) / log(reduction))

    Evaluations, of which eval_every says how far they are apart, are counted through the runs of a trial, which then go
    one after another; v(k) is the mean or median of the values of its earlier runs and of the present one after k. A
    trial that was pruned counts among `trials`.
    """

    sampler: Literal["grid", "random", "tpe", "qmc"]
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


class Grid(SweeperOptions):
    """All points, in the order of the axes as they are typed, of which the last varies fastest.

    `trials` is null or their number. More than 10,000 runs are begun with --yes alone; --dry-run says how long they
    take.
    """


class Random(SweeperOptions):
    """x = low + u (high - low),      u ~ U[0, 1) for each axis
    x = low (high / low)^u         on a logarithmic scale

    Each of n choices has the share 1 / n, and so has each whole number; on a logarithmic scale a whole number m has
    that of the interval from m - 1/2 to m + 1/2. Point i follows from `seed` and i alone: a longer search begins with
    the points of a shorter one, and several processes draw what one would.

    Source: Bergstra and Bengio 2012, Random search for hyper-parameter optimization, JMLR 13.
    """


class Tpe(SweeperOptions):
    """x = argmax l(x) / g(x)  over `tpe.n_ei_candidates` draws from l

    l and g are densities, sums of a kernel at each point: l of the good points, the best min(ceil(n / 10), 25) of the n
    so far, g of all others. Their quotient grows with the expected improvement. The first `tpe.n_startup_trials` points are
    drawn at random. Points under way and diverged ones count as bad: so several workers keep out of each other's way.
    What is proposed depends on the results so far, and with several workers on which are there first.

    Source: Bergstra et al. 2011, Algorithms for hyper-parameter optimization, NIPS, equations 2 and 3.
    """


class Qmc(SweeperOptions):
    """u_i = point i of a Sobol sequence, scrambled by `seed`, in [0, 1)^d for d axes

    It takes the place of the uniform numbers of hydra/sweeper=random. Of its first 2^m points each of 2^m equal parts
    of every axis holds one: so powers of two are good numbers of trials. A longer search begins with the points of a
    shorter one.

    Source: Sobol 1967; Owen 1998, Scrambling Sobol' and Niederreiter-Xing points, J. Complexity 14.
    """


@dataclass(frozen=True)
class LauncherOptions:
    """Whoever makes the runs of a search. Ctrl-C has those under way save where they are, and ends; resume=SWEEP goes
    on.

    Launchers of others, such as hydra/launcher=joblib or submitit_slurm where they are installed, are handed runs in
    batches, hydra.sweeper.max_batch_size at once.
    """


class Local(LauncherOptions):
    """A progress bar shows the run under way. A run that fails does not end the search."""


@dataclass(frozen=True)
class Pool(LauncherOptions):
    """Each worker imports torch once, and has an equal share of the cores, at least one; the runs, and their bits, are
    those of hydra/launcher=local with as many threads. A worker that is lost, for want of memory or killed, is
    replaced.

    workers   processes, and runs at once; auto: as many as there are cores
    """

    workers: Count | Literal["auto"]
