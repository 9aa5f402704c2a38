"""Kills at random moments of the main job: whatever is left is resumed to the bit.

``python tests/killing.py --minutes 20`` runs a tiny ``finetune.json`` once, and then again and
again into new folders, each killed (SIGKILL) at one to three random moments and resumed by the
same command. Bank, candidates, weights and test probabilities must equal those of the first run in
every bit, and no draft may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from warm import start

from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.utils.weights import read_state

BUNDLES = Path(__file__).parents[1] / "bundles"
COLOURS = {"pink": (230, 150, 190), "violet": (120, 80, 170)}
TRAIN = {
    "adaptation_steps": 2,
    "adaptation_encodings": 1,
    "batch_size": 8,
    "guide_steps": 3,
    "encodings": 1,
    "critic_views": 2,
    "target_precision": 0.5,
    "solver_steps": 2,
    "guidance_scales": [3.0],
    "quota": 2,
    "max_candidates": 4,
}
EVALUATE = {"classifier_steps": 2, "batch_size": 4}
COMMON = {"labels_per_class": 6, "device": "cpu", "seeds": [0, 1], "arms": ["C", "G"]}


def write_data(folder: Path) -> Path:
    """Eight training and four test patches of each of two colours."""
    rng, items = np.random.default_rng(0), []
    for name, colour in COLOURS.items():
        for i in range(12):
            picture = np.array(colour) + rng.integers(-40, 40, (128, 128, 1))
            record = PatchRecord(
                f"{name}/{i}.png", name, "train" if i < 8 else "test", f"{name}{i}"
            )
            items.append((record, picture.clip(0, 255).astype(np.uint8)))
    return write_patches(folder, items)


def options(out: Path, data: Path) -> dict[str, Any]:
    """What a user gives, again and again; where an evaluation was killed between its last two
    files, these are to be replaced.
    """
    where = {"config_file": str(BUNDLES / "finetune.json"), "bundle_root": str(BUNDLES)}
    where |= {"dataset_dir": str(data), "output_dir": str(out)}
    small = {"strength": 1.0, "train": TRAIN, "evaluate": {**EVALUATE, "replace": True}}
    return {**COMMON, **where, **small}


def run(out: Path, data: Path, seconds: float | None = None) -> bool:
    """Run, and kill after so many seconds: whether it came to its end before.

    Raises:
        RuntimeError: it failed by itself.
    """
    told = out.with_suffix(".log")
    words = [
        part for name, value in options(out, data).items() for part in (f"--{name}", str(value))
    ]
    process = start(("monai.bundle", "run", *words), out.parent, (told, told))
    process.join(seconds)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return False
    if process.exitcode:
        error = told.read_text()[-2000:]
        raise RuntimeError(f"the run must end well, got {process.exitcode}: {error}")
    return True


def content(out: Path) -> dict[str, Any]:
    """All that must not depend on a kill."""
    found: dict[str, Any] = {}
    for name in ("split.csv", "bank/manifest.csv", "candidates/manifest.csv"):
        found[name] = (out / name).read_bytes()
    for path in sorted((out / "models").glob("*.pt")):
        state = read_state(path)
        found[path.name] = {k: np.asarray(v).tobytes() for k, v in state.items() if v is not None}
    with np.load(out / "predictions.npz") as arrays:
        found["predictions"] = {name: array.tobytes() for name, array in arrays.items()}
    results = json.loads((out / "results.json").read_text())
    for key in ("claims", "differences", "intervals", "arms", "verdict", "notes", "selection"):
        found[key] = results[key]
    return found


def faults_of(out: Path, truth: dict[str, Any]) -> list[str]:
    """What differs from the run that was not killed."""
    found = content(out)
    wrong = [name for name in truth if found.get(name) != truth[name]]
    left = [*out.rglob(".*.part")]
    return [*(f"{name} differs" for name in wrong), *(f"{path.name} is left" for path in left)]


def campaign(seconds: float, most: int = 10**9, seed: int = 0) -> tuple[int, list[str]]:
    """Kill and resume until the time is up: number of kills, and what was wrong."""
    rng, end, kills, faults = random.Random(seed), time.monotonic() + seconds, 0, []
    with tempfile.TemporaryDirectory() as scratch:
        data, begin = write_data(Path(scratch) / "data"), time.monotonic()
        monai.bundle.run(**options(Path(scratch) / "whole", data))  # strings hash otherwise here
        whole = time.monotonic() - begin
        truth = content(Path(scratch) / "whole")
        number = 0
        while kills < most and time.monotonic() < end:
            out, number = Path(scratch) / f"killed{number}", number + 1
            moments = [rng.uniform(0.1, 1) * whole for _ in range(rng.randint(1, 3))]
            done = False
            for moment in moments[: most - kills]:
                if done := run(out, data, moment):
                    break
                kills += 1
            if not done:
                run(out, data)
            told = ", ".join(f"{moment:.1f} s" for moment in moments)
            found = faults_of(out, truth)
            print(f"killed at {told} of {whole:.1f} s: {found or 'equal'}", flush=True)
            faults += found
    return kills, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    kills, faults = campaign(60 * options.minutes, seed=options.seed)
    sys.exit(
        f"{len(faults)} faults in {kills} kills" if faults else print(f"{kills} kills: equal")
    )


if __name__ == "__main__":
    main()
