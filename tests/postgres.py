"""A real PostgreSQL server of the tests' own, from what the system has installed.

It lies in a directory of its own, is reached through a socket there, and ends with the process that started it, however
that ends. It refuses to run as root: there it runs as the user `postgres`, which Debian's package makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

STOP_WITH_PARENT = '"$@" & read ended; kill -QUIT $!; wait $!'
"""For the shell: a program that is ended when the standard input closes."""
FAST_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_wal_senders=0")
PASSWORD_ROLE = "guarded"
"""The one role that needs a password."""
TIMEOUT = 60.0
"""Seconds after which a server that should have answered is taken to hang."""


def find_programs() -> Path:
    """Where the newest of the installed servers lies; without one the test is skipped, where CI is set it fails."""
    found = {
        int(p.parts[4]): p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb") if p.parts[4].isdigit()
    }
    if found:
        return found[max(found)]
    on_path = shutil.which("initdb")
    if on_path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs PostgreSQL: apt-get install postgresql")
    return Path(on_path).resolve().parent


@contextmanager
def run_server() -> Iterator[str]:
    """A server with an empty database `postgres`; yields its address for SQLAlchemy."""
    with create_cluster() as folder, run_cluster(folder) as address:
        yield address


@contextmanager
def create_cluster() -> Iterator[Path]:
    """The folder of a server that can be started and stopped."""
    bin = find_programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path has at most 107 characters
    try:
        if user:
            shutil.chown(folder, user, user)
        options = ["--username=dlopt", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        data = folder / "data"
        made = subprocess.run(
            [bin / "initdb", *options, data], user=user, group=user, extra_groups=user and [], cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout
        rules = data / "pg_hba.conf"
        rules.write_text(f"local all {PASSWORD_ROLE} scram-sha-256\n{rules.read_text()}")
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def run_cluster(folder: Path, *more: str) -> Iterator[str]:
    """The server of a folder, with more settings, from its start to a sudden end."""
    user = _user()
    settings = [part for setting in (*FAST_SETTINGS, "listen_addresses=", *more) for part in ("-c", setting)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["sh", "-c", STOP_WITH_PARENT, "sh", find_programs() / "postgres", "-D", folder / "data", "-k", folder, *settings],
            user=user, group=user, extra_groups=user and [], cwd=folder,
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_ready(folder, process)
        yield _address(folder, "postgres")
    finally:
        process.communicate(timeout=TIMEOUT)


def add_password_role(address: str, password: str) -> str:
    """The address of the same database for a role that needs this password; it may be given another later."""
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [PASSWORD_ROLE]).fetchone()
        act = "ALTER" if known else "CREATE"
        connection.execute(f"{act} ROLE {PASSWORD_ROLE} LOGIN SUPERUSER PASSWORD '{password}'")
    return address.replace("dlopt@", f"{PASSWORD_ROLE}:{password}@")


def _user() -> str | None:
    return "postgres" if os.getuid() == 0 else None


@contextmanager
def create_database(address: str, name: str) -> Iterator[str]:
    """An empty database of a server, gone afterwards; yields its address for SQLAlchemy."""
    folder = Path(address.partition("host=")[2])
    with psycopg.connect(_address(folder, "postgres").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield _address(folder, name)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _address(folder: Path, name: str) -> str:
    return f"postgresql+psycopg://dlopt@/{name}?host={folder}"


def _wait_until_ready(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Returns when the server takes connections."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            psycopg.connect(_address(folder, "postgres").replace("+psycopg", "")).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text()) from None
            time.sleep(0.01)
