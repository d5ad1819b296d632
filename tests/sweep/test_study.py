"""A study of n points ends with n outcomes, one for each ordinal, whichever processes are lost."""

import random
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from studies import make_pruner, make_sampler, open_study, open_study_storage

from dlopt.rundir.lock import Lock
from dlopt.sweep.axis import Choice, Interval
from dlopt.sweep.claims import Outcome, assign_ordinals, get_verdict
from dlopt.sweep.samplers import sample
from dlopt.sweep.space import Condition, Space
from dlopt.sweep.storage import load_or_create_study
from dlopt.sweep.study import MAX_TRIES, Study

SPACE = Space(
    (
        Interval("lr", 1e-5, 1.0, log=True, step=None, whole=False),
        Interval("depth", 1, 9, log=False, step=1, whole=True),
        Choice("rule", ("sgd", "adam", "[a,b]")),
    ),
    (),
)
RANDOM = make_sampler("random", 3, 2, 4)
TPE = make_sampler("tpe", 3, 2, 4, multivariate=False)


def compute_value(point):
    return float(point[0]) + point[1] + len(point[2])


class Disk(dict):
    """The outcomes of points, by ordinal, as the runs' directories have them."""

    def run(self, trial):
        assert trial.ordinal not in self, "every directory is written once"
        self[trial.ordinal] = Outcome("done", compute_value(trial.point))
        return self[trial.ordinal]

    def read(self, ordinal, is_retry, point):
        """What Plan.read_outcome reads."""
        outcome = self.get(ordinal)
        return None if outcome is not None and outcome.verdict == "failed" and is_retry else outcome


class Place:
    """Studies by name in one storage, a journal or a database."""

    def __init__(self, url: str | None, folder: Path) -> None:
        self.storage, self.folder = open_study_storage(url, folder), folder
        self.step = 1 if url is None else 4  # a database takes longer

    def study(self, total, name="it", sampler=RANDOM, wrap=lambda storage: storage, at="a") -> Study:
        """The part of this process in a study; `at` is the directory in which it works."""
        study = open_study(self.storage, name, SPACE.to_dict())
        study._storage = wrap(self.storage)
        return Study(study._storage, study, SPACE, sampler, total, self.folder / at)


@pytest.fixture(params=["journal", "sqlite"])
def place(request, tmp_path):
    place = Place(None if request.param == "journal" else "sqlite:///:memory:", tmp_path)
    yield place
    if request.param == "sqlite":
        place.storage.remove_session()
        getattr(place.storage, "_backend", place.storage).engine.dispose()


def work(study, disk, most=1_000):
    """Begin and end up to so many trials."""
    trials = []
    while len(trials) < most and (trial := study.claim(disk.read)) is not None:
        trials.append(trial)
        assert study.tell(trial, disk.run(trial))
    return trials


def assert_complete(study, disk, total):
    """Each ordinal has one outcome, its own point, and the value of its runs; no run is lost or repeated."""
    trials = study.trials()
    ordinals = assign_ordinals(trials)
    ended = {ordinals[trial.number]: trial for trial in trials if get_verdict(trial) is not None}
    assert sorted(ended) == list(range(total))
    assert sum(get_verdict(trial) is not None for trial in trials) == total
    for ordinal, trial in ended.items():
        point = tuple(trial.params[axis.key] for axis in SPACE.axes)
        if study.sampler is RANDOM:
            assert point == sample(SPACE, RANDOM, ordinal), "to the last bit"
        assert trial.value == disk[ordinal].value == compute_value(point)
    assert len(disk) == total
    assert study.counts().by_verdict == {"done": total}
    assert study.counts().running == 0
    assert study.claim(disk.read) is None


def find_nothing(ordinal, is_retry, point):
    """What directories without a finished run tell of a point."""


# ------------------------------------------------------------------------------------------------ undisturbed


def test_points_come_in_order_each_once(place):
    disk = Disk()
    with place.study(6) as study:
        trials = work(study, disk)
        assert [(t.ordinal, t.tries, t.is_retry) for t in trials] == [(n, 1, False) for n in range(6)]
        assert [trial.point for trial in trials] == [sample(SPACE, RANDOM, n) for n in range(6)]
        assert_complete(study, disk, 6)
        assert study.best().number == min(disk, key=lambda number: disk[number].value)


