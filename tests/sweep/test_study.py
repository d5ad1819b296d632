"""A study of n points ends with n outcomes, one for each ordinal, whatever is lost on the way."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from dlopt.config.problems import Problems
from dlopt.rundir.lock import Lock
from dlopt.sweep import storage as storages
from dlopt.sweep import study as module
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.samplers import Sampler, sample
from dlopt.sweep.space import Choice, Interval, Space
from dlopt.sweep.study import MAX_TRIES, Outcome, Study, Trial, load_or_create_study

SPACE = Space(
    (
        Interval("lr", 1e-5, 1.0, log=True, step=None, whole=False),
        Interval("depth", 1, 9, log=False, step=1, whole=True),
        Choice("rule", ("sgd", "adam", "[a,b]")),
    ),
    (),
)
RANDOM = Sampler("random", 3, n_startup_trials=2, n_ei_candidates=4, multivariate=False)
TPE = Sampler("tpe", 3, n_startup_trials=2, n_ei_candidates=4, multivariate=False)
NONE = Pruner("none", 0, 0, 1, 2).to_optuna()


def value(point: tuple[Any, ...]) -> float:
    return float(point[0]) + point[1] + len(point[2])


class Disk(dict[int, Outcome]):
    """What the runs of each trial came to, by its number, as their directories tell it."""

    def make(self, trial: Trial) -> Outcome:
        assert trial.number not in self, "every directory is written once"
        self[trial.number] = Outcome("done", value(trial.point))
        return self[trial.number]


class Place:
    """Studies by name in one storage, of a journal or a database."""

    def __init__(self, url: str | None, folder: Path) -> None:
        problems = Problems()
        found = storages.open_storage(url, folder, problems)
        problems.raise_if_any()
        assert found is not None
        self.storage, self.folder = found, folder
        self.step = 1 if url is None else 4  # a database on disk takes ten times as long

    def study(self, total: int, name: str = "it", sampler: Sampler = RANDOM, wrap: Any = None, at: str = "a") -> Study:
        """This process's part in a study; `at` is the directory from which it works."""
        made, _ = load_or_create_study(self.storage, name, "minimize", NONE, SPACE.to_dict())
        storage = self.storage if wrap is None else wrap(self.storage)
        made._storage = storage
        return Study(storage, made, SPACE, sampler, total, self.folder / at)


@pytest.fixture(params=["journal", "sqlite"])
def place(request, tmp_path) -> Iterator[Place]:
    found = Place(None if request.param == "journal" else f"sqlite:///{tmp_path}/study.db", tmp_path)
    yield found
    if request.param == "sqlite":
        found.storage.remove_session()
        found.storage._backend.engine.dispose() if hasattr(
            found.storage, "_backend"
        ) else found.storage.engine.dispose()


def work(study: Study, disk: Disk, most: int = 1_000) -> list[Trial]:
    """Begin and end up to so many trials."""
    made = []
    while len(made) < most and (trial := study.claim(disk.get)) is not None:
        made.append(trial)
        assert study.tell(trial, disk.make(trial))
    return made


def ended(study: Study) -> dict[int, list[Any]]:
    """The trials with an outcome, by ordinal."""
    trials = study.trials()
    ordinals = module._ordinals(trials)
    found: dict[int, list[Any]] = {}
    for trial in trials:
        if module._verdict(trial) is not None:
            found.setdefault(ordinals[trial.number], []).append(trial)
    return found


def complete(study: Study, disk: Disk, total: int) -> None:
    """That each ordinal has one outcome, its own point, and the value that its runs came to; and no run is lost."""
    found = ended(study)
    assert sorted(found) == list(range(total))
    for ordinal, trials in found.items():
        (trial,) = trials
        point = tuple(trial.params[axis.key] for axis in SPACE.axes)
        if study.sampler is RANDOM:
            assert point == sample(SPACE, RANDOM, ordinal), "to the last bit"
        assert trial.value == disk[trial.number].value == value(point)
    assert len(disk) == total, "nothing that was made was made again"
    assert study.counts().by_verdict == {"done": total}
    assert study.counts().running == 0
    assert study.claim(disk.get) is None


# ------------------------------------------------------------------------------------------------ undisturbed


