"""A finished run is judged anew from what its classifiers said, if they still say it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from monai_histodiff import __version__
from monai_histodiff.bundle.predictions import read_predictions, write_predictions
from monai_histodiff.bundle.provenance import describe_files
from monai_histodiff.commands.judge import UNJUDGED, judge, main
from monai_histodiff.evaluation.combining import combine
from monai_histodiff.evaluation.comparisons import COMPARISONS
from monai_histodiff.evaluation.results_files import read_results
from monai_histodiff.evaluation.verdict import compare_arms, last_word, pseudonym

LABELS = np.arange(120) % 2
GROUPS = [f"p{i // 4}" for i in range(120)]


def arm(share: float, seed: int) -> np.ndarray:
    """Probabilities that are right for a share of the patches."""
    right = np.random.default_rng(seed).random(120) < share
    first = np.where(right == (LABELS == 0), 0.8, 0.2)
    return np.stack([first, 1 - first], 1)


def finished(root: Path, accepted: int = 5) -> dict[str, Any]:
    """The folder of a run, as far as it is judged."""
    arms = {"C": [arm(0.6, s) for s in range(3)], "G": [arm(0.9, 9 + s) for s in range(3)]}
    evaluation: Any = SimpleNamespace(
        probabilities=arms,
        test=SimpleNamespace(labels=torch.from_numpy(LABELS), groups=GROUPS),
        material=SimpleNamespace(classes=("a", "b")),
        seeds=(0, 1, 2),
    )
    write_predictions(root / "predictions.npz", evaluation)
    names = [pseudonym(group) for group in GROUPS]
    found = compare_arms(arms, LABELS, names, ["a", "b"], COMPARISONS, accepted)
    claim, sentence = last_word(found["claims"], accepted)
    results = {
        **found,
        "claim": claim,
        "verdict": sentence,
        "notes": [*found["shortfalls"], "a note"],
        "selection": {"accepted": accepted},
        "versions": {"monai-histodiff": "0.11.0"},
        "files": describe_files(root, ["predictions.npz"]),
        "dataset": {"path": "set", "classes": ["a", "b"], "sha256": "1" * 64},
        "settings": {"labels_per_class": 5, "draw": 0},
    }
    (root / "results.json").write_text(json.dumps(results))
    return json.loads(json.dumps(results))


def test_the_verdict_is_the_same_to_the_bit_and_another_rule_gives_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = finished(tmp_path)
    again = json.loads(json.dumps(judge(tmp_path)))
    assert again.pop("judged_by") == __version__ and again.pop("judged_from") == "predictions"
    assert again == results
    assert results["claim"] == "helps" and len(set(results["test"]["groups"])) == 30
    monkeypatch.setattr("monai_histodiff.evaluation.verdict.LEAST_GROUPS", 31)
    stricter = judge(tmp_path)
    assert stricter["claim"] == "inconclusive" and stricter["notes"][1:] == ["a note"]
    main([str(tmp_path), "--output", str(tmp_path / "new.json")])
    told = capsys.readouterr().out
    assert "Then (0.11.0): The selected" in told and "Now (" in told and "G-C: +" in told
    (run,) = read_results([tmp_path / "new.json"])
    assert run["claim"] == "inconclusive"


def test_without_an_accepted_patch_nothing_is_claimed(tmp_path: Path) -> None:
    results = finished(tmp_path, accepted=0)
    assert results["claims"]["G-C"]["claim"] == judge(tmp_path)["claim"] == "inconclusive"
    assert "no synthetic patch was accepted" in judge(tmp_path)["verdict"]


@pytest.mark.parametrize("number", range(-40, 900, 60))
def test_predictions_that_were_changed_are_refused(number: int, tmp_path: Path) -> None:
    finished(tmp_path)
    content = bytearray((tmp_path / "predictions.npz").read_bytes())
    content[number % len(content)] ^= 4
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(ValueError, match="predictions must be|must be as its run wrote"):
        judge(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"a run must have 'results.json', got none in"):
        judge(tmp_path)
    finished(tmp_path)
    (tmp_path / "predictions.npz").unlink()
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "got none at" in capsys.readouterr().err
    np.savez(tmp_path / "predictions.npz", labels=LABELS)
    with pytest.raises(ValueError, match="must hold 'groups' of 1 axes, got None in"):
        read_predictions(tmp_path / "predictions.npz")
    arrays = {"groups": LABELS[1:].astype(str), "labels": LABELS}
    np.savez(tmp_path / "predictions.npz", **arrays)
    with pytest.raises(ValueError, match=r"must fit one another, got \(119,\) for 'groups'"):
        read_predictions(tmp_path / "predictions.npz")


def test_two_data_sets_of_one_name_are_not_draws_of_one(tmp_path: Path) -> None:
    results = finished(tmp_path)
    others = {**results["hits"], "C": [hits[2:] + hits[:2] for hits in results["hits"]["C"]]}
    second = {**results, "settings": {"labels_per_class": 5, "draw": 1}, "hits": others}
    paths = [tmp_path / "results.json", tmp_path / "second.json"]
    paths[1].write_text(json.dumps(second))
    assert len(read_results(paths)) == 2
    paths[1].write_text(json.dumps({**second, "dataset": {"path": "set", "sha256": "2" * 64}}))
    with pytest.raises(ValueError, match="'set' must be of one data set, got two of that name"):
        read_results(paths)


def test_what_may_be_claimed_is_counted_not_read(tmp_path: Path) -> None:
    """A file that keeps silent on its shortfalls gives no claim."""
    results = finished(tmp_path)
    assert combine([results])["G-C"]["claim"] == "helps"
    fewer = {arm: runs[:2] for arm, runs in results["hits"].items()}
    assert combine([{**results, "hits": fewer}])["G-C"]["claim"] == "inconclusive"
    one = {**results["test"], "groups": ["p"] * 120}
    assert combine([{**results, "test": one}])["G-C"]["claim"] == "inconclusive"


@pytest.mark.parametrize(
    ("part", "key"), [("settings", "draw"), ("settings", "labels_per_class"), ("dataset", "path")]
)
def test_what_results_lack_within_is_named(part: str, key: str, tmp_path: Path) -> None:
    results = finished(tmp_path)
    for value, told in (({}, f"{part}#.*"), ([], f"{part}")):
        (tmp_path / "results.json").write_text(json.dumps({**results, part: value}))
        with pytest.raises(ValueError, match=f"results must hold {told}, got none in"):
            read_results([tmp_path / "results.json"])
    del results[part][key]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=f"results must hold {part}#{key}, got none in"):
        read_results([tmp_path / "results.json"])


def test_a_published_results_file_alone_is_judged_by_which_answers_were_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from the predictions, in all that the claims rest on."""
    (tmp_path / "run").mkdir()
    finished(tmp_path / "run")
    whole = json.loads(json.dumps(judge(tmp_path / "run")))
    alone = tmp_path / "published.json"
    alone.write_bytes((tmp_path / "run/results.json").read_bytes())
    again = json.loads(json.dumps(judge(alone)))
    assert (again.pop("judged_from"), whole.pop("judged_from")) == ("hits", "predictions")
    exact = ("claim", "verdict", "shortfalls", "notes", "arms", "hits", "judged_by")
    assert {key: again[key] for key in exact} == {key: whole[key] for key in exact}
    for part in ("claims", "differences"):
        for name, row in whole[part].items():
            found, expected = (
                side if part == "claims" else side["balanced_accuracy"]
                for side in (again[part][name], row)
            )
            numbers = {k: v for k, v in expected.items() if isinstance(v, float)}
            assert {k: found[k] for k in numbers} == pytest.approx(numbers, abs=1e-12)
    results = json.loads(alone.read_text())
    for part in ("hits", "arms"):
        results[part]["C"] = results[part]["G"]
    alone.write_text(json.dumps(results))
    assert judge(alone)["claim"] == "inconclusive", "it is judged, not repeated"
    del results["files"]
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="files of results must be .*, got none in"):
        judge(tmp_path / "run")
    main([str(alone)])
    assert "(from which answers were right: other metrics" in capsys.readouterr().out