def test_a_study_can_become_shorter_and_longer(place):
    """An interrupted trial beyond a shorter end is tried again once the study is longer."""
    disk = Disk()
    with place.study(4) as study:
        work(study, disk, 3)
        study.interrupt(study.claim(disk.read))
    with place.study(2) as study:
        assert study.claim(disk.read) is None
        assert study.counts().by_verdict == {"done": 2}
    with place.study(6) as study:
        assert [trial.ordinal for trial in work(study, disk)] == [3, 4, 5]
        assert_complete(study, disk, 6)


def test_an_interrupted_point_of_a_conditional_space_is_tried_again(tmp_path):
    """Without a value on the axis that does not apply; a point that was written in part is chosen again."""
    rule, momentum = Choice("rule", ("sgd", "momentum")), Interval("m", 0.0, 1.0, log=False, step=None, whole=False)
    space = Space((momentum, rule), (), (Condition("m", "rule", ("momentum",)),))
    storage = open_study_storage(None, tmp_path)
    with Study(storage, open_study(storage), space, RANDOM, 8, tmp_path) as study:
        trials = [study.claim(find_nothing) for _ in range(8)]
        assert [trial.point for trial in trials] == [sample(space, RANDOM, n) for n in range(8)]
        assert {trial.point[0] is None for trial in trials} == {False, True}
        for trial in trials:
            study.interrupt(trial)
        assert [study.claim(find_nothing).point for _ in range(8)] == [trial.point for trial in trials]
        read = {trial.number: study.point(trial) for trial in study.trials()}
        assert read[0] == trials[0].point
        half = optuna.trial.create_trial(
            params={"rule": "momentum"}, distributions={"rule": rule.distribution()}, state=TrialState.FAIL
        )
        assert study.point(half) is None


# ------------------------------------------------------------------------------------------------ losses


class Crash(Exception):
    """The process is gone."""


class Wrapped:
    """A storage that calls `act` before or after its k-th call."""

    def __init__(self, storage, k, act, *, after):
        self._storage, self._left, self._act, self._after = storage, k, act, after

    def __getattr__(self, name):
        member = getattr(self._storage, name)

        def call(*args, **kwargs):
            self._left -= 1
            is_mine = self._left == 0
            if is_mine and not self._after:
                self._act()
            result = member(*args, **kwargs)
            if is_mine and self._after:
                self._act()
            return result

        return call if callable(member) else member


def crash():
    raise Crash


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("sampler", [RANDOM, TPE], ids=["random", "tpe"])
def test_a_process_lost_at_any_call_of_the_storage_leaves_a_study_that_can_be_completed(place, sampler, after):
    total, k, step = 3, 0, place.step if sampler is RANDOM else 7 * place.step
    is_over = False
    while not is_over:
        k += step
        disk = Disk()
        try:
            with place.study(total, f"lost at {k}", sampler, lambda s, k=k: Wrapped(s, k, crash, after=after)) as study:
                work(study, disk)
            is_over = True
        except Crash:
            pass
        with place.study(total, f"lost at {k}", sampler) as study:
            work(study, disk)
            assert_complete(study, disk, total)
    assert k > 20, "there were calls at which it could be lost"


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_lost_again_and_again(seed, tmp_path):
    place, disk, draw = Place(None, tmp_path), Disk(), random.Random(seed)
    for _ in range(200):
        k, after = draw.randint(5, 40), draw.random() < 0.5
        try:
            with place.study(8, wrap=lambda s, k=k, after=after: Wrapped(s, k, crash, after=after)) as study:
                work(study, disk)
            break
        except Crash:
            continue
    with place.study(8) as study:
        assert_complete(study, disk, 8)


def test_an_outcome_that_only_the_directories_have_is_told_to_the_study(place):
    disk = Disk()
    with place.study(3) as study:
        disk.run(study.claim(disk.read))
        second = study.claim(disk.read)
        disk[second.ordinal] = Outcome("diverged", None, "1 of 2 runs diverged")
        study.claim(disk.read)
    with place.study(3) as study:
        trial = study.claim(disk.read)
        assert (trial.ordinal, trial.is_retry) == (2, True)
        assert study.counts().by_verdict == {"done": 1, "diverged": 1}
        assert study.trials()[1].user_attrs["message"] == "1 of 2 runs diverged"


def test_a_half_written_outcome_whose_run_is_gone_does_not_count(place):
    """The process was lost between its two writes, and someone removed the run."""
    disk = Disk()
    with place.study(1) as study:
        trial = study.claim(find_nothing)
        study.storage.set_trial_user_attr(trial.id, "outcome", "done")
    with place.study(1) as study:
        (again,) = work(study, disk)
        assert (again.ordinal, again.is_retry) == (0, True)
        assert_complete(study, disk, 1)


