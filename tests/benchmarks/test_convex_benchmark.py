"""The comparison on a problem that is easy enough for a test."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import convex
from p2ptrain import graphs


def test_all_methods_are_compared_in_a_table_a_file_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--nodes", "4", "--condition", "3", "--seeds", "1", "--graphs", "complete", "--draws", "9"]
    convex.main([*options, "--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")])
    written = json.loads((tmp_path / "c.json").read_text())
    cases = written["cases"]
    assert len(written["saved"]) == 9
    assert min(written["saved"]) >= 0.999, "optimal rates are never worse"
    methods = {"DADAO", "DADAO, one slow node", *convex.ROUNDS}
    assert [set(case["methods"]) for case in cases] == [methods, methods]
    for case in cases:
        for name in methods - {"D-PSGD"}:
            assert case["methods"][name]["gap at the end"] <= 1e-6, name
        slow = case["methods"]["DADAO, one slow node"]
        tracking = case["methods"]["gradient tracking"]
        (ratio,) = case["asked"].values()
        assert ratio == pytest.approx(4 * tracking["time to 0.0001"] / slow["time to 0.0001"])
    page = (tmp_path / "c.html").read_text()
    assert page.count("<figure") == 2 * 3
    assert all(f'data-node="{name}"' in page for name in methods)
    printed = capsys.readouterr().out
    assert "breast cancer" in printed
    assert "gradient tracking" in printed


def test_shards_of_the_problems_have_the_optimum_of_the_whole() -> None:
    for problem in convex.problems(nodes=5, condition=20):
        slopes = problem.gradients(problem.optimum.expand(5, -1))
        assert float(slopes.mean(0).norm()) < 1e-10
        assert float(slopes.norm(dim=1).min()) > 1e-3, "each alone would go elsewhere"


def test_what_was_never_met_is_none() -> None:
    looks = [convex.Look(1.0, 0, 0, 0.0), convex.Look(1e-5, 7, 14, 3.0)]
    assert convex.to_target(looks, 1e-4, "exchanges") == 14
    assert convex.to_target(looks, 1e-6, "time") is None


def test_rates_that_are_too_low_are_refused() -> None:
    (problem, _), graph = convex.problems(nodes=4, condition=5), graphs.make("ring", n=4)
    with pytest.raises(Exception, match="dadao would diverge"):
        convex.run_dadao(problem, graph, np.full(4, 0.1), seed=0)
