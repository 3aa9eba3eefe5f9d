"""The page of genesis_moe.studies.calibrate, from a record."""

from genesis_moe.studies.calibrate import tables


def run(arm, seed, tokens, ratio, active=0.75):
    return {
        "key": {"arm": arm, "active": active, "seed": seed, "tokens": tokens},
        "quality": {"ratio": ratio, "active": active},
        "report": {"active": active},
    }


LABELS = {"hamiltonian": "ours", "all-shared": "static"}
RUNS = [
    run("hamiltonian", 0, 100, 1.3),
    run("hamiltonian", 0, 200, 1.1),
    run("hamiltonian", 1, 200, 1.15),
    run("all-shared", 0, 100, 1.4),
    run("all-shared", 0, 200, 1.25),
    run("all-shared", 2, 200, 1.5),
]


def test_runs_with_fewer_tokens_are_left_out():
    for order in (RUNS, RUNS[::-1]):
        groups = tables._groups({"runs": order, "labels": LABELS})
        assert {key: sorted(one["quality"]["ratio"] for one in runs) for key, runs in groups.items()} == {
            (0.75, "hamiltonian"): [1.1, 1.15],
            (0.75, "all-shared"): [1.25, 1.5],
        }


def test_pairs_have_one_seed_and_one_number_of_tokens():
    pairs = tables._pairs({"runs": RUNS, "labels": LABELS})
    assert pairs[-1] == "| 75% | static | 0.880 |"
    fewer = [run("hamiltonian", 0, 200, 1.1), run("all-shared", 0, 100, 1.4)]
    assert tables._pairs({"runs": fewer, "labels": LABELS})[-1] == "|--:|---|---|"


def test_targets_of_time():
    measured = {
        what: {"dense": 1.0, "sparse": 2.0, "ratio": 1.5, "mlp_ratio": 1.7, "active": 0.5}
        for what in ("prefill", "decode")
    }
    one = {
        "key": {"active": 0.5, "tokens": 200},
        "active": 0.5,
        "measured": measured,
        "conversion_seconds": 330.0,
    }
    record = {"speed": {"rounds": 5, "threads": 2, "runs": [one]}}
    (line,) = tables._conversion(record)
    assert "missed (5.5 minutes of wall time with 200 tokens at 50% active, 2 threads)" in line
    assert "at least 1.70 times as fast; met (1.70)" in tables._speed(record)[-1]
    measured["decode"]["active"] = 0.4
    assert "at least 2.12 times as fast; missed (1.70)" in tables._speed(record)[-1]
    assert tables._conversion({}) == []