def test_trials_of_living_processes_are_left_to_them(place):
    disk = Disk()
    with place.study(4) as one, place.study(4) as two:
        mine = one.claim(disk.read)
        assert [trial.ordinal for trial in work(two, disk)] == [1, 2, 3]
        two._last_reap = float("-inf")
        assert two.claim(disk.read) is None
        assert two.counts().running == 1
        one.tell(mine, disk.run(mine))
        assert_complete(two, disk, 4)


def test_a_trial_that_ends_after_it_was_given_up_as_lost_is_not_told(place):
    """As after a long sleep: another process has taken its point in the meantime."""
    disk = Disk()
    with place.study(1) as sleeper:
        late = sleeper.claim(disk.read)
        sleeper.lock.release()
        with place.study(1) as other:
            (trial,) = work(other, disk)
            assert (trial.ordinal, trial.is_retry) == (late.ordinal, True)
            assert not sleeper.tell(late, Outcome("done", 0.0))
            sleeper.interrupt(late)
            assert_complete(other, disk, 1)


def test_the_folder_of_a_dead_process_is_removed(tmp_path):
    place = Place(None, tmp_path)
    study = place.study(1).__enter__()
    trial = study.claim(find_nothing)
    folder = study.lock.folder
    Lock.__del__(study.lock)  # as the system does when a process ends
    assert (folder / "lock.json").exists()
    with place.study(1) as other:
        assert other.claim(find_nothing).ordinal == trial.ordinal
    assert not folder.exists()


# ------------------------------------------------------------------------------------------------ further attempts


@pytest.mark.parametrize("lost", [True, False])
def test_only_lost_processes_count_as_attempts_and_the_last_one_fails(lost, place):
    with place.study(1) as study:
        trials = []
        while len(trials) < 2 * MAX_TRIES and (trial := study.claim(find_nothing)) is not None:
            trials.append((trial.ordinal, trial.tries, trial.point))
            study.interrupt(trial, lost=lost)
        count = MAX_TRIES if lost else 2 * MAX_TRIES
        assert trials == [(0, n + 1 if lost else 1, sample(SPACE, RANDOM, 0)) for n in range(count)]
        assert study.counts().by_verdict == ({"failed": 1} if lost else {})
        if lost:
            assert str(MAX_TRIES) in study.trials()[-1].user_attrs["message"]


def test_failed_trials_are_retried_on_request(place):
    disk = Disk()

    def fail(trial):
        disk[trial.ordinal] = Outcome("failed", None, "out of luck")
        study.tell(trial, disk[trial.ordinal])

    with place.study(3) as study:
        work(study, disk, 1)
        fail(study.claim(disk.read))
        work(study, disk)
        assert study.counts().by_verdict == {"done": 2, "failed": 1}
    with place.study(3) as study:
        assert study.claim(disk.read) is None
        assert study.finished_ordinals() == {0, 1, 2}
        study.retry_failed()
        assert (study.counts().by_verdict, study.finished_ordinals()) == ({"done": 2}, {0, 2})
        again = study.claim(disk.read)
        assert (again.ordinal, again.is_retry, again.point) == (1, True, sample(SPACE, RANDOM, 1))
        fail(again)
        assert study.counts().by_verdict == {"done": 2, "failed": 1}
    with place.study(3) as study:
        study.retry_failed()
        del disk[1]  # its run starts again
        (last,) = work(study, disk)
        assert (last.ordinal, last.is_retry) == (1, True)
        assert (study.counts().by_verdict, study.finished_ordinals()) == ({"done": 3}, {0, 1, 2})


def test_a_retry_whose_process_is_lost_has_not_failed(place):
    """Its directory still holds the failed run of the first attempt."""
    disk = Disk()
    with place.study(1) as study:
        trial = study.claim(disk.read)
        disk[trial.ordinal] = Outcome("failed", None, "out of luck")
        study.tell(trial, disk[trial.ordinal])
    with place.study(1) as study:
        study.retry_failed()
        assert study.claim(disk.read).is_retry
    with place.study(1) as study:
        assert study.claim(disk.read).is_retry
        assert study.counts().by_verdict == {}


def test_a_trial_is_found_where_its_process_has_worked(place, tmp_path):
    """Searches that share a database may each have a directory; a directory with its own journal may be moved."""
    with place.study(2) as one, place.study(2, at="b") as two:
        study, (mine, other) = one, [study.claim(find_nothing) for study in (one, two)]
        for folder in ("a/0", "a/1", "b/1"):
            (tmp_path / folder).mkdir(parents=True)
        for trial, study_of_it in ((mine, one), (other, two)):
            study_of_it.tell(trial, Outcome("done", 1.0))
        is_journal = isinstance(study.storage, optuna.storages.JournalStorage)
        folders = [study.locate(trial) for trial in study.trials()]
        assert folders == [(tmp_path / "a/0", ""), (tmp_path / ("a/1" if is_journal else "b/1"), "")]


