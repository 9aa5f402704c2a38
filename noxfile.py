"""Everything there is to run: ``nox -l`` lists it, ``nox -s NAME`` runs one.

Each runs in an environment of its own.

``lint``: ruff. ``types``: mypy. ``quick``: the tests that take no ten seconds. ``tests``: all, as
CI. ``mutation``, ``fuzzing``, ``killing``: the campaigns of ``docs/reliability.md``, ten to twenty
minutes each. ``build``: sdist and wheel, checked. ``docs``: the documentation site, warnings are
errors; ``nox -s docs -- -b linkcheck`` asks the outside links too. ``oldest``, ``newest``: the
quick tests with the versions of ``tests/constraints``.

"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "quick"]
nox.options.reuse_existing_virtualenvs = True
TORCH = "torch==2.13.0"  # the CPU build where there is one


def install(session: nox.Session) -> None:
    """Torch first: otherwise pip would pick its own build, of gigabytes."""
    session.install(TORCH)
    session.install("-e", ".[test]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff check and ruff format."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy on the package."""
    install(session)
    session.run("mypy")


@nox.session
def quick(session: nox.Session) -> None:
    """The tests that take less than ten seconds each and need no data."""
    install(session)
    session.run("pytest", "-m", "not slow and not real and not gpu", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests that this machine can run."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Changes of the code that no test notices: ``nox -s mutation -- --minutes 5 utils/cache``."""
    install(session)
    session.run("python", "tests/mutation.py", *session.posargs)


@nox.session
def fuzzing(session: nox.Session) -> None:
    """Damage to whatever is read: ``nox -s fuzzing -- --minutes 5 png``."""
    install(session)
    session.run("python", "tests/fuzzing.py", *session.posargs)


@nox.session
def killing(session: nox.Session) -> None:
    """Kills of the main job at random moments, resumed: ``nox -s killing -- --minutes 5``."""
    install(session)
    session.run("python", "tests/killing.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Sdist and wheel, and what the package index will say of them."""
    session.install("build", "twine")
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", "dist/*")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, to docs/_build."""
    session.install(TORCH)
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build", *session.posargs)


@nox.session(python=["3.10"])
def oldest(session: nox.Session) -> None:
    """The quick tests with the oldest versions that are allowed."""
    with_versions(session, "oldest")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def newest(session: nox.Session) -> None:
    """The quick tests with the newest versions, on each Python that is there."""
    with_versions(session, "newest")


def with_versions(session: nox.Session, name: str) -> None:
    """Install and test under a file of constraints."""
    session.install("-c", f"tests/constraints/{name}.txt", "torch")
    session.install("-c", f"tests/constraints/{name}.txt", "-e", ".[test]")
    session.run("pytest", "-m", "not slow and not real and not gpu", *session.posargs)
