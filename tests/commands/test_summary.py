from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page

from monai_histodiff.commands.summary import main
from monai_histodiff.evaluation.combining import (
    by_data_set,
    by_label_count,
    combine,
    combine_sets,
)
from monai_histodiff.evaluation.results_files import read_results
from monai_histodiff.evaluation.verdict import compare_arms
from monai_histodiff.report import summary as rendering


def to_markdown(results: list[dict[str, Any]]) -> str:
    by_labels = by_label_count(results)
    return rendering.to_markdown(
        by_labels, {labels: combine(runs) for labels, runs in by_labels.items()}, {}
    )


def to_html(results: list[dict[str, Any]], path: Path) -> Path:
    by_labels = by_label_count(results)
    return rendering.to_html(
        by_labels, {labels: combine(runs) for labels, runs in by_labels.items()}, {}, path
    )


def run(
    draw: int = 0,
    labels: int | str = 25,
    gain: float = 0.05,
    seeds: int = 3,
    dataset: str = "set.zip",
    site: str = "",
) -> dict[str, Any]:
    """Results of 400 test patches of 100 groups, on which arm G is right where C is, and on a
    share ``gain`` of each class besides.
    """
    scores = [0.5, 0.52, 0.54][:seeds]
    metrics = ("balanced_accuracy", "accuracy", "macro_f1", "auc", "ece", "worst_recall")
    rank = np.arange(400) // 2 * 67 % 200

    def hits(share: float) -> list[str]:
        return ["".join("1" if r < round(200 * share) else "0" for r in rank)] * seeds

    def figures(more: float) -> dict[str, list[float]]:
        right = hits(0.52 + more)[0].count("1") / 400
        found = dict.fromkeys(metrics, [score + more for score in scores])
        return {**found, **dict.fromkeys(("accuracy", "balanced_accuracy"), [right] * seeds)}

    found: dict[str, Any] = {
        "arms": {"C": figures(0), "G": figures(gain)},
        "arm_names": {"C": "classical", "G": "selected"},
        "claims": dict.fromkeys(("G-C", "G-F"), {}),
        "hits": {"C": hits(0.52), "F": hits(0.52), "G": hits(0.52 + gain)},
        "test": {
            "labels": [i % 2 for i in range(400)],
            "groups": [f"{site}{i // 4:03}" for i in range(400)],
        },
        "shortfalls": [],
        "dataset": {"path": dataset},
        "floors": {"mean colour": dict.fromkeys(metrics, 0.25)},
        "selection": {"accepted": 7, "candidates": 60},
        "settings": {"labels_per_class": labels, "draw": draw},
        "seeds": list(range(seeds)),
    }
    rows = combine([found])
    keys = ("mean", "low", "high")
    found["differences"] = {
        name: {"balanced_accuracy": {key: row[key] for key in keys}} for name, row in rows.items()
    }
    found["claims"] = {
        name: {key: row[key] for key in ("p", "p_holm", "claim")} for name, row in rows.items()
    }
    return found


def told(gain: float = 0.05, *others: float) -> str:
    """The change of G against C, in words."""
    row = combine([run(i, gain=g) for i, g in enumerate((gain, *others))])["G-C"]
    mean, low, high = (f"{100 * row[key]:+.1f}".replace("-", "−") for key in KEYS)
    return f"{mean} ({low} to {high})"


KEYS = ("mean", "low", "high")


def write(folder: Path, *runs: dict[str, Any]) -> list[Path]:
    paths = [folder / f"{i}.json" for i in range(len(runs))]
    for path, results in zip(paths, runs, strict=True):
        path.write_text(json.dumps(results))
    return paths


