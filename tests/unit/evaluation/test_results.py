import json

from orchestrator.evaluation.results import EMBEDDING, POOLED, ProbeResult, results_to_json, summarise


def result(target: str, accuracy: float | None, named: bool = True, feature: str = POOLED) -> ProbeResult:
    return ProbeResult("scenes", "linear_probe", target, feature, named, num_classes=4, accuracy=accuracy)


def test_metric_names_tell_set_probe_feature_and_target() -> None:
    assert result("shape", 0.5).metric_name() == "eval/scenes/linear_probe/shape/accuracy"
    assert result("shape", 0.5, feature=EMBEDDING).metric_name() == "eval/scenes/linear_probe.embedding/shape/accuracy"
    zero_shot = ProbeResult("scenes", "zero_shot", "shape", EMBEDDING, True, num_classes=4)
    assert zero_shot.metric_name() == "eval/scenes/zero_shot/shape/accuracy"


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
