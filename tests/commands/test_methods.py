"""Draws are draws of one method: what a run records of it, and what is refused, or told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from test_summary import another, run, write

from monai_histodiff._version import __version__
from monai_histodiff.bundle.results import describe_versions
from monai_histodiff.bundle.running import method_of
from monai_histodiff.commands.summary import main
from monai_histodiff.evaluation.combining import combine, combine_sets
from monai_histodiff.evaluation.results_files import read_results
from monai_histodiff.options.docs import config_files
from monai_histodiff.options.table import options_of
from monai_histodiff.report.limits import limits

BUNDLES = Path(__file__).parents[2] / "bundles"
OPTIONS = {"train#strength": 0.5, "train#parts": "ab", "evaluate#batch_size": 32}
SETS = [{"name": "made", "sha256": "1"}]


def draws(*changes: dict[str, Any], **first: Any) -> list[dict[str, Any]]:
    """Draw 0, and one more with changes of what is recorded within each part."""
    whole: dict[str, Any] = {
        "options": OPTIONS,
        "versions": {"monai-histodiff": "1"},
        "sampling": {"strength": 0.5, "scale": 1.5},
        "foreign": {"sets": SETS},
        **first,
    }
    found = [{**run(), **whole}]
    for i, change in enumerate(changes):
        parts = {key: {**found[0][key], **part} for key, part in change.items()}
        other = another({**found[-1], **{k: found[0][k] for k in whole}, **parts})
        other["settings"] = {**other["settings"], "draw": i + 1}
        found.append(other)
    return found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"options": {"train#strength": 1.0}}, "got train#strength 0.5 and 1.0 in"),
        ({"options": {"train#guidance_scale": 2.0}}, "got train#guidance_scale none and 2.0 in"),
        ({"options": {"train#parts": "cd"}}, "got train#parts 'ab' and 'cd' in"),
        ({"sampling": {"strength": 1.0}}, "got strength 0.5 and 1.0 in"),
        ({"selection": {"target_precision": 0.9}}, "got target_precision 0.75 and 0.9 in"),
        ({"settings": {"quota": 9}}, "got quota 5 and 9 in"),
        (
            {"foreign": {"sets": [{"name": "made"}, {"name": "other"}]}},
            "got synthetic sets 1 and 2 in",
        ),
    ],
)
def test_another_method_is_no_draw(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    first = {
        "selection": {"accepted": 7, "candidates": 60, "target_precision": 0.75},
        "settings": {"labels_per_class": 25, "draw": 0, "quota": 5},
    }
    assert len(read_results(write(tmp_path, *draws({"sampling": {"scale": 3.0}}, **first)))) == 2
    with pytest.raises(ValueError, match=f"must have the same settings, {told} .*apart"):
        read_results(write(tmp_path, *draws(change, **first)))


def test_one_number_in_two_spellings_and_options_of_another_version_are_one_method(
    tmp_path: Path,
) -> None:
    written = {"options": {"train#um_per_px": 1, "train#scales": [0, 1]}}
    (first, second) = draws(
        {"options": {"train#um_per_px": 1.0, "train#scales": [0.0, 1.0]}}, **written
    )
    assert len(read_results(write(tmp_path, first, second))) == 2
    second["options"]["train#new"] = 3
    with pytest.raises(ValueError, match="got train#new none and 3 in"):
        read_results(write(tmp_path, first, second))
    second["versions"] = {"monai-histodiff": "2"}
    assert len(read_results(write(tmp_path, first, second))) == 2


def test_what_is_not_claimed_is_named(tmp_path: Path) -> None:
    rows = {"G-C": {"unmet": ["It leaks."]}, "F-C": {"unmet": []}}
    assert limits([run()], rows) == ["Nothing is claimed of G-C. It leaks."]
    rows["F-C"] = rows["G-C"]
    assert limits([run()], rows) == ["Nothing is claimed. It leaks."]


def test_results_without_options_are_combined_by_what_they_have(tmp_path: Path) -> None:
    old = draws({}, {})
    for results in old[1:]:
        del results["options"]
    read_results(write(tmp_path, *old))
    del old[1]["sampling"]["strength"]
    read_results(write(tmp_path, *old))


def test_versions_and_sets_that_differ_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {
        "versions": {"monai-histodiff": "2"},
        "options": {"train#parts": "cd"},
        "foreign": {"sets": [{"name": "made", "sha256": "2"}]},
    }
    for number, changes in enumerate(({}, change)):
        main([str(path) for path in write(tmp_path, *draws(changes, changes))])
        told = capsys.readouterr().out
        for sentence in ("Runs of several versions of this program: 1, 2.", "hold other pictures"):
            assert (sentence in told) == bool(number)
        assert "Options are not recorded" not in told


@pytest.mark.parametrize("options", [True, False], ids=["options", "older"])
@pytest.mark.parametrize("change", [{"labels": 10}, {"dataset": "b", "site": "b"}])
def test_methods_that_stand_side_by_side_are_told_and_what_the_data_decide_is_not(
    change: dict[str, Any], options: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = run(), run(**change)
    one["sampling"], other["sampling"] = {"strength": 0.5}, {"strength": 1.0}
    for results, size in ((one, 96), (other, 128)):
        results["settings"] = {**results["settings"], "patch_size": size}
        if options:
            strength = results["sampling"]["strength"]
            results["options"] = {**OPTIONS, "train#patch_size": size, "train#strength": strength}
    page = tmp_path / "page.html"
    told = f"not of one method ({'train#' if options else ''}strength 0.5 or 1.0): what changes"
    for method in (True, False):
        if not method:
            other |= {key: one[key] for key in ("sampling", *(["options"] * options))}
        main([*map(str, write(tmp_path, one, other)), "--html", str(page)])
        for text in (capsys.readouterr().out, page.read_text(encoding="utf-8")):
            assert text.count(told) == method == text.count("not of one method")
            assert ("Options are not recorded in all" in text) != options


def test_versions_of_several_sets_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = run(), run(dataset="b", site="b")
    one["versions"], other["versions"] = {"monai-histodiff": "1"}, {"monai-histodiff": "<2>"}
    main([str(path) for path in write(tmp_path, one, other)])
    told = "Runs of several versions of this program: 1, &lt;2&gt;."
    assert capsys.readouterr().out.count(told) == 1


@pytest.mark.parametrize("change", [{"labels": 10}, {"dataset": "b", "site": "b"}, {"draw": 1}])
def test_results_answer_one_question(change: dict[str, Any], tmp_path: Path) -> None:
    made = another({**run(**change), "foreign": {"sets": SETS}})
    told = "of evaluate.yaml and of verdict.json, the second in .*1.json': combine them apart"
    with pytest.raises(ValueError, match=told):
        read_results(write(tmp_path, run(), made))


def _trained(draw: int, *numbers: int) -> dict[str, Any]:
    """Results of trainings of these numbers, each with answers and an error of its own."""
    results = run(draw, seeds=1)
    for arm, (hits,) in results["hits"].items():
        results["hits"][arm] = [hits[4 * n :] + hits[: 4 * n] for n in numbers]
    results["arms"] = {
        arm: {metric: figures * len(numbers) for metric, figures in metrics.items()}
        | {"ece": [0.1 + 0.01 * n for n in numbers]}
        for arm, metrics in results["arms"].items()
    }
    return results


@pytest.mark.parametrize("second", [(2, 1, 0), (1,), (0, 1, 2, 3), (7, 8, 2)])
def test_a_training_that_is_in_two_draws_is_found(second: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must differ, got the same answers of arm C in draw 0"):
        read_results(write(tmp_path, _trained(0, 0, 1, 2), _trained(1, *second)))


def test_classifiers_that_answer_alike_may_be_others(tmp_path: Path) -> None:
    one, other = _trained(0, 0, 1, 2), _trained(1, 3, 4, 5)
    assert len(read_results(write(tmp_path, one, other))) == 2
    other["hits"] = one["hits"]
    assert len(read_results(write(tmp_path, one, other))) == 2, "their errors are not the same"
    for error in (0.11, 0.1104, None):
        one["arms"]["C"]["ece"][0] = other["arms"]["C"]["ece"][2] = error
        with pytest.raises(ValueError, match="must differ, got the same answers of arm C"):
            read_results(write(tmp_path, one, other))


def test_where_all_patches_are_labelled_nothing_is_drawn(tmp_path: Path) -> None:
    one, other = run(0, "all"), another(run(1, "all"))
    for results in (one, other):
        own = {"train": {"a": 30, "b": 20}, "labelled": {"a": 30, "b": 20}}
        results["dataset"] = {**results["dataset"], "counts": own}
    with pytest.raises(ValueError, match="of other labelled patches, got all 50 that train in bo"):
        read_results(write(tmp_path, one, other))
    other["dataset"]["counts"] = {**other["dataset"]["counts"], "labelled": {"a": 20, "b": 20}}
    assert len(read_results(write(tmp_path, one, other))) == 2
    other["dataset"]["counts"] = one["dataset"]["counts"]
    other["test"] = {**other["test"], "groups": [g + "b" for g in other["test"]["groups"]]}
    assert len(read_results(write(tmp_path, one, other))) == 2, "the split was drawn"


def test_two_sets_share_no_test_groups(tmp_path: Path) -> None:
    one, two = run(), run(dataset="copy.zip", site="b")
    assert len(read_results(write(tmp_path, one, two))) == 2
    names = list(dict.fromkeys(one["test"]["groups"]))
    two["test"]["groups"][7] = names[0]
    assert len(read_results(write(tmp_path, one, two))) == 2, "one name may be equal by chance"
    two["test"]["groups"] = list(one["test"]["groups"])
    shared = rf"must have test groups of their own, got {len(names)} in both of"
    with pytest.raises(ValueError, match=shared):
        read_results(write(tmp_path, one, two))


def test_one_set_under_two_names_counts_once(tmp_path: Path) -> None:
    """A zip and its folder, whose patches are groups of their own, named by their paths."""
    one, two = run(dataset="set.zip"), run(dataset="folder", site="b")
    one["dataset"]["pictures"], two["dataset"]["pictures"] = "1" * 64, "2" * 64
    assert len(read_results(write(tmp_path, one, two))) == 2
    two["dataset"]["pictures"] = "1" * 64
    with pytest.raises(ValueError, match=r"got the very same ones in 'set.zip' and 'folder' in"):
        read_results(write(tmp_path, one, two))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_figures_are_those_of_the_answers(metric: str, tmp_path: Path) -> None:
    results = run()
    results["arms"]["G"][metric] = [0.57, 0.58, 0.57]
    with pytest.raises(ValueError, match=rf"{metric} of arm G must be that of its answers"):
        read_results(write(tmp_path, results))
    results["arms"]["G"][metric] = results["arms"]["G"][metric][:2]
    with pytest.raises(ValueError, match="one figure for each of the 3 trainings in hits, got ot"):
        read_results(write(tmp_path, results))
    results = run()
    results["arms"]["H"] = results["arms"]["G"]
    with pytest.raises(ValueError, match="of the 0 trainings in hits, got others for arm H"):
        read_results(write(tmp_path, results))


def test_a_claim_for_new_draws_needs_three_of_them() -> None:
    def word(*sets: int) -> str:
        parts = [[run(i, dataset=str(n)) for i in range(count)] for n, count in enumerate(sets)]
        found = combine(parts[0]) if len(parts) == 1 else combine_sets(parts)
        assert found["G-C"]["low"] > 0 and bool(found["G-C"]["unmet"]) != (
            found["G-C"]["claim"] == "helps"
        )
        return str(found["G-C"]["claim"])

    assert [word(n) for n in (1, 2, 3)] == ["helps", "inconclusive", "helps"]
    assert [word(*n) for n in ((2, 2), (1, 3), (1, 1), (2, 4, 3))] == [
        *("helps", "inconclusive", "inconclusive", "helps"),
    ]


def test_a_claim_that_was_edited_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(gain=0.0)
    results["claims"]["G-C"]["claim"] = "helps"
    main([str(path) for path in write(tmp_path, results)])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| G-C")]
    assert line.endswith("| inconclusive |")


def test_a_run_without_a_comparison_is_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = another(run(1), claims={}, differences={}, arms={"C": run()["arms"]["C"]})
    alone["hits"] = {"C": alone["hits"]["C"]}
    main([str(path) for path in write(tmp_path, alone)])
    assert "| C | classical |" in capsys.readouterr().out
    page = tmp_path / "page.html"
    files = [str(path) for path in write(tmp_path, run(), alone)]
    main([*files, "--html", str(page)])
    assert "Not in every run, and so not combined: G-C, G-F." in capsys.readouterr().out
    assert page.is_file()
    with pytest.raises(SystemExit):
        main([*files, "--html", files[0]])
    assert "html must be another file than the results" in capsys.readouterr().err


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(results: dict[str, Any]) -> None:
        part = results
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("shortfalls", to=None), "shortfalls of results must be a list of texts, got None"),
        (_set("shortfalls", to="abc"), "shortfalls of results must be a list of texts, got 'abc'"),
        (_set("test", "groups", to=[None] * 400), "test#groups of results must be a list of te"),
        (_set("test", "labels", to=[True] * 400), "test#labels of results must be a list of who"),
        (_set("hits", "C", to=[1, 2, 3]), "hits of results must be a list of texts for each arm"),
        (_set("hits", to=[]), "hits of results must be a list of texts for each arm, got "),
        (_set("claims", to=[]), "claims of results must be a mapping for each comparison"),
        (_set("claims", "GC", to={}), "claims of results must be a mapping for each comparison"),
        (_set("settings", "labels_per_class", to=[5]), "settings#labels_per_class of results mu"),
        (_set("settings", "draw", to="1"), "settings#draw of results must be a whole number"),
        (_set("dataset", "path", to=None), "dataset#path of results must be text, got None"),
        (
            _set("dataset", "classes", to=5),
            "dataset#classes of results must be a list of texts, g",
        ),
        (_set("dataset", "classes", to="ab"), "dataset#classes of results must be a list of te"),
        (_set("arm_names", to=[1]), "arm_names of results must be text for each arm, got [1]"),
        (_set("arm_names", to={"C": 1}), "arm_names of results must be text for each arm, got"),
        (_set("versions", to=None), "versions of results must be a mapping, got None"),
        (_set("selection", to={"accepted": None}), "selection#accepted of results must be a wh"),
        (_set("differences", to={}), "differences must hold G-C, a claim, got none in"),
        (_set("floors", to={"mean": 0.5}), "floors of results must be a number for each metric o"),
        (_set("critic", to={"auc": "x"}), "critic of results must be a number for each metric, "),
        (_set("dataset", "counts", to={"train": 5}), "dataset#counts of results must be a whole"),
        (_set("arms", "C", to=[]), "arms of results must be a list of numbers for each metric"),
    ],
)
def test_results_of_another_shape_end_in_one_line(
    change: Callable[[dict[str, Any]], None],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = json.loads(json.dumps(run()))
    change(results)
    with pytest.raises(SystemExit):
        main([str(path) for path in write(tmp_path, results)])
    assert told in capsys.readouterr().err


def test_figures_that_there_are_not_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has no NaN: the area under the curve of a class without patches is ``null``."""
    results = json.loads(json.dumps(run()))
    results["arms"]["C"]["auc"] = [None, None, None]
    results["critic"] = {**results["floors"]["mean colour"], "auc": None}
    results["floors"]["mean colour"]["auc"] = None
    page = tmp_path / "page.html"
    main([*map(str, write(tmp_path, results)), "--html", str(page)])
    lines = capsys.readouterr().out.splitlines()
    for row in ("| C |", "| | mean colour |", "| | the critic |"):
        (line,) = [line for line in lines if line.startswith(row)]
        assert line.count("| – |") == 1 and page.is_file()