def test_points_come_in_order_each_once(place):
    disk = Disk()
    with place.study(6) as study:
        made = work(study, disk)
        assert [(trial.number, trial.ordinal, trial.tries, trial.instead_of) for trial in made] == [
            (n, n, 1, None) for n in range(6)
        ]
        assert [trial.point for trial in made] == [sample(SPACE, RANDOM, n) for n in range(6)]
        complete(study, disk, 6)
        assert study.best().number == min(disk, key=lambda number: disk[number].value)


def test_a_longer_study_goes_on_and_a_shorter_one_is_over(place):
    disk = Disk()
    with place.study(3) as study:
        work(study, disk)
    with place.study(2) as study:
        assert study.claim(disk.get) is None
        assert study.counts().by_verdict == {"done": 2}
    with place.study(7) as study:
        assert [trial.ordinal for trial in work(study, disk)] == [3, 4, 5, 6]
        complete(study, disk, 7)


def test_what_was_interrupted_beyond_a_shorter_end_is_tried_when_it_is_longer_again(place):
    disk = Disk()
    with place.study(4) as study:
        work(study, disk, 3)
        study.interrupt(study.claim(disk.get))
    with place.study(3) as study:
        assert study.claim(disk.get) is None
    with place.study(5) as study:
        assert [trial.ordinal for trial in work(study, disk)] == [3, 4]
        complete(study, disk, 5)


# ------------------------------------------------------------------------------------------------ losses


class Crash(Exception):
    """The process is gone."""


class Falling:
    """A storage that is lost at its k-th call: before it is done, or after."""

    def __init__(self, storage: Any, k: int, *, after: bool) -> None:
        self._storage, self._left, self._after = storage, k, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if not self._left and not self._after:
                raise Crash
            result = found(*args, **kwargs)
            if not self._left:
                raise Crash
            return result

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("sampler", [RANDOM, TPE], ids=["random", "tpe"])
def test_a_process_that_is_lost_at_any_call_of_the_storage_leaves_a_study_that_gets_through(place, sampler, after):
    total, k, step = 3, 0, place.step if sampler is RANDOM else 7 * place.step
    while True:
        k += step
        disk = Disk()
        try:
            with place.study(
                total, f"lost at {k}", sampler, lambda storage, k=k: Falling(storage, k, after=after)
            ) as study:
                work(study, disk)
        except Crash:
            with place.study(total, f"lost at {k}", sampler) as study:
                work(study, disk)
                complete(study, disk, total)
            continue
        with place.study(total, f"lost at {k}", sampler) as study:
            complete(study, disk, total)
        break
    assert k > 20, "there were places at which it could be lost"


@pytest.mark.parametrize("seed", range(10))
def test_processes_that_are_lost_again_and_again(seed, tmp_path):
    place, disk, draw = Place(None, tmp_path), Disk(), random.Random(seed)
    for _ in range(200):
        k, after = draw.randint(5, 40), draw.random() < 0.5
        try:
            with place.study(8, wrap=lambda storage, k=k, after=after: Falling(storage, k, after=after)) as study:
                work(study, disk)
            break
        except Crash:
            continue
    with place.study(8) as study:
        complete(study, disk, 8)


def test_an_outcome_that_only_the_directories_know_is_gathered(place):
    disk = Disk()
    with place.study(3) as study:
        disk.make(study.claim(disk.get))
        two = study.claim(disk.get)
        disk[two.number] = Outcome("diverged", None, "1 of 2 runs diverged")
        study.claim(disk.get)
    with place.study(3) as study:
        trial = study.claim(disk.get)
        assert (trial.number, trial.ordinal, trial.instead_of) == (3, 2, 2)
        assert study.counts().by_verdict == {"done": 1, "diverged": 1}
        assert study.trials()[1].user_attrs["message"] == "1 of 2 runs diverged"


def test_an_outcome_half_told_and_gone_from_the_directories_is_none(place):
    """Its process was lost between its two words, and somebody removed the run."""
    with place.study(1) as study:
        trial = study.claim(lambda number: None)
        study.storage.set_trial_user_attr(trial.id, "outcome", "done")
    disk = Disk()
    with place.study(1) as study:
        (again,) = work(study, disk)
        assert (again.ordinal, again.instead_of) == (0, trial.number)
        complete(study, disk, 1)


def test_trials_of_processes_that_are_there_are_left_alone(place):
    disk = Disk()
    with place.study(4) as one, place.study(4) as two:
        mine = one.claim(disk.get)
        assert [trial.ordinal for trial in work(two, disk)] == [1, 2, 3]
        two._last_reap = float("-inf")
        assert two.claim(disk.get) is None
        assert two.counts().running == 1
        one.tell(mine, disk.make(mine))
        complete(two, disk, 4)


