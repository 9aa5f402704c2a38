"""What the critic of ``train.yaml`` knows, beside a probe of the labelled patches alone.

    python tests/benchmarks/bench_critic.py --dataset_dir colorectal_ebhi_192.zip
    --labels_per_class 5 --draws 100 101 102

Balanced accuracy, in %, of both on the test patches and on the unlabelled training patches, whose
labels neither has read; a patch is judged by five crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.data import set_track_meta

from monai_histodiff import PatchCritic, PatchSet, fit_critic
from monai_histodiff.classifiers import ProbeTraining
from monai_histodiff.evaluation.metrics import classification_metrics

CONFIG = Path(__file__).parents[2] / "bundles/histopathology_guidance/configs/train.yaml"


def judged(critic: PatchCritic, patches: PatchSet, size: int) -> float:
    """Balanced accuracy on patches that have labels, in %."""
    known = patches.with_labels()
    found = critic.of_patches(known, size)
    return 100 * classification_metrics(found.numpy(), known.labels.numpy())["balanced_accuracy"]


def both(dataset_dir: str, labels_per_class: int, draw: int, **options: Any) -> list[float]:
    """Of the probe on test and unlabelled patches, and of the critic on the same."""
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser.update({"bundle_root": str(CONFIG.parents[1]), "dataset_dir": dataset_dir})
    parser.update({"labels_per_class": labels_per_class, "draw": draw, **options})
    critic, task = parser.get_parsed_content("critic"), parser.get_parsed_content("task")
    probe = ProbeTraining(
        parser.get_parsed_content("critic_encoder"),
        parser.get_parsed_content("critic_views"),
        device=parser.get_parsed_content("device"),
    )
    alone = fit_critic(
        task.labelled,
        probe,
        parser.get_parsed_content("augmentation"),
        task.size,
        parser.get_parsed_content("critic_folds"),
        parser.get_parsed_content("target_precision"),
        draw,
    )
    parts = (task.test, task.unlabelled)
    return [judged(each, part, task.size) for each in (alone, critic) for part in parts]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each draw, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--labels_per_class", type=int, default=5)
    parser.add_argument("--draws", type=int, nargs="+", default=[100, 101, 102])
    asked = parser.parse_args(arguments)
    set_track_meta(False)
    rows = []
    print("draw | labels alone: test, unlabelled | critic: test, unlabelled", flush=True)
    for draw in asked.draws:
        rows.append(both(asked.dataset_dir, asked.labels_per_class, draw))
        print(
            f"{draw} | {rows[-1][0]:.1f} {rows[-1][1]:.1f} | {rows[-1][2]:.1f} {rows[-1][3]:.1f}"
        )
    mean = [sum(values) / len(rows) for values in zip(*rows, strict=True)]
    print(f"mean | {mean[0]:.1f} {mean[1]:.1f} | {mean[2]:.1f} {mean[3]:.1f}")


if __name__ == "__main__":
    main()
