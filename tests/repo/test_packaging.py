"""What users install: the source archive and the wheel, built and run away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, pyproject

STEP_TIMEOUT_S = 300


@dataclass(frozen=True)
class Distribution:
    """The two archives of one build."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Installation:
    """A virtual environment that holds the wheel, and an empty folder to run it from."""

    python: Path
    command: Path
    folder: Path

    def run(self, *arguments: str | Path) -> str:
        return run(*arguments, folder=self.folder)


def run(*arguments: str | Path, folder: Path) -> str:
    """Run a program without what would lead it back to the checkout; return its output."""
    kept = {"HOME", "LANG", "PATH", "TMPDIR"}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name in kept},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STEP_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """The source archive, and the wheel built from it: the way a release is built."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Distribution(sdist, wheel)


@pytest.fixture(scope="module")
def installation(
    distribution: Distribution, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """The wheel in an environment of its own; its dependencies are those of this environment."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index"]
    run(*install, "--no-deps", distribution.wheel, folder=home)
    # A path line adds that folder alone. The .pth file in it that points an editable installation
    # to the checkout is not read, so nothing but the wheel provides the package.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", ask, folder=home).strip())
    (site / "dependencies.pth").write_text("\n".join(sorted(dependencies)), encoding="utf-8")
    return Installation(python, home / "bin" / "limiter", tmp_path_factory.mktemp("elsewhere"))


def scripts() -> set[str]:
    return {path.relative_to(ROOT / "lua").as_posix() for path in (ROOT / "lua").rglob("*.lua")}


def page_files() -> set[str]:
    """What the page is made of beside its code."""
    web = ROOT / "limiter" / "web"
    files = [*(web / "templates").iterdir(), *(web / "static").iterdir()]
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_wheel_carries_the_scripts_and_nothing_beside_the_package(
    distribution: Distribution,
) -> None:
    with zipfile.ZipFile(distribution.wheel) as wheel:
        names = wheel.namelist()
    assert scripts()
    assert {f"limiter/lua/{name}" for name in scripts()} <= set(names)
    assert "limiter/py.typed" in names
    assert page_files()
    assert page_files() <= set(names)
    info = f"llm_spend_limiter-{pyproject()['project']['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"limiter", info}
    assert f"{info}/licenses/LICENSE" in names


def test_source_archive_is_the_tree(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames()}
    assert {f"lua/{name}" for name in scripts()} <= names
    assert {
        "Makefile",
        "requirements.lock",
        "CHANGELOG.md",
        "tests/repo/test_packaging.py",
    } <= names


def test_package_is_imported_from_the_wheel(installation: Installation) -> None:
    where = installation.run(installation.python, "-c", "import limiter; print(limiter.__file__)")
    assert Path(where.strip()).is_relative_to(installation.python.parents[1])


def test_scripts_of_the_wheel_are_joined(installation: Installation) -> None:
    ask = (
        "from limiter.redis.scripts import bundled_scripts, lua_folder\n"
        "print(lua_folder(), *bundled_scripts().names, sep='\\n')"
    )
    folder, *names = installation.run(installation.python, "-c", ask).splitlines()
    assert Path(folder).is_relative_to(installation.python.parents[1])
    assert set(names) == {path.stem for path in (ROOT / "lua").glob("*.lua")}


def test_command_runs(installation: Installation) -> None:
    assert "serve" in installation.run(installation.command, "--help")
    assert "--port" in installation.run(installation.command, "serve", "--help")
