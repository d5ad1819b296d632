"""Where a study is kept: a journal in the sweep's directory, or a database that several machines reach."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlopt.config.problems import Problems
from dlopt.storage import safe_read
from dlopt.sweep.signals import StorageUnavailable

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL

Direction = Literal["minimize", "maximize"]

JOURNAL = "study.log"
"""The journal's name in the directory of a sweep."""
HEARTBEAT_INTERVAL = 20
"""Seconds between two signs of life in a database."""
GRACE_PERIOD = 120
"""Seconds without one after which a trial of a machine that cannot be seen from here counts as interrupted."""


def silence_optuna() -> None:
    """Optuna says nothing: what there is to say, a sweep says itself."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(url: str | None, folder: Path, problems: Problems) -> BaseStorage | None:
    """The storage of a sweep in this directory; None where it cannot be reached, and the problem is noted.

    url is null for the journal study.log there, a file's path that ends in .log for a journal elsewhere, or the address
    of a database, such as postgresql+psycopg://user@host/name or sqlite:///search.db.
    """
    silence_optuna()
    try:
        if url is None or url.endswith(".log"):
            from dlopt.sweep.journal_file import open_journal

            file = folder / JOURNAL if url is None else Path(url)
            file.parent.mkdir(parents=True, exist_ok=True)
            return open_journal(file)
        return _database(url)
    except Exception as error:  # of drivers, sockets and files, a dozen kinds
        problems.add(
            "hydra.sweeper.storage", f"{hide_password(url or str(folder / JOURNAL))} cannot be opened: {_why(error)}"
        )
        return None


def open_existing_storage(url: str | None, folder: Path, problems: Problems) -> BaseStorage | None:
    """The same where it is there already: nothing is made. None, too, where it is not."""
    if url is None or url.endswith(".log"):
        return (
            open_storage(url, folder, problems) if (folder / JOURNAL if url is None else Path(url)).exists() else None
        )
    try:
        return open_storage(url, folder, problems) if _has_studies(url) else None
    except Exception as error:  # as above
        problems.add("hydra.sweeper.storage", f"{hide_password(url)} cannot be opened: {_why(error)}")
        return None


def load_or_create_study(
    storage: BaseStorage, name: str, direction: Direction, pruner: BasePruner, content: Mapping[str, Any]
) -> tuple[OptunaStudy, Mapping[str, Any]]:
    """Return the study of this name and the content that it was created with; a new study gets the given content."""
    import optuna

    for _ in range(50):
        study = load_study(storage, name, pruner)  # loading writes nothing, creating again would
        if study is None:
            sampler = optuna.samplers.RandomSampler()
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction=direction,
                pruner=pruner,
                sampler=sampler,
                load_if_exists=True,
            )
        former = study.user_attrs.get("dlopt")
        if former is not None:
            return study, former
        if study.get_trials(deepcopy=False):
            return study, {}  # made by another program
        study.set_user_attr("dlopt", dict(content))
    raise AssertionError("a study does not keep what it is told")


def load_study(storage: BaseStorage, name: str, pruner: BasePruner | None = None) -> OptunaStudy | None:
    """Return the study of this name, or None."""
    import optuna

    try:
        sampler = optuna.samplers.RandomSampler()
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    except KeyError:
        return None


def _has_studies(url: str) -> bool:
    from sqlalchemy import create_engine, inspect

    address = _address(url)
    if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
        return False  # to look would make it
    engine = create_engine(address)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _address(url: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # whose words would tell parts of a password
        raise ValueError("it is no address such as postgresql+psycopg://user@host/name") from None


def hide_password(url: str) -> str:
    """An address without its password."""
    return safe_read.mask_passwords(url)


@contextlib.contextmanager
def translate_errors(url: str | None) -> Iterator[None]:
    """Whatever a database fails with in here becomes Away, with a message for people."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise StorageUnavailable(
            f"hydra.sweeper.storage  {hide_password(url or JOURNAL)}: {_why(error.__cause__ or error)}"
        ) from error


def _database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    _address(url)
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = RDBStorage(
                    url,
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=HEARTBEAT_INTERVAL,
                    grace_period=GRACE_PERIOD,
                )
                return get_storage(made)  # which remembers trials that are over, as the one of a Study does
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            exists = "already exists" in str(error) or "duplicate key" in str(error) or "UNIQUE" in str(error)
            if not exists or attempt == 4:  # another process has made the same tables a moment ago
                raise
    raise AssertionError


def _why(error: BaseException) -> str:
    """The first line of what a driver says, without SQLAlchemy's frame."""
    if isinstance(error, json.JSONDecodeError):
        return "a line of it is damaged"
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return safe_read.mask_passwords(text.splitlines()[0])
