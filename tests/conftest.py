import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mine
import pytest
import torch
from forked import Forks
from hypothesis import HealthCheck, settings

from dlopt.cli import main
from dlopt.config.compose.hydra_app import register_resolvers

os.environ.pop("HYDRA_FULL_ERROR", None)
settings.register_profile("dlopt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dlopt")  # a slow machine must not fail a test


@pytest.fixture(scope="session", autouse=True)
def _isolate_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _skip_fsync() -> Iterator[None]:
    """Do not wait for the disk in this process: only a power failure would tell, and each call takes about 5 ms.

    Tests that watch or fail fsync put their own function in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _reset_globals() -> Iterator[None]:
    """Start every test with one thread, a fixed global seed and no Hydra, independently of the test before."""
    from hydra.core.global_hydra import GlobalHydra

    torch.set_num_threads(1)
    torch.manual_seed(0)
    register_resolvers()
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture(scope="session")
def forks(_isolate_cache: None) -> Iterator[Forks]:
    """Return a server that starts real processes of dlopt in a fraction of a second, and ends them with the session."""
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def _postgresql_server() -> Iterator[str]:
    import postgres

    with postgres.run_server() as address:
        yield address


@pytest.fixture
def postgresql(_postgresql_server: str) -> Iterator[str]:
    """Return the SQLAlchemy URL of an empty database on a real PostgreSQL server."""
    import postgres

    with postgres.create_database(_postgresql_server, "test") as address:
        yield address


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty working directory from which the custom components of `mine` can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(mine.__file__).parent)
    return tmp_path


@pytest.fixture(scope="session")
def _trained_folders() -> dict[tuple[str, ...], Path]:
    return {}


@pytest.fixture
def train_once(here, monkeypatch, capsys, tmp_path_factory, _trained_folders) -> Callable[..., None]:
    """Return a function that puts what a command line makes into the working directory; it is executed once."""

    def train_once(*argv: str) -> None:
        if argv not in _trained_folders:
            folder = tmp_path_factory.mktemp("trained")
            with monkeypatch.context() as patch:
                patch.chdir(folder)
                assert main(argv) == 0
            _trained_folders[argv] = folder
        shutil.copytree(_trained_folders[argv], here, dirs_exist_ok=True)
        capsys.readouterr()

    return train_once
