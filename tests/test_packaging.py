"""The wheel holds all that a user needs."""

import subprocess
import sys
import zipfile

import pytest

from dlopt.config.compose import groups


@pytest.mark.long
def test_a_wheel_works_away_from_the_checkout(tmp_path):
    """Built by pip, unpacked elsewhere, run from there: configuration, options and a training run."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(groups.CONF.parent),
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert "dlopt/conf/config.yaml" in names
    assert {name.split("/")[0] for name in names} <= {
        "dlopt",
        "hydra_plugins",
        wheel.name.rsplit("-", 3)[0] + ".dist-info",
    }
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(*argv: str) -> str:
        command = [sys.executable, "-m", "dlopt", *argv]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout

    where = "import dlopt.config.compose.groups as p; print(p.CONF)"
    found = subprocess.run(
        [sys.executable, "-c", where], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert found.stdout.strip() == str(site / "dlopt" / "conf")
    assert "adam" in run("list", "optimizer")
    assert "accuracy" in run("train", "data=digits", "arch=linear", "epochs=2")