def test_the_version_is_that_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install keeps the metadata of the checkout that it was made from."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    assert describe_versions()["monai-histodiff"] == __version__


def recorded(name: str, **overrides: Any) -> dict[str, Any]:
    root = BUNDLES if name == "verdict" else BUNDLES / "histopathology_guidance"
    given = {"bundle_root": str(root), "device": "cpu", "initialize": [FOUND[name]]}
    files = config_files(BUNDLES, name)
    workflow = ConfigWorkflow(files, logging_file=False, **{**given, **overrides})
    return dict(workflow.initialize()[0])


FOUND = {
    name: f"$__import__('monai_histodiff.bundle.running').bundle.running.method_of('{name}')"
    for name in ("train", "evaluate", "verdict")
}
TOLD = {
    "train": {"batch_size": 9, "encodings": 2, "max_sources": 3, "pseudo_labels": False},
    "evaluate": {"test_fraction": 0.2, "batch_size": 9, "classifier_steps": 5},
    "verdict": {"test_fraction": 0.2, "synthetic_um_per_px": 2.0, "target_precision": 0.5},
}


@pytest.mark.parametrize("name", FOUND)
def test_every_option_of_the_method_is_recorded(name: str) -> None:
    usual = recorded(name)
    aside = {"seeds": [4, 5, 6], "draw": 7, "labels_per_class": 3, "output_dir": "elsewhere"}
    if name == "train":
        del aside["seeds"]
    assert recorded(name, **aside, num_workers=2) == usual
    for key, value in TOLD[name].items():
        other = recorded(name, **{key: value})
        assert other[f"{name}#{key}"] == value and usual[f"{name}#{key}"] != value
        assert {k for k in usual if usual[k] != other[k]} == {f"{name}#{key}"}
    assert {key.split("#")[1] for key in usual} - {*options_of(name)} <= {
        *("parts", "model.pt", "encoder.pt", "scatter.pt"),
        *("encoder, scatter.pt", "critic_encoder, scatter.pt"),
    }
    other = recorded(name, **{"flip#prob": 0.25})
    assert {k for k in usual if usual[k] != other[k]} == {f"{name}#parts"}


