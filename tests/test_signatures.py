"""What is public takes the arguments, with the defaults, that it took: code of others stands on
them. A change that is meant is told in CHANGELOG.md, and frozen by
``python tests/test_signatures.py > tests/signatures.json``.
"""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FROZEN = HERE / "signatures.json"
NAME = re.compile(r"^\.\. (?:autoclass|autofunction):: (\S+)", re.M)


def shown(parameter: inspect.Parameter) -> str:
    """Its name, what it may be given as, and its default."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    name = stars.get(parameter.kind, "") + parameter.name
    name += " by name" if parameter.kind is inspect.Parameter.KEYWORD_ONLY else ""
    if parameter.default is inspect.Parameter.empty:
        return name
    plain = re.sub(r" at 0x[0-9a-f]+", "", repr(parameter.default))
    return f"{name} = {plain}"


def taken(thing: Any) -> list[str]:
    try:
        return [shown(p) for p in inspect.signature(thing).parameters.values()]
    except ValueError:  # of a class of torch's that has none of its own
        return []


def signatures() -> dict[str, list[str]]:
    """The parameters of every documented function, class and method, by its whole name."""
    pages = (
        page.read_text(encoding="utf-8") for page in sorted(HERE.parent.glob("docs/api/*.md"))
    )
    found = {}
    for whole in sorted({name for page in pages for name in NAME.findall(page)}):
        module, _, name = whole.rpartition(".")
        thing = getattr(import_module(module), name)
        found[whole] = taken(thing)
        bases = thing.__mro__ if inspect.isclass(thing) else ()
        ours = [base for base in bases if base.__module__.startswith("monai_histodiff.")]
        for method, value in [own for base in ours for own in vars(base).items()]:
            own = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if not method.startswith("_") and inspect.isfunction(own):
                found.setdefault(f"{whole}.{method}", taken(own))
    return found


def test_public_names_take_what_they_took() -> None:
    frozen, now = json.loads(FROZEN.read_text(encoding="utf-8")), signatures()
    assert len(now) > 200
    changed = {
        k: (frozen.get(k), now.get(k)) for k in {*frozen, *now} if frozen.get(k) != now.get(k)
    }
    assert not changed, "if it is meant, tell it in CHANGELOG.md and freeze it anew"


if __name__ == "__main__":
    print(json.dumps(signatures(), indent=1))
