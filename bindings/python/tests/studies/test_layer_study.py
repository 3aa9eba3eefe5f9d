"""The timing of genesis_moe.studies.layer."""

from genesis_moe.studies import layer


def test_disturbed_cases_have_more_rounds(monkeypatch):
    counts = {"steady": 0, "disturbed": 0}

    def seconds(function):
        name = function()
        counts[name] += 1
        return 2.0 if name == "disturbed" and counts[name] == 2 else 1.0

    monkeypatch.setattr(layer, "seconds", seconds)
    steady = {"steady": lambda: "steady"}
    assert layer.in_turn(steady, 5) == {"steady": [1.0] * 5}
    both = layer.in_turn({**steady, "disturbed": lambda: "disturbed"}, 5)
    assert both == {"steady": [1.0] * 10, "disturbed": [1.0, 2.0] + [1.0] * 8}
