"""A dense model made sparse: what is kept, what is counted, what is refused, what survives a kill."""

from __future__ import annotations

import copy
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import genesis_moe as gm
from genesis_moe.calibration import command, perceptrons
from genesis_moe.calibration import distill as distillation
from genesis_moe.calibration.cloze import questions, score
from genesis_moe.calibration.clusters import balanced
from genesis_moe.calibration.convert import _ridge, convert
from genesis_moe.calibration.layer import SparseMLP
from genesis_moe.calibration.options import CalibrationOptions
from genesis_moe.calibration.shares import allocate
from genesis_moe.calibration.stream import LayerInput

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
}  # fmt: skip
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3Text")


class Letters:
    """A tokenizer of a token a character."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 96 for letter in text]}

    def save_pretrained(self, folder: Path) -> None:
        (Path(folder) / "letters.txt").write_text("a token a character")


def words(seed: int, count: int = 12) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice("abcde fgh\n") for _ in range(300)) for _ in range(count)]


def make(family: str = "Llama", **changes: Any) -> Any:
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    name = {"Gemma3Text": "Gemma3ForCausalLM"}.get(family, f"{family}ForCausalLM")
    return getattr(transformers, name)(config).eval()


def calibrated(model: Any, texts: Any = None, **options: Any) -> gm.CalibrationReport:
    wanted = {"active": 0.6, "length": 32, "tokens": 2048, "router_dim": 8} | options
    return gm.calibrate(model, words(0) if texts is None else texts, tokenizer=Letters(), **wanted)


IDS = torch.arange(24)[None] * 7 % 96


def given(x: torch.Tensor) -> LayerInput:
    return LayerInput(x, torch.randn_like(x), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_convert_save_load_and_generate(family: str, tmp_path: Path) -> None:
    model = make(family)
    report = calibrated(model, shared=0.25, held_out={"other": words(1)}, held_out_tokens=128)
    assert abs(report.active - 0.6) < 0.05
    assert report.quality is not None and 0.5 < report.quality["ratio"] < 2
    wanted = model(IDS).logits
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert sum(isinstance(m, SparseMLP) for m in loaded.modules()) == 2
    torch.testing.assert_close(loaded(IDS).logits, wanted, rtol=0, atol=0)
    for router in (layer.mlp.router for layer in loaded.model.layers):
        assert int(router.counts.abs().sum()) == 0 and int(router.tokens) == 0
    # Prefill and decode with a cache equal all at once.
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached, whole = (loaded.generate(IDS, use_cache=use, **settings) for use in (True, False))
    assert cached.tolist() == whole.tolist()


def test_all_experts_are_the_dense_model() -> None:
    model = make()
    wanted = model(IDS).logits
    one = perceptrons.find(model)[0]
    x = torch.randn(256, 32)
    with torch.no_grad():
        dense = one.module(x)
        options = CalibrationOptions(active=1.0, shared=0.25, router_dim=8, compensator="none")
        plain = convert(one, given(x), 1.0, options)
        plain.module.router.centroids.zero_()
        plain.module.router.bias[:-1] = plain.module.router.bias[-1] - 1.0
        torch.testing.assert_close(plain.module(x), dense, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model(IDS).logits, wanted)


def test_experts_chosen_are_those_above_the_threshold() -> None:
    one = perceptrons.find(make())[0]
    x = torch.randn(512, 32)
    with torch.no_grad():
        layer = convert(one, given(x), 0.5, CalibrationOptions(shared=0.25, router_dim=8))
        router = layer.module.router
        routing = router(x)
        logits = x @ router.projection.T @ router.centroids[:-1].T + router.bias[:-1]
    threshold = float((router.bias[-1] - router.gap).detach())
    clear = (logits - threshold).abs() > 1e-3
    chosen = torch.zeros(512, layer.shape.num_experts + 2).scatter(1, routing.index, 1.0)[:, :-2] > 0
    assert (chosen == (logits > threshold))[clear].all()
    counts = chosen.sum(1).float()
    assert counts.std() > 0.5, "tokens should differ in their experts"
    assert abs(float(counts.mean()) - layer.shape.experts_for(0.5)) < 0.5


def test_ridge_finds_a_linear_target() -> None:
    x = torch.randn(2000, 16, dtype=torch.float64)
    target = x @ torch.randn(16, 4, dtype=torch.float64) @ torch.randn(4, 12, dtype=torch.float64) + 3
    router = _ridge(x, target, 4, 6.0)
    assert float((router.logits(x) - target).abs().max()) < 0.05 * float(target.std())
    assert abs(float((router.logits(x) >= router.threshold).sum(1).double().mean()) - 6.0) < 0.01


def test_clusters_are_balanced_and_find_groups() -> None:
    groups = torch.eye(6).repeat_interleave(8, dim=0) + 0.05 * torch.randn(48, 6)
    order = torch.randperm(48)
    features = torch.nn.functional.normalize(groups[order], dim=1)
    best = max(
        sum(
            len(set((order[c] // 8).tolist())) == 1
            for c in balanced(features, 6, torch.Generator().manual_seed(s))
        )
        for s in range(4)
    )
    found = balanced(features, 6, torch.Generator().manual_seed(0))
    assert found.shape == (6, 8) and sorted(found.flatten().tolist()) == list(range(48))
    assert best >= 4


@pytest.mark.parametrize(
    "control",
    [
        {"experts": 0},
        {"experts": 0, "score": "fluctuation", "compensator": "bias"},
        {"router": "oracle"},
        {"router": "representative"},
        {"router": "random"},
        {"allocation": "uniform", "target": "layer", "shared": 0.25},
    ],
)
def test_controls(control: dict[str, Any]) -> None:
    report = calibrated(make(), held_out={"other": words(1)}, held_out_tokens=128, **control)
    assert report.quality is not None and report.active < 0.65
    assert all(0 <= layer.error < 1 for layer in report.layers)


def test_oracle_loses_less_than_the_ridge_router() -> None:
    one = perceptrons.find(make())[0]
    x = torch.randn(4096, 32)
    errors = {}
    with torch.no_grad():
        for router in ("oracle", "ridge"):
            options = CalibrationOptions(shared=0.25, router_dim=16, router=router, compensator="none")
            errors[router] = convert(one, given(x), 0.5, options).error
    assert errors["oracle"] < errors["ridge"]


def test_one_token_is_decoded_as_among_others() -> None:
    model = make()
    calibrated(model, shared=0.25)
    layer = model.model.layers[0].mlp
    x = torch.randn(5, 32)
    with torch.no_grad():
        wanted = layer(x)
        for _ in range(2):
            for row in range(5):
                found = layer(x[None, row : row + 1])
                assert found.shape == (1, 1, 32)
                torch.testing.assert_close(found[0], wanted[row : row + 1], rtol=0, atol=0)
        assert layer.router.last_routing.index.shape[0] == 1
        # Parameters that move, change or become less precise are seen.
        layer.down_proj.mul_(2)
        layer.shared_down_proj = torch.nn.Parameter(2 * layer.shared_down_proj)
        layer.bias.mul_(2)
        torch.testing.assert_close(layer(x[:1]), 2 * wanted[:1])
        layer.bfloat16()
        torch.testing.assert_close(layer(x[:1].bfloat16()), layer(x.bfloat16())[:1], rtol=0.02, atol=1e-3)
    copied = copy.deepcopy(layer).float()
    assert copied(x[:1]).requires_grad  # with gradients the usual way


def test_shares_follow_importance_and_keep_the_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    importances = [scale * torch.rand(64, generator=draw) for scale in (1.0, 0.1, 10.0)]
    for active in (0.3, 0.5, 0.8):
        found = allocate(importances, active, [0.5 * active] * 3)
        assert sum(found) / 3 == pytest.approx(active, abs=1e-3)
        assert found[1] <= found[0] <= found[2] <= 1.0 and min(found) >= 0.5 * active - 1e-6
    with pytest.raises(gm.InvalidArgumentError, match=r"active: 0\.1"):
        allocate(importances, 0.1, [0.2] * 3)


def test_following_the_dense_stream_loses_less() -> None:
    torch.manual_seed(3)
    state = make(num_hidden_layers=4).state_dict()
    errors = {}
    for target in ("stream", "layer"):
        model = make(num_hidden_layers=4)
        model.load_state_dict(state)
        dense = copy.deepcopy(model)
        calibrated(model, target=target, experts=0, tokens=4096)
        ids = torch.tensor([Letters()(text)["input_ids"][:64] for text in words(5)])
        states = [one.model(ids).last_hidden_state for one in (model, dense)]
        errors[target] = float((states[0] - states[1]).detach().square().mean())
    assert errors["stream"] < errors["layer"]


def test_cloze_asks_for_words() -> None:
    ids = torch.randint(0, 20, (2, 80), generator=torch.Generator().manual_seed(0))
    asked = questions(ids, lambda token: token >= 10)
    assert len(asked) > 20
    for window, position, answer, *wrong in asked.tolist():
        assert int(ids[window, position + 1]) == answer and position >= 31
        assert len({answer, *wrong}) == 4 and min(wrong) >= 10
    certain = torch.nn.functional.one_hot(ids[0, 1:], 20).float()
    here = asked[asked[:, 0] == 0]
    assert score(certain, here) == len(here) and score(-certain, here) == 0


def test_distillation_brings_the_model_nearer_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    model = make(initializer_range=0.2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"active": 0.4, "distill_minutes": 1.0, "distill_rate": 3e-3}
    ticks = itertools.count()
    # Time stands still but for the steps: a step is a fortieth of the time.
    monkeypatch.setattr(distillation._Clock, "minutes", lambda clock: clock._spent + next(ticks) / 40)
    report = calibrated(model, **options)
    assert report.distillation is not None
    kl = report.distillation["kl"]
    assert len(kl) == report.distillation["steps"] == 40
    assert sum(kl[-8:]) < 0.8 * sum(kl[:8])
    assert "distilled for" in report.page()
    # Killed half way, the same call goes on from what was saved.
    killed = make(initializer_range=0.2)
    killed.load_state_dict(state)
    monkeypatch.setattr(distillation, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(distillation._Clock, "minutes", stopping_after(20))
    with pytest.raises(KeyboardInterrupt):
        calibrated(killed, work=tmp_path / "work", **options)
    assert (tmp_path / "work" / "distillation.pt").exists()
    assert all(torch.equal(value, state[name]) for name, value in killed.state_dict().items())
    ticks = itertools.count()
    monkeypatch.setattr(distillation._Clock, "minutes", lambda clock: clock._spent + next(ticks) / 40)
    resumed = calibrated(killed, work=tmp_path / "work", **options)
    assert resumed.distillation is not None and resumed.distillation["kl"][:5] == kl[:5]


def stopping_after(steps: int) -> Any:
    ticks = itertools.count()

    def minutes(clock: Any) -> float:
        if (now := next(ticks)) > steps:
            raise KeyboardInterrupt
        return float(clock._spent) + now / 80  # a step asks twice: for its rate and when it saves

    return minutes


def test_report_is_json_and_a_page(tmp_path: Path) -> None:
    report = calibrated(make(), held_out={"other": words(1)}, held_out_tokens=128)
    report.save(tmp_path)
    saved = json.loads((tmp_path / "calibration.json").read_text())
    assert saved["active"] == report.active and saved["energy"]["source"] in gm.options.SOURCES
    page = (tmp_path / "calibration.md").read_text()
    assert "layers.1.mlp" in page and "| other |" in page


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genesis_moe.calibration import conversion

    torch.manual_seed(1)
    model = make()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    whole = make()
    whole.load_state_dict(state)
    calibrated(whole)
    calls = []

    def killed(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return convert(*arguments)

    monkeypatch.setattr(conversion, "convert", killed)
    with pytest.raises(KeyboardInterrupt):
        calibrated(model, work=tmp_path / "work")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["layer-0000.pt"]
    calibrated(model, work=tmp_path / "work")
    assert len(calls) == 3  # only the second layer was converted again
    torch.testing.assert_close(model(IDS).logits, whole(IDS).logits, rtol=0, atol=0)
    with pytest.raises(gm.InvalidArgumentError, match="another model, text or other options"):
        calibrated(make(), work=tmp_path / "work", active=0.7)


def tied(model: Any) -> None:
    first, second = (layer.mlp for layer in model.model.layers)
    second.up_proj.weight = first.up_proj.weight


def quantised(model: Any) -> None:
    for layer in model.model.layers:
        weight = layer.mlp.up_proj.weight
        layer.mlp.up_proj.weight = torch.nn.Parameter(weight.to(torch.int8), requires_grad=False)


def not_a_number(model: Any) -> None:
    model.model.embed_tokens.weight.data[:] = float("nan")


def infinite_weight(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (tied, "layers.1.mlp.up_proj shares its weight with layers.0.mlp.up_proj"),
        (quantised, "quantised weights cannot be converted"),
        (not_a_number, "activations that are NaN or infinite"),
        (infinite_weight, "layers.1.mlp.up_proj has weights that are NaN or infinite"),
    ],
)
def test_models_refused_are_left_alone(spoil: Any, message: str) -> None:
    model = make()
    spoil(model)
    before = [layer.mlp for layer in model.model.layers]
    with pytest.raises(gm.GenesisMoeError, match=message):
        calibrated(model)
    assert [layer.mlp for layer in model.model.layers] == before
    assert not hasattr(model.config, "genesis_moe_calibration")


def test_mlps_without_a_gate_are_refused() -> None:
    config = transformers.PhiConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    with pytest.raises(gm.UnsupportedError, match="want a gated MLP"):
        calibrated(transformers.PhiForCausalLM(config))
    with pytest.raises(gm.UnsupportedError, match="has a bias"):
        calibrated(make(mlp_bias=True))


def test_step_leaves_the_fitted_choice_alone() -> None:
    model = make()
    calibrated(model)
    wanted = model(IDS).logits
    model.train()
    model(IDS)
    gm.step(model)
    torch.testing.assert_close(model.eval()(IDS).logits, wanted, rtol=0, atol=0)


def test_calibrated_twice_is_refused() -> None:
    model = make()
    calibrated(model)
    with pytest.raises(gm.InvalidArgumentError, match="calibrated already"):
        calibrated(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 7, "shared": 0.25}, "experts: 7 does not divide the 96 neurons"),
        ({"active": 0.0}, "active: 0.0"),
        ({"active": 0.1, "shared": 0.25}, "active: 0.1, but the shared neurons"),
        ({"experts": "many"}, "experts: 'many'"),
        ({"shared": 1.5}, "shared: 1.5"),
        ({"router": "best"}, "router: 'best'"),
        ({"tokens": 0}, "tokens: 0"),
        ({"allocation": "fair"}, "allocation: 'fair'"),
        ({"target": "moon"}, "target: 'moon'"),
        ({"distill_minutes": -1}, "distill_minutes: -1"),
        ({"distill_minutes": 1, "router": "oracle"}, "with router 'oracle' nothing is trained"),
        ({"distill_rate": 0.0}, "distill_rate: 0.0"),
    ],
)
def test_options_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(gm.InvalidArgumentError, match=message):
        calibrated(make(), **options)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(gm.InvalidArgumentError, match="texts: 5 tokens, want at least"):
        calibrated(make(), texts=["abcde"])
    with pytest.raises(gm.InvalidArgumentError, match="texts: a str"):
        calibrated(make(), texts="abcde")


def test_a_full_disk_while_a_layer_is_kept_leaves_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genesis_moe.studies import record

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    model = make()
    wanted = model(IDS).logits
    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        calibrated(model, work=tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []
    torch.testing.assert_close(model(IDS).logits, wanted, rtol=0, atol=0)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    report = calibrated(model)

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(report), "save", full)
    with pytest.raises(OSError, match="No space left"):
        command.save(model, Letters(), report, tmp_path / "sparse")
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tokenizers

    from genesis_moe.cli import main

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz \n")}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="a"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="a").save_pretrained(
        tmp_path / "dense"
    )
    make().save_pretrained(tmp_path / "dense")
    (tmp_path / "text").write_text("".join(words(0)))
    arguments = ["calibrate", str(tmp_path / "dense"), "--texts", str(tmp_path / "text"), "--active", "0.75"]
    arguments += ["--length", "32", "--tokens", "1024", "--out", str(tmp_path / "sparse"), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["options"]["active"] == 0.75
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "sparse", "text"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    assert sum(isinstance(module, SparseMLP) for module in loaded.modules()) == 2
    with pytest.raises(SystemExit):
        main(arguments)
    assert "exists; want a new folder" in capsys.readouterr().err


def test_the_router_is_fitted_where_one_direction_is_far_longer_than_the_others() -> None:
    """As in real models, whose residual stream has a few directions of huge size; enough work for bfloat16."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 512, generator=draw) * torch.logspace(3, -2, 512)
    target = x @ torch.randn(512, 8, generator=draw) + x[:, -8:] * 100
    router = _ridge(x, target, 8, 2.0)
    assert bool(torch.isfinite(router.logits(x)).all())
    assert abs(float((router.logits(x) >= router.threshold).sum(1).float().mean()) - 2.0) < 0.05