@pytest.mark.parametrize(
    ("name", "file", "changed"),
    [
        ("train", "model.pt", {"train#model.pt"}),
        ("train", "encoder.pt", {"train#encoder.pt"}),
        ("train", "scatter.pt", {"train#scatter.pt"}),
        ("evaluate", "encoder.pt", {"evaluate#encoder.pt"}),
        ("verdict", "encoder.pt", {"verdict#encoder", "verdict#critic_encoder"}),
        (
            "verdict",
            "scatter.pt",
            {"verdict#encoder, scatter.pt", "verdict#critic_encoder, scatter.pt"},
        ),
    ],
)
def test_every_file_of_weights_that_a_result_depends_on_is_recorded(
    name: str, file: str, changed: set[str], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for own in ("model.pt", "encoder.pt", "scatter.pt"):
        (models / own).write_bytes(own.encode())
    usual = recorded(name, ldm_dir=str(tmp_path))
    (models / file).write_bytes(b"another")
    other = recorded(name, ldm_dir=str(tmp_path))
    assert {k for k in usual if usual[k] != other[k]} == changed
    if file == "scatter.pt":
        (models / file).unlink()
        absent = recorded(name, ldm_dir=str(tmp_path))
        assert {k for k in usual if usual[k] != absent[k]} == changed


def test_without_a_config_nothing_is_recorded() -> None:
    assert method_of("train") == {}