def test_a_trial_that_counts_as_lost_and_yet_ends_is_not_told_twice(place):
    """As after a long sleep: another process has taken its point meanwhile."""
    disk = Disk()
    with place.study(1) as sleeper:
        late = sleeper.claim(disk.get)
        sleeper.lock.release()
        with place.study(1) as other:
            (trial,) = work(other, disk)
            assert trial.instead_of == late.number
            assert not sleeper.tell(late, Outcome("done", 0.0))
            sleeper.interrupt(late)
            complete(other, disk, 1)


# ------------------------------------------------------------------------------------------------ tried again


def test_a_point_whose_process_is_lost_fails_in_the_end(place):
    with place.study(1) as study:
        seen = []
        while (trial := study.claim(lambda number: None)) is not None:
            seen.append((trial.number, trial.ordinal, trial.tries, trial.point))
            study.interrupt(trial, lost=True)
        assert seen == [(n, 0, n + 1, sample(SPACE, RANDOM, 0)) for n in range(MAX_TRIES)]
        assert study.counts().by_verdict == {"failed": 1}
        assert study.trials()[-1].user_attrs["message"] == f"its process was lost {MAX_TRIES} times"


def test_stopping_is_no_loss(place):
    with place.study(1) as study:
        for _ in range(2 * MAX_TRIES):
            trial = study.claim(lambda number: None)
            assert trial.tries == 1
            study.interrupt(trial)


def test_failed_trials_are_tried_again_where_that_is_asked_for(place):
    disk = Disk()

    def failing(trial: Trial) -> None:
        disk[trial.number] = Outcome("failed", None, "out of luck")
        study.tell(trial, disk[trial.number])

    with place.study(3) as study:
        work(study, disk, 1)
        failing(study.claim(disk.get))
        work(study, disk)
        assert study.counts().by_verdict == {"done": 2, "failed": 1}
    with place.study(3) as study:
        assert study.claim(disk.get) is None
        assert study.finished_ordinals() == {0, 1, 2}
        study.try_failed_again()
        assert (study.counts().by_verdict, study.counts().n_ended, study.finished_ordinals()) == (
            {"done": 2},
            2,
            {0, 2},
        )  # it is to do
        again = study.claim(disk.get)
        assert (again.ordinal, again.instead_of, again.point) == (1, 1, sample(SPACE, RANDOM, 1))
        failing(again)
        assert study.counts().by_verdict == {"done": 2, "failed": 1}
    with place.study(3) as study:
        study.try_failed_again()
        (last,) = work(study, disk)
        assert (last.ordinal, last.instead_of) == (1, again.number)
        assert (study.counts().by_verdict, study.finished_ordinals()) == ({"done": 3}, {0, 1, 2})


def test_of_two_that_try_the_same_point_again_one_does(place):
    """Two processes that cannot see each other's locks have both seen a trial die."""
    disk = Disk()
    with place.study(2) as study, place.study(2, at="b") as other:
        lost = study.claim(disk.get)
        study.interrupt(lost)
        before = other.trials()
        again = study.claim(disk.get)
        assert (again.ordinal, again.instead_of) == (0, lost.number)
        assert other._claim_remaining(before) is None
        assert study.tell(again, disk.make(again))
        assert [trial.ordinal for trial in work(study, disk)] == [1]
        complete(study, disk, 2)


# ------------------------------------------------------------------------------------------------ several processes


