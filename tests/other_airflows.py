"""
Run tests on other Airflows, each in its own environment in ``.matrix``: ``python -m tests.other_airflows NAME ...``.

A name such as ``3.0.6-3.12`` is a pair of the matrix: that Airflow with its constraints, on that Python. A name such as
``3.0.6`` is a release with the libraries of its day. Without a name, all releases are tested. The last lines report the
result of each. For the Makefile, which runs several pairs at a time, each result is also a file in ``.matrix``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

PROJECT = Path(__file__).parents[1]
ENVIRONMENTS = PROJECT / ".matrix"
UV = Path(sys.executable).with_name("uv")

#: On each Airflow: whole Airflows, and the unit tests of the modules that use Airflow.
AIRFLOW_TESTS = [
    *(f"tests/unit/test_{name}.py" for name in ("airflow_compat", "backend", "fallback", "logins", "metrics")),
    *("tests/unit/cli/test_configuration.py", "tests/unit/ui", "tests/integration/test_backend.py", "tests/airflow"),
    "--ignore=tests/airflow/test_fallback.py",  # the unit tests of fallback have the differences between Airflows
]
#: On the oldest Airflow also those that depend on Python or the libraries.
LIBRARY_TESTS = [
    *("tests/unit", "--ignore=tests/unit/cli/docker_config", "--ignore=tests/unit/test_credentials.py"),
    *(f"tests/integration/test_{name}.py" for name in ("backend", "commands", "identities")),
]
#: On each further Python of the newest Airflow those that depend on Python: its libraries are those of other tests.
PYTHON_TESTS = ["tests/unit", *(f"--ignore=tests/unit/{name}" for name in ("cli", "test_credentials.py"))]
#: Lookups, tasks of a whole Airflow, and configurations that stop Airflow.
RELEASE_TESTS = [
    "tests/integration/test_backend.py",
    "tests/airflow/test_tasks.py",
    "tests/airflow/test_configured_backend.py",
]
PAIR_TESTS = {
    "2.11.2": [*LIBRARY_TESTS, "tests/airflow"],
    "3.2.2": [*AIRFLOW_TESTS, "--ignore=tests/airflow/test_page.py"],  # 3.1.8 and the main environment test the page
    "3.3.2": [*PYTHON_TESTS, *RELEASE_TESTS],
}
#: Every release that is not yanked, with the day of its upload to PyPI.
RELEASES = {
    "2.11.0": date(2025, 5, 20),
    "2.11.1": date(2026, 2, 16),
    "2.11.2": date(2026, 3, 14),
    "3.0.0": date(2025, 4, 22),
    "3.0.1": date(2025, 5, 12),
    "3.0.2": date(2025, 6, 10),
    "3.0.3": date(2025, 7, 14),
    "3.0.4": date(2025, 8, 8),
    "3.0.6": date(2025, 8, 29),
    "3.1.0": date(2025, 9, 25),
    "3.1.1": date(2025, 10, 27),
    "3.1.2": date(2025, 11, 5),
    "3.1.3": date(2025, 11, 14),
    "3.1.5": date(2025, 12, 12),
    "3.1.6": date(2026, 1, 13),
    "3.1.7": date(2026, 2, 4),
    "3.1.8": date(2026, 3, 11),
    "3.2.0": date(2026, 4, 7),
    "3.2.1": date(2026, 4, 22),
    "3.2.2": date(2026, 5, 29),
    "3.3.0": date(2026, 7, 6),
    "3.3.1": date(2026, 8, 12),
    "3.3.2": date(2026, 9, 17),
}
#: The providers of a release follow within days. Libraries that break it follow within weeks.
DAY_OF_LIBRARIES = timedelta(days=7)
#: Libraries of those weeks with which a release itself does not start, as Airflow's constraints exclude them, too.
EXCLUDED = {"3.1.1": ["structlog<25.5"]}
#: The oldest boto3 that this package supports is a week older.
EARLIEST_LIBRARIES = date(2025, 5, 7)


def prepare(name: str) -> bool:
    """Create the environment of a name if it is missing or outdated; return whether its Python is installed."""
    airflow, _, python = name.partition("-")
    constraints = PROJECT / f"constraints/airflow-{airflow}.txt"
    made_from = [PROJECT / "pyproject.toml"]
    if python:
        requirements = [f"--constraint={constraints}", f"--build-constraint={constraints}"]
        made_from.append(constraints)
    else:
        python = ">=3.10,<3.13"
        day = max(RELEASES[airflow] + DAY_OF_LIBRARIES, EARLIEST_LIBRARIES)
        requirements = [f"apache-airflow=={airflow}", f"--exclude-newer={day}", *EXCLUDED.get(airflow, [])]
    environment = ENVIRONMENTS / name
    ready = environment / "ready"
    if ready.exists() and ready.stat().st_mtime > max(path.stat().st_mtime for path in made_from):
        return True
    found = uv("python", "find", "--system", "--no-project", python)
    if found.returncode != 0:
        return False
    uv("venv", "--quiet", "--clear", "--python", found.stdout.strip(), str(environment)).check_returncode()
    install = ["pip", "install", "--quiet", "--python", str(environment)]
    uv(*install, "--editable", ".", "--group", "test", *requirements).check_returncode()
    ready.touch()
    return True


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run uv with every installed Python: those on PATH, and all those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    path = os.pathsep.join([os.environ["PATH"], *map(str, pyenv.glob("versions/3.*/bin"))])
    environment = {**os.environ, "PATH": path, "UV_PYTHON_DOWNLOADS": "never"}
    return subprocess.run(
        [UV, *arguments], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )


def run(name: str) -> tuple[int, str]:
    """Run the tests of a name, show their output, and return pytest's exit code and a line with the result."""
    airflow, _, python = name.partition("-")
    try:
        if not prepare(name):
            return 0, f"Airflow {airflow}: not run: no Python {python} here\n"
    except subprocess.CalledProcessError as error:
        return 1, f"Airflow {airflow}: not installed: uv ended with {error.returncode}\n"
    programs = ENVIRONMENTS / name / "bin"
    version = subprocess.check_output([programs / "python", "--version"], text=True).strip()
    selected = PAIR_TESTS.get(airflow, AIRFLOW_TESTS) if python else RELEASE_TESTS
    command: list[str | Path] = [programs / "pytest", "-p", "no:cacheprovider", *selected]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:
        last = ""
        for last in tests.stdout or ():
            sys.stdout.write(last)
    return tests.returncode, f"Airflow {airflow} on {version}: {last.strip().strip('= ')}\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.other_airflows", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="pairs or releases (all releases)")
    parser.add_argument("--prepare", action="store_true", help="create the environments, and run no test")
    options = parser.parse_args()
    ENVIRONMENTS.mkdir(exist_ok=True)
    codes, results = [], []
    for name in options.names or RELEASES:
        if options.prepare:
            prepare(name)
            continue
        file = ENVIRONMENTS / f"{name}.txt"
        file.unlink(missing_ok=True)
        code, result = run(name)
        codes.append(code)
        results.append(result)
        file.write_text(result)
    sys.stdout.write("".join(results))
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