def counted(**changed: Any) -> dict[str, Any]:
    """The counts of a set, as ``verdict.json`` writes them."""
    told = {"name": "set", "pictures": 90, "accepted": 50, "copies": 0, "test_copies": 0}
    told["classes"] = {"a": {"pictures": 90, "labelled": 30, "right": 27}}
    return {**told, "unlike": 0, "taught": 0.9, "expected": 0.9, "usual": 0.01, **changed}


@pytest.mark.parametrize("alone", [False, True])
def test_results_of_a_verdict_on_pictures_are_judged_with_their_copies(
    alone: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, path = finished(tmp_path), tmp_path / "results.json"
    told = path if alone else tmp_path

    def judged(*sets: dict[str, Any], **changed: Any) -> dict[str, Any]:
        path.write_text(json.dumps({**results, "foreign": {"sets": sets}, **changed}))
        return judge(told)

    fine = judged(counted())
    assert fine["claim"] == "helps" and fine["verdict"] == results["verdict"]
    # what an earlier version said in place of the comparison's own word goes with its rule
    assert "word" not in judged(counted(), word="Leak", claim="inconclusive", verdict="old")
    leak = judged(counted(test_copies=30), word="Leak")
    assert leak["claim"] == leak["claims"]["G-C"]["claim"] == "inconclusive"
    assert leak["word"] == "Leak" and leak["verdict"].startswith("Not tested: 30 of 90 pictures")
    assert leak["notes"] == [leak["verdict"], "a note"] and not leak["shortfalls"]
    assert leak["claims"]["G-C"]["withheld"] == leak["verdict"]
    # written, and judged once more, it says nothing twice
    path.write_text(json.dumps(leak))
    assert judge(told)["notes"] == leak["notes"]
    assert judged(counted(), counted(test_copies=30))["claim"] == "helps", "arm G2 is not there"
    nothing = judged(counted(accepted=0, copies=80), selection={"accepted": 0})
    assert nothing["verdict"].startswith("None of the 90 pictures is worth keeping: 80 of 90")
    main([str(told)])
    assert "Now (" in capsys.readouterr().out
    wrong = judged(counted(taught=0.1))
    assert wrong["verdict"].startswith(
        "The labels do not fit: the critic gives their label to 10%"
    )
    assert UNJUDGED not in wrong["notes"]
    before = judged(counted(taught=0.1, classes={"a": {"pictures": 90}}))
    assert before["verdict"] == results["verdict"] and UNJUDGED in before["notes"]
    old = counted()
    del old["usual"]
    with pytest.raises(ValueError, match="must count what each set holds, got no 'usual'"):
        judged(old)
