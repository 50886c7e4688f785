import json
from dataclasses import replace

from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.evaluation.results import EMBEDDING, POOLED, ProbeResult, results_to_json, summarise
from orchestrator.tracking.metrics import is_metric


def result(target: str, accuracy: float | None, named: bool = True, feature: str = POOLED) -> ProbeResult:
    scores = {} if accuracy is None else {"accuracy": Estimate(accuracy, accuracy - 0.125, accuracy + 0.125)}
    return ProbeResult("scenes", "linear_probe", target, feature, named, num_classes=4, scores=scores)


def test_metric_names_tell_set_probe_feature_target_and_score() -> None:
    assert result("shape", 0.5).metrics() == {
        "eval/scenes/linear_probe/shape/accuracy": 0.5,
        "eval/scenes/linear_probe/shape/accuracy/low": 0.375,
        "eval/scenes/linear_probe/shape/accuracy/high": 0.625,
    }
    assert "eval/scenes/linear_probe.embedding/shape/accuracy" in result("shape", 0.5, feature=EMBEDDING).metrics()
    scores = {"recall_at_1": Estimate(0.5, 0.4, 0.6)}
    found = ProbeResult("scenes", "retrieval", "image_to_text", EMBEDDING, True, num_classes=4, scores=scores)
    assert "eval/scenes/retrieval/image_to_text/recall_at_1" in found.metrics()
    assert all(is_metric(name) for name in [*found.metrics(), *result("shape", 0.5).metrics()])
    assert summarise([found]) == {}


def test_how_scores_came_about_is_a_metric_too() -> None:
    found = replace(result("shape", 0.5), chance=0.25, num_test=40, details={"chosen_c": 0.1})
    values = found.detail_metrics()
    prefix = "eval/scenes/linear_probe/shape/details"
    numbers = {"num_classes": 4.0, "num_test": 40.0, "chosen_c": 0.1, "chance": 0.25}
    assert values == {f"{prefix}/{name}": value for name, value in numbers.items()}
    assert all(is_metric(name) for name in values)
    assert result("shape", None).detail_metrics() == {}  # the probe does not apply


def test_the_summary_tells_named_from_unnamed_targets_and_leaves_out_what_does_not_apply() -> None:
    results = [result("shape", 0.5), result("color", 0.75), result("light", 0.25, named=False), result("x", None)]
    assert summarise(results) == {
        "eval/scenes/linear_probe/named/mean_accuracy": 0.625,
        "eval/scenes/linear_probe/unnamed/mean_accuracy": 0.25,
        "eval/scenes/linear_probe/all/mean_accuracy": 0.5,
    }


def test_results_come_back_from_json() -> None:
    results = [result("shape", 1 / 3), result("light", None, named=False)]
    document = json.loads(results_to_json(results))
    assert [ProbeResult.from_dict(values) for values in document["results"]] == results
    assert document["summary"] == summarise(results)


def test_few_shot_accuracies_have_means_of_their_own() -> None:
    scores = {f"accuracy_{shots}_shot": Estimate(shots / 8, 0, 1) for shots in (1, 4)}
    found = ProbeResult("scenes", "few_shot", "shape", POOLED, True, num_classes=4, scores=scores)
    assert summarise([found])["eval/scenes/few_shot/all/mean_accuracy_4_shot"] == 0.5
    assert found.accuracy is None


def test_a_number_that_is_not_finite_is_null_in_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = replace(result("shape", 0.5), scores={"accuracy": Estimate(float("nan"), 0.0, float("inf"))})
    document = json.loads(results_to_json([found]), parse_constant=refuse)
    assert document["results"][0]["scores"]["accuracy"] == {"value": None, "low": 0.0, "high": None}
    assert set(document["summary"].values()) == {None}