# ------------------------------------------------------------------------------------------------ several processes


@pytest.mark.parametrize("seed", range(3))
def test_processes_never_share_a_point(seed, tmp_path):
    """They begin, end, stop and are lost at random; each has its own directory, so that no lock keeps the order."""
    place, disk, draw = Place(None, tmp_path), Disk(), random.Random(seed)
    total = 12
    studies = [place.study(total, at=f"machine {i}").__enter__() for i in range(3)]
    running = [[] for _ in studies]
    for _ in range(400):
        i = draw.randrange(len(studies))
        act = draw.choice(["claim", "claim", "tell", "tell", "stop", "lose"])
        if act == "claim" and len(running[i]) < 3:
            studies[i]._last_reap = float("-inf") if draw.random() < 0.3 else studies[i]._last_reap
            trial = studies[i].claim(disk.read)
            if trial is not None:
                running[i].append(trial)
        elif act == "lose" and draw.random() < 0.3:
            studies[i].__exit__()
            running[i].clear()
            studies[i] = place.study(total, at=f"machine {i}").__enter__()
        elif act in ("tell", "stop") and running[i]:
            trial = running[i].pop(draw.randrange(len(running[i])))
            if act == "tell":
                studies[i].tell(trial, disk.run(trial))
            else:
                studies[i].interrupt(trial)
        claims = Counter(trial.ordinal for trials in running for trial in trials)
        assert max(claims.values(), default=1) == 1
    for study, trials in zip(studies, running, strict=True):
        for trial in trials:
            study.tell(trial, disk.run(trial))
    for study in studies:
        study._last_reap = float("-inf")
        work(study, disk)
    assert_complete(studies[0], disk, total)
    for study in studies:
        study.__exit__()


@pytest.mark.parametrize("waiting", [False, True], ids=["new", "waiting"])
@pytest.mark.parametrize("total", [1, 3])
def test_two_machines_that_claim_at_once_get_different_points_or_none(total, waiting, place):
    """One claims in the middle of the other's claim, at every call, and neither sees the other's lock."""
    for k in range(1, 30, place.step):
        name, disk, trials = f"{waiting} {total} {k}", Disk(), []
        with place.study(total, name, at="b") as two:
            if waiting:
                two.interrupt(two.claim(disk.read))

            def claim(two=two, trials=trials, disk=disk):
                trials.append(two.claim(disk.read))

            wrap = lambda storage, k=k, claim=claim: Wrapped(storage, k, claim, after=False)  # noqa: E731
            with place.study(total, name, wrap=wrap) as one:
                trials.append(one.claim(disk.read))
                if len(trials) == 1:  # its claim has fewer calls
                    break
                ordinals = [trial.ordinal for trial in trials if trial is not None]
                assert sorted(ordinals) == list(range(len(ordinals)))
                for trial in filter(None, trials):
                    one.tell(trial, disk.run(trial))
                work(one, disk)
                work(two, disk)
                assert_complete(two, disk, total)
    assert 5 < k < 29


def test_one_trial_too_many_is_put_back_for_a_longer_search(place):
    disk = Disk()
    with place.study(2) as one, place.study(2, at="b") as two:
        before = one.trials()
        work(two, disk)
        assert one._claim_new(before) is None, "the other was faster"
        assert len(one.trials()) == 3
        assert_complete(one, disk, 2)
    with place.study(3) as longer:
        (trial,) = work(longer, disk)
        assert (trial.ordinal, trial.is_retry) == (2, True)
        assert_complete(longer, disk, 3)


# ------------------------------------------------------------------------------------------------ whose study it is


def test_a_study_keeps_the_content_it_was_created_with(place):
    for content in ({"axes": [1]}, {"axes": [2]}):
        _, former = load_or_create_study(place.storage, "mine", "minimize", make_pruner().to_optuna(), content)
        assert former == {"axes": [1]}


def test_a_study_of_another_program_has_no_content(place):
    other = optuna.create_study(storage=place.storage, study_name="theirs")
    other.add_trial(optuna.create_trial(state=TrialState.COMPLETE, value=1.0))
    pruner = make_pruner().to_optuna()
    assert load_or_create_study(place.storage, "theirs", "minimize", pruner, {"axes": []})[1] == {}