def another(run: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The same with answers of another draw: those of the next group each."""
    hits = {arm: [h[4:] + h[:4] for h in runs] for arm, runs in run["hits"].items()}
    return {**run, "hits": hits, **changed}


def test_results_without_a_comparison_are_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a table with a head and no rows."""
    alone = {"arms": {"C": run()["arms"]["C"]}, "claims": {}, "differences": {}}
    none = "Nothing is compared: no two arms of one comparison, as G and C are, are in all of"
    paths = write(tmp_path, {**run(), **alone})
    main([str(paths[0]), "--html", str(tmp_path / "page.html")])
    told = capsys.readouterr().out
    assert none in told and "| difference |" not in told and "\n\n\n" not in told
    assert none in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "| difference |" in to_markdown([run()]) and none not in to_markdown([run()])


def test_sets_of_digests_of_their_own_stand_side_by_side(tmp_path: Path) -> None:
    sets = {"one.zip": "1", "two.zip": "2"}
    runs = [
        {**run(site=name), "dataset": {"path": name, "sha256": digit * 64}}
        for name, digit in sets.items()
    ]
    found = read_results(write(tmp_path, *runs))
    assert [results["dataset"]["path"] for results in found] == list(sets)


def test_draws_that_differ_widen_the_interval() -> None:
    alike = combine([run(i, gain=0.05) for i in range(3)])["G-C"]
    spread = combine([run(i, gain=g) for i, g in enumerate((-0.05, 0.05, 0.15))])["G-C"]
    assert alike["mean"] == pytest.approx(0.05) == spread["mean"]
    assert alike["claim"] == "helps" and spread["claim"] == "inconclusive"
    assert spread["low"] < 0.05 - 4.303 * 0.1 / 3**0.5 * 0.7, "Student's t of two degrees, nearly"
    assert alike["p_holm"] == pytest.approx(2 * alike["p"])


def test_more_draws_do_not_reduce_the_noise_of_shared_test_groups() -> None:
    one, nine = (combine([run(i) for i in range(count)])["G-C"] for count in (1, 9))
    assert nine["high"] - nine["low"] == pytest.approx(one["high"] - one["low"])
    apart = combine([run(i, site=f"site {i} ") for i in range(9)])["G-C"]
    width = apart["high"] - apart["low"]
    assert width < 0.5 * (one["high"] - one["low"]), "new groups in each draw are new evidence"


def test_one_draw_repeats_its_own_report() -> None:
    """Else a page and a table of the same run could fall on two sides of zero."""
    labels = np.arange(240) // 2 % 2
    rng, arms = np.random.default_rng(0), {}
    for arm, accuracy in (("C", 0.6), ("F", 0.62), ("G", 0.7)):
        right = rng.random((3, 240)) < accuracy
        arms[arm] = [np.where(np.eye(2)[labels] == r[:, None], 0.9, 0.1) for r in right]
    groups = [f"patient {i // 6}" for i in range(240)]
    own = compare_arms(arms, labels, groups, ["a", "b"], ["G-C", "G-F"])
    found = combine([json.loads(json.dumps({**run(), **own}))])
    for name in ("G-C", "G-F"):
        assert {key: found[name][key] for key in KEYS} == pytest.approx(
            own["differences"][name]["balanced_accuracy"]
        )
        for key in ("p", "p_holm", "claim"):
            expected = own["claims"][name][key]
            assert found[name][key] == (expected if key == "claim" else pytest.approx(expected))


def test_a_run_that_may_claim_nothing_spoils_the_claim() -> None:
    short = run(1)
    short["shortfalls"] = ["A claim needs at least 3 seeds, got 2: ..."]
    assert combine([run(), run(1), run(2)])["G-C"]["claim"] == "helps"
    found = combine([run(), short, run(2)])["G-C"]
    assert found["claim"] == "inconclusive" and found["unmet"] == short["shortfalls"]


def test_the_mean_over_data_sets() -> None:
    first = [run(gain=0.1), run(1, gain=0.1)]
    sets = [first, [run(gain=0.04, dataset="b.zip"), run(1, gain=0.02, dataset="b.zip")]]
    found, alone = combine_sets(sets)["G-C"], combine(sets[0])["G-C"]
    assert found["mean"] == pytest.approx(0.065) and found["claim"] == "helps"
    assert found["high"] - found["low"] < alone["high"] - alone["low"]


def test_a_comparison_that_one_draw_lacks_is_left_out_and_named(tmp_path: Path) -> None:
    other = run(1)
    del other["claims"]["G-F"]
    assert list(combine([run(0), other])) == ["G-C"]
    assert "Not in every run, and so not combined: G-F." in to_markdown([run(0), other])
    page = Page(to_html([run(0), other], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Not in every run, and so not combined: G-F." in page.text
    assert "Not in every run" not in to_markdown([run(0), run(1)])


def test_a_zip_and_its_folder_are_one_data_set(tmp_path: Path) -> None:
    data = [{"path": name, "sha256": "1" * 64} for name in ("set.zip", "set")]
    runs = [{**run(), "dataset": data[0]}, another(run(1), dataset=data[1])]
    found = read_results(write(tmp_path, *runs))
    assert list(by_data_set(found)) == ["set.zip"] and len(by_data_set(found)["set.zip"]) == 2


def test_label_counts_are_numbers_whatever_their_form() -> None:
    given = ["all", "10%", "5%", 25, "5.0%", 5, "5", "2.5%"]
    runs = [{"settings": {"labels_per_class": n}} for n in given]
    found = {name: len(part) for name, part in by_label_count(runs).items()}
    assert found == {"5": 2, "25": 1, "2.5%": 1, "5%": 2, "10%": 1, "all": 1}
    assert list(found) == ["5", "25", "2.5%", "5%", "10%", "all"]


def test_markdown_has_every_label_count_arm_and_difference(tmp_path: Path) -> None:
    results = read_results(
        write(tmp_path, run(0, "all"), run(0, 25), another(run(1, 25)), run(0, 5))
    )
    text = to_markdown(results)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# set.zip",
        "## 5 labels per class (1 draw, 3 seeds each)",
        "## 25 labels per class (2 draws, 3 seeds each)",
        "## all labels per class (1 draw, 3 seeds each)",
    ]
    assert (
        text.count("| G | selected | 57.0\u00a0±\u00a0") == 3
        and text.count("| | mean colour | 25.0") == 3
        and "the critic" not in text
    )
    first = min(results, key=lambda found: found["settings"]["labels_per_class"] != 5)
    first["critic"] = dict.fromkeys(first["arms"]["C"], 0.4)
    assert to_markdown(results).count("| | the critic | 40.0 |") == 1
    assert "| G-C | +5.0 (" in text and "Accepted candidates, by draw: 7 of 60, 7 of 60." in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1, "all rows of a table have its columns"


def test_an_arm_that_some_runs_lack_says_of_how_many_it_is() -> None:
    """Its mean is of other draws than that of the arm above it."""
    full, short = run(0), run(1)
    full["arms"]["S"], full["arm_names"]["S"] = full["arms"]["C"], "shuffled"
    text = to_markdown([full, short])
    assert "| S | shuffled (1 of 2 runs) | 52.0" in text and "| C | classical | 52.0" in text


def test_the_command_prints_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write(tmp_path, run(0, 5), run(0, 25))
    main([*map(str, paths), "--html", str(tmp_path / "page.html")])
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == to_markdown(read_results(paths))
    assert ("h2", "G against C") in page.headings
    assert any(
        plot.get("aria-label", "").startswith("5 labels per class: +5.0 (")
        for plot in page.all("svg")
    )
    assert page.source.count('<li class="row') == 4 and "57.0" in page.text


def test_the_sentence_comes_first(tmp_path: Path) -> None:
    """One claim for all label counts is the page's; else the page says that it depends."""
    results = [run(0, 5), run(0, 25)]
    page = Page(to_html(results, tmp_path / "page.html").read_text(encoding="utf-8"))
    words = f"balanced accuracy changed with 5 labels per class by {told()} points; with"
    assert (
        f"Evaluations on set.zip Helps With the selected synthetic patches, {words}" in page.text
    )
    results[1] = run(0, 25, gain=0)
    page = Page(to_html(results, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "It depends on the labels" in page.text and "points: helps; with 25" in page.text


def test_a_label_count_that_was_not_tested_decides_nothing(tmp_path: Path) -> None:
    """What limits one count is said of that one."""
    results = [run(0, 5), run(0, 25)]
    results[1]["shortfalls"] = ["A claim needs ..."]
    page = Page(to_html(results, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Evaluations on set.zip Helps With" in page.text and "depends" not in page.text
    assert "points: helps; with 25" in page.text and "points: not tested." in page.text
    assert "With 25 labels per class: Nothing is claimed. A claim needs ..." in page.text
    results[0]["shortfalls"] = results[1]["shortfalls"]
    page = Page(to_html(results, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Evaluations on set.zip Inconclusive With" in page.text and ": not" not in page.text
    assert "class: Nothing is claimed" not in page.text, "of all of them, without a name"


def test_each_draw_counts_the_same_whatever_its_seeds(tmp_path: Path) -> None:
    """As in the difference, so that it is that of the two means above it."""
    many = another(run(1, gain=0.1))
    for part in ("hits", "arms"):
        for arm, found in many[part].items():
            more = {m: v * 4 for m, v in found.items()} if part == "arms" else found * 4
            many[part][arm] = more
    text = to_markdown([run(0), many])
    assert "| G | selected | 59.5" in text and "| C | classical | 52.0" in text
    assert "| G-C | +7.5 (" in text
    page = to_html([run(0), many], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "59.5" in page


def test_every_run_is_listed(tmp_path: Path) -> None:
    page = Page(to_html([run(0, 5), run(1, 5, gain=0.1)], tmp_path / "p.html").read_text())
    assert page.table("Every run") == [
        [f"5 labels per classdraw {draw}", "3", change, "7 of 60", "11.7 %"]
        for draw, change in enumerate([told(0.05), told(0.1)])
    ]


def test_a_page_of_several_data_sets(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        run(0, 5),
        another(run(1, 5)),
        run(0, 10, gain=0.02),
        run(0, 5, gain=0.1, dataset="there/other.zip", site="b"),
    )
    page = tmp_path / "page.html"
    main([*map(str, files), "--html", str(page)])
    shown = Page(page.read_text(encoding="utf-8"))
    for title in ("Evaluations on 2 data sets", "G against C", "G against F", "Every arm"):
        assert title in [text for _, text in shown.headings]
    labels = [plot.get("aria-label", "") for plot in shown.all("svg")]
    rows = [label for label in labels if label.endswith(" points")]
    across = combine_sets([[run(0, 5), run(1, 5)], [run(0, 5, 0.1, dataset="o", site="b")]])
    mean = round(100 * across["G-C"]["mean"], 1)
    assert [label.partition(": ")[0] for label in rows[:4]] == [
        "set.zip, 5 labels per class, 2 draws",
        "set.zip, 10 labels per class, 1 draw",
        "other.zip, 5 labels per class, 1 draw",
        "Mean of 2 sets, 5 labels per class",
    ]
    assert (
        mean == 7.5
        and f": +{mean} (" in rows[3]
        and f"labels per class by +{mean} (" in (shown.text)
    )
    least = "Nothing is claimed. A claim needs at least"
    place = "5 labels per class"
    assert f"set.zip, {place}: {least} 3 draws of the labelled patches, got 2: how" in shown.text
    assert (
        f"sets, {place}: {least} 2 draws of the labelled patches of every data set, got"
        in shown.text
    )
    assert "nor compared. " in shown.text and "set.zip, other.zip:" not in shown.text
    assert shown.table("Balanced accuracy, in %") == [
        ["set.zip5 labels per class, 2 draws", "52.0 ± 0.0", "57.0 ± 0.0"],
        ["set.zip10 labels per class, 1 draw", "52.0 ± 0.0", "54.0 ± 0.0"],
        ["other.zip5 labels per class, 1 draw", "52.0 ± 0.0", "62.0 ± 0.0"],
    ]


def test_label_counts_of_two_sets_are_matched_by_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, run(0, "5%"), run(0, "5.0%", dataset="other.zip", site="b"))
    main([*map(str, files), "--html", str(tmp_path / "page.html")])
    assert "## 5% labels per class\n\n| difference" in capsys.readouterr().out
    assert "Mean of 2 sets" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_data_sets_without_a_common_label_count_have_no_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, run(0, 5), run(0, 10, dataset="other.zip", site="b"))
    page = tmp_path / "page.html"
    main([*map(str, files), "--html", str(page)])
    text = Page(page.read_text(encoding="utf-8")).text
    none = "There is no such mean here: no label count is in all of the data sets."
    assert none in text and capsys.readouterr().out.endswith(f"{none}\n")
    assert "Mean of" not in text and "in the mean over the data sets" not in text
    assert "Not in every run" not in text


def test_a_page_of_several_data_sets_names_what_one_of_them_lacks(tmp_path: Path) -> None:
    other = run(0, 5, dataset="other.zip", site="b")
    del other["claims"]["G-F"], other["differences"]["G-F"]
    page = tmp_path / "page.html"
    main([*map(str, write(tmp_path, run(0, 5), other)), "--html", str(page)])
    text = Page(page.read_text(encoding="utf-8")).text
    assert "Not in every run, and so not combined: G-F." in text


def test_foreign_text_stays_in_its_cell(tmp_path: Path) -> None:
    evil = "<script>x</script>|\n\x1b[31m`*y*"
    results = [run(0, 5), run(0, evil)]
    for each in results:
        each["dataset"]["path"] = each["arm_names"]["G"] = evil
        each["floors"] = {evil: each["floors"]["mean colour"]}
    text = to_markdown(results)
    safe = "&lt;script&gt;x&lt;/script&gt;\\| �\\[31m\\`\\*y\\*"
    assert "<" not in text and "\x1b" not in text and text.startswith(f"# {safe}\n")
    assert text.count(f"| G | {safe} | ") == text.count(f"| | {safe} | ") == 2
    Page(to_html(results, tmp_path / "page.html").read_text(encoding="utf-8"))


class Console(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_file_gets_utf_8_and_a_console_what_it_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    (path,) = write(tmp_path, run(0, 5, gain=-0.05))
    written = {}
    for kind in (io.TextIOWrapper, Console):
        stream = kind(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            main([str(path)])
        stream.flush()
        written[kind] = stream.buffer.getvalue()
    assert "| −5.0 (" in written[io.TextIOWrapper].decode("utf-8")
    shown = written[Console].decode(encoding)
    assert f"| {'−' if encoding == 'utf-8' else '?'}5.0 (" in shown


def test_learning_curves_stand_at_their_values(tmp_path: Path) -> None:
    results = [run(0, 5, gain=0.1), run(0, 10, gain=0.04), run(0, 50, gain=-0.02)]
    page = to_html(results, tmp_path / "page.html").read_text()
    figure = page.split('<svg class="curves"')[1].split("</svg>")[0]
    assert (
        "Balanced accuracy, in % at 5, 10, 50. C: 52.0, 52.0, 52.0; G: 62.0, 56.0, 50.0" in figure
    )
    lines = dict(
        (re.findall(r">([^<>]+)</text>", part)[0], re.findall(r'cx="(.*?)%" cy="(.*?)%"', part))
        for part in re.findall(r'<g class="main">(.*?)</g>', figure, re.S)
    )
    ticks = re.findall(r'x="6%" y="(.*?)%" dy="4">(.*?)</text>', figure)
    heights, values = np.array(ticks, float).T
    assert len(ticks) >= 3 and (np.diff(values) > 0).all() and (np.diff(heights) < 0).all()
    below = re.findall(r'<text x="(.*?)%" y="99%">(.*?)</text>', figure)
    assert [label for _, label in below] == ["5", "10", "50"]
    for name, shown in {"C": [52, 52, 52], "G": [62, 56, 50]}.items():
        places = np.array(lines[name], float)
        assert np.allclose(places[:, 0], [float(x) for x, _ in below])
        assert np.allclose(
            np.polyval(np.polyfit(heights, values, 1), places[:, 1]), shown, atol=0.05
        )
    assert 'class="curves"' not in to_html(results[:1], tmp_path / "one.html").read_text()


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "at least one results.json is needed, got none"),
        (
            [run(), run()],
            "each draw must occur once, got draw 0 with 25 labels per class of set.zip twice",
        ),
        (
            [{**run(), "hits": {**run()["hits"], "G": ["01"]}}],
            "hits must be one digit, 0 or 1, for each of the 400 test patches, got 2 char",
        ),
        (
            [{**run(), "hits": {"C": run()["hits"]["C"]}}],
            "hits must be there for both arms of G-C, got none in .*0.json",
        ),
        (
            [{**run(), "test": {"labels": [0, 1], "groups": ["a"]}}],
            "each test patch must have a label and a group, got 2 labels and 1 groups in",
        ),
        (
            [run(), run(1)],
            "draws must differ, got the same answers of arm C in draw 0 and in draw 1 of 'set.z",
        ),
        (
            [
                {**run(), "dataset": {"path": name, "sha256": "1" * 64}}
                for name in ("one.zip", "two.zip")
            ],
            "each draw must occur once, got draw 0 with 25 labels per class of one.zip twice",
        ),
        (
            [
                another(run(i), dataset={"path": "set.zip", "classes": classes})
                for i, classes in enumerate((["a", "b"], ["a", "c"]))
            ],
            r"must have the same classes, got \['a', 'b'\] and \['a', 'c'\] in .*1.json",
        ),
        (
            [
                another(run(i), settings={"labels_per_class": 25, "draw": i, "quota": 5 + i})
                for i in range(2)
            ],
            "must have the same settings, got quota 5 and 6 in .*1.json': combine them apart",
        ),
        (
            [run(), {**another(run(1)), "foreign": {}}],
            "must answer one question, got those of evaluate.yaml and of verdict.json, the second",
        ),
        (
            [{**run(), "test": {**run()["test"], "labels": [-1, 1] * 200}}],
            "test labels must be class indices from 0 to 399, got others in",
        ),
        (
            [{**run(), "dataset": {"path": "set.zip", "classes": ["a"]}}],
            "test labels must be class indices from 0 to 0, got others in",
        ),
        (
            [{k: v for k, v in run().items() if k != "hits"}],
            "results must hold hits, got none in .*0.json': run the evaluation again",
        ),
        (
            [{k: v for k, v in run().items() if k != "claims"}],
            "results must hold claims, got none in .*0.json",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(
    tmp_path: Path, runs: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_results(write(tmp_path, *runs))


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, run())
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match="must be whole JSON, got .*: run the evaluation again"):
        read_results([path])


def test_several_data_sets_are_printed_one_by_one_and_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run(0, 5, gain=0.1, dataset="b.zip", site="b")
    paths = write(tmp_path, run(0, 5), other, run(0, 25))
    main([str(path) for path in paths])
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.startswith("# ")]
    assert headings == ["# set.zip", "# b.zip", "# 2 data sets"]
    last = text.split("# 2 data sets")[1]
    assert "## 5 labels" in last and "## 25" not in last and "| G-C | +7.5 (" in last


def test_an_interval_that_is_not_known_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [run(0, 5), run(0, 5, gain=0.1, dataset="b.zip", site="b")]
    for results in both:
        results["test"]["groups"] = [results["test"]["groups"][0]] * 400
    main([str(path) for path in write(tmp_path, *both)])
    text = capsys.readouterr().out
    assert text.count("| G-C | ") == 3 and text.count("(no interval)") == 6 and "nan" not in text


def test_a_missing_file_ends_the_command_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "none.json")])
    assert stop.value.code == 1 and capsys.readouterr().err.startswith(
        "results must be a file, got "
    )
