"""The storage of a study: a journal in the sweep's directory, or a database that several machines reach."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlopt.config.problems import Problems
from dlopt.storage.safe_read import mask_passwords

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL

Direction = Literal["minimize", "maximize"]

JOURNAL = "study.log"
"""The journal's name in the directory of a sweep."""
HEARTBEAT_INTERVAL = 20
"""Seconds between two heartbeats in a database."""
GRACE_PERIOD = 120
"""Seconds without a heartbeat after which a trial of a machine that is not visible from here counts as interrupted."""


class StorageUnavailable(Exception):
    """The storage of a study no longer answers."""


def open_storage(url: str | None, folder: Path, problems: Problems, *, must_exist: bool = False) -> BaseStorage | None:
    """Open the storage of the sweep in this directory. Return None, and add a problem, if that fails.

    url is null for the journal study.log in the directory, the path of a journal (it ends in .log), or the address of a
    database, such as postgresql+psycopg://user@host/name or sqlite:///search.db. With must_exist nothing is created,
    and None is returned without a problem if there is no storage.
    """
    is_journal = url is None or url.endswith(".log")
    file = Path(url) if url is not None and is_journal else folder / JOURNAL
    try:
        if must_exist and not (file.exists() if is_journal else _has_studies(str(url))):
            return None
        _silence_optuna()
        if not is_journal:
            return _open_database(str(url))
        from dlopt.sweep.journal_file import open_journal

        file.parent.mkdir(parents=True, exist_ok=True)
        return open_journal(file)
    except Exception as error:  # drivers, sockets and files raise many classes
        name = mask_passwords(url or str(file))
        problems.add("hydra.sweeper.storage", f"{name} cannot be opened: {_format_cause(error)}")
        return None


def load_or_create_study(
    storage: BaseStorage, name: str, direction: Direction, pruner: BasePruner, content: Mapping[str, Any]
) -> tuple[OptunaStudy, Mapping[str, Any]]:
    """Return the study of this name and the content that it was created with; a new study gets the given content.

    The content of a study of another program is empty.
    """
    import optuna

    study = load_study(storage, name, pruner)  # loading writes nothing, `create_study` would
    if study is None:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction=direction,
            pruner=pruner,
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
    if "dlopt" not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr("dlopt", dict(content))
    return study, study.user_attrs.get("dlopt", {})


def load_study(storage: BaseStorage, name: str, pruner: BasePruner | None = None) -> OptunaStudy | None:
    """Return the study of this name, or None."""
    import optuna

    try:
        sampler = optuna.samplers.RandomSampler()
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    except KeyError:
        return None


@contextlib.contextmanager
def translate_errors(url: str | None) -> Iterator[None]:
    """Raise StorageUnavailable, with a message for people, for every error of a storage in this block."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        name, cause = mask_passwords(url or JOURNAL), _format_cause(error.__cause__ or error)
        raise StorageUnavailable(f"hydra.sweeper.storage  {name}: {cause}") from error


def _silence_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the sweep itself reports what matters
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _has_studies(url: str) -> bool:
    from sqlalchemy import create_engine, inspect

    address = _parse_address(url)
    if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
        return False  # connecting would create the file
    engine = create_engine(address)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _parse_address(url: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # whose message would show parts of a password
        raise ValueError("it is not an address such as postgresql+psycopg://user@host/name") from None


def _open_database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    _parse_address(url)
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                storage = RDBStorage(
                    url,
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=HEARTBEAT_INTERVAL,
                    grace_period=GRACE_PERIOD,
                )
                return get_storage(storage)  # adds a cache of finished trials, as the storage of a Study has
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            is_race = any(words in str(error) for words in ("already exists", "duplicate key", "UNIQUE"))
            if not is_race or attempt == 4:  # a race: another process has just created the same tables
                raise
    raise AssertionError


def _format_cause(error: BaseException) -> str:
    """Return the first line of a driver's message, without what SQLAlchemy adds to it."""
    if isinstance(error, json.JSONDecodeError):
        return "a line of it is damaged"
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return mask_passwords(text.splitlines()[0])