@pytest.mark.parametrize("seed", range(6))
def test_several_processes_never_have_one_point(seed, tmp_path):
    """Each begins, ends, stops and is lost as it comes; directories of their own, so that no lock keeps order."""
    place, disk, draw = Place(None, tmp_path), Disk(), random.Random(seed)
    total = 12
    studies = [place.study(total, at=f"machine {i}").__enter__() for i in range(3)]
    under_way: list[list[Trial]] = [[] for _ in studies]
    for _ in range(400):
        i = draw.randrange(len(studies))
        act = draw.choice(["claim", "claim", "tell", "tell", "stop", "lost"])
        if act == "claim" and len(under_way[i]) < 3:
            studies[i]._last_reap = float("-inf") if draw.random() < 0.3 else studies[i]._last_reap
            trial = studies[i].claim(disk.get)
            if trial is not None:
                under_way[i].append(trial)
        elif act == "lost" and draw.random() < 0.3:
            studies[i].__exit__()
            under_way[i].clear()
            studies[i] = place.study(total, at=f"machine {i}").__enter__()
        elif act in ("tell", "stop") and under_way[i]:
            trial = under_way[i].pop(draw.randrange(len(under_way[i])))
            if act == "tell":
                studies[i].tell(trial, disk.make(trial))
            else:
                studies[i].interrupt(trial)
        taken = Counter(trial.ordinal for trials in under_way for trial in trials)
        assert not taken or max(taken.values()) == 1
    for study, trials in zip(studies, under_way, strict=True):
        for trial in trials:
            study.tell(trial, disk.make(trial))
    for study in studies:
        study._last_reap = float("-inf")
        work(study, disk)
    complete(studies[0], disk, total)
    for study in studies:
        study.__exit__()


class Interrupting(Falling):
    """A storage before or after whose k-th call another process does something."""

    def __init__(self, storage: Any, k: int, act: Callable[[], Any], *, after: bool) -> None:
        super().__init__(storage, 0, after=after)
        self._calls, self._at, self._act = 0, k, act

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            mine = self._calls == self._at
            if mine and not self._after:
                self._act()
            result = found(*args, **kwargs)
            if mine and self._after:
                self._act()
            return result

        return call if callable(found) else found


@pytest.mark.parametrize("waiting", [False, True], ids=["new", "waiting"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_two_machines_that_claim_at_once_get_different_points_or_none(total, waiting, place):
    """The one claims in the midst of the other's claim, at every place, and neither sees the other's lock."""
    for k in range(1, 30, place.step):
        name, disk, found = f"{waiting} {total} {k}", Disk(), []
        with place.study(total, name, at="b") as two:
            if waiting:
                two.interrupt(two.claim(disk.get))

            def claim(two: Study = two, found: list[Any] = found, disk: Disk = disk) -> None:
                found.append(two.claim(disk.get))

            wrap = lambda storage, k=k, claim=claim: Interrupting(storage, k, claim, after=k % 2 == 0)  # noqa: E731
            with place.study(total, name, wrap=wrap) as one:
                found.append(one.claim(disk.get))
                if len(found) == 1:  # its claim has fewer calls
                    break
                ordinals = [trial.ordinal for trial in found if trial is not None]
                assert sorted(ordinals) == list(range(len(ordinals)))
                for trial in filter(None, found):
                    one.tell(trial, disk.make(trial))
                work(one, disk)
                work(two, disk)
                complete(two, disk, total)
    assert 5 < k < 29


def test_one_too_many_is_put_back_for_a_longer_search(place):
    disk = Disk()
    with place.study(2) as one, place.study(2, at="b") as two:
        before = one.trials()
        work(two, disk)
        assert one._claim_new(before) is None, "the other was faster"
        assert len(one.trials()) == 3
        complete(one, disk, 2)
    with place.study(3) as longer:
        (trial,) = work(longer, disk)
        assert (trial.instead_of, trial.ordinal) == (2, 2)
        complete(longer, disk, 3)


# ------------------------------------------------------------------------------------------------ whose study it is


def test_a_study_keeps_the_content_that_it_was_made_with(place):
    assert load_or_create_study(place.storage, "mine", "minimize", NONE, {"axes": [1]})[1] == {"axes": [1]}
    assert load_or_create_study(place.storage, "mine", "minimize", NONE, {"axes": [2]})[1] == {"axes": [1]}


def test_a_study_of_another_program_is_none_of_ours(place):
    other = optuna.create_study(storage=place.storage, study_name="theirs")
    other.add_trial(optuna.create_trial(state=TrialState.COMPLETE, value=1.0))
    assert load_or_create_study(place.storage, "theirs", "minimize", NONE, {"axes": []})[1] == {}


def test_a_dead_processs_folder_is_removed(tmp_path):
    place = Place(None, tmp_path)
    study = place.study(1)
    study.__enter__()
    trial = study.claim(lambda number: None)
    folder = study.lock.folder
    Lock.__del__(study.lock)  # as the system does it when a process ends
    assert (folder / "lock.json").exists()
    with place.study(1) as other:
        assert other.claim(lambda number: None).instead_of == trial.number
    assert not folder.exists()
