"""`rifenet bench`: what is measured, how it adds up, and what is printed. Nothing here depends on how fast it runs."""

from __future__ import annotations

import copy
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_model

from rifenet.bench import Plan, compare, read
from rifenet.bench import measure as measuring
from rifenet.bench.compare import FORMAT
from rifenet.bench.memory import in_fresh_process, peak_resident
from rifenet.bench.stages import PARTS, WITHIN, StageClock, profile
from rifenet.bench.workload import FOREGROUND, UNLABELED, Case, Workload, square_mask, training_step
from rifenet.cli.bench import _print_tables
from rifenet.cli.main import main
from rifenet.models import build_model
from rifenet.models.files.hub import load_model

CPU = torch.device("cpu")
SIZE = 64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", SIZE)


def case_of(tiny: Path, *, shots: int = 1, batch: int = 1) -> Case:
    return Case(model=str(tiny), size=SIZE, shots=shots, batch=batch)


def workload(tiny: Path, **shape: int) -> tuple[Any, Workload]:
    model, case = load_model(tiny), case_of(tiny, **shape)
    return model, Workload(model, case, CPU, None)


def ticking() -> Any:
    """A clock that moves by one each time it is read: durations become counts."""
    return itertools.count().__next__


def count_calls(module: torch.nn.Module) -> list[None]:
    calls: list[None] = []
    module.register_forward_hook(lambda *_: calls.append(None))
    return calls


def query_steps(work: Workload) -> dict[str, Any]:
    context = work.learn()
    return {
        "encode_query": lambda _: work.encode_query(),
        "decode": lambda features: work.engine.decode(features, context),
    }


# Stages.


def test_every_stage_finds_its_modules() -> None:
    model = build_model(backbone="efficientnet_lite0", pretrained=False, embed_dim=32, layers=1)
    names = {name for name, _ in model.named_modules()}
    for stage, patterns in PARTS.items():
        for pattern in patterns:
            assert pattern.replace("*", "0") in names, f"{stage} misses {pattern}"


def test_stages_of_a_query_by_a_counting_clock(tiny: Path) -> None:
    model, work = workload(tiny)
    steps = query_steps(work)
    seconds = profile(model, ticking(), steps)
    # Each module reads the clock before and after itself, so a stage counts 1 for each of its modules, and the
    # activation of one layer counts its two attentions too; prior and upsample are gaps between two readings.
    assert {stage: seconds[stage] for stage in (*PARTS, "prior")} == {
        "backbone": 1,
        "projection": 2,
        "local_prototype": 1,
        "interaction": 1,
        "activation": 5,
        "self_attention": 1,
        "cross_attention": 1,
        "head": 3,
        "prior": 1,
    }
    assert (seconds["encode_query"], seconds["decode"], seconds["upsample"]) == (7, 19, 2)
    disjoint = sum(value for name, value in seconds.items() if name not in (*steps, *WITHIN))
    assert disjoint == seconds["encode_query"] + seconds["decode"]
    assert list(seconds)[-1] == "other"


def test_stages_add_up_over_a_batch_and_by_a_real_clock(tiny: Path) -> None:
    model, work = workload(tiny, batch=2)
    steps = query_steps(work)
    counted = profile(model, ticking(), steps)
    assert (counted["backbone"], counted["head"], counted["prior"]) == (2, 6, 2)  # one image at a time on the CPU
    seconds = profile(model, measuring.clock_of(CPU), steps)
    assert min(seconds.values()) >= 0
    disjoint = sum(value for name, value in seconds.items() if name not in (*steps, *WITHIN))
    assert disjoint == pytest.approx(seconds["encode_query"] + seconds["decode"])


def test_watching_changes_nothing_and_leaves_nothing(tiny: Path) -> None:
    model, work = workload(tiny)
    context = work.learn()
    plain = work.engine.decode(work.encode_query(), context)
    with StageClock(model, ticking()):
        watched = work.engine.decode(work.encode_query(), context)
    assert np.array_equal(plain, watched)
    with pytest.raises(RuntimeError, match="on purpose"), StageClock(model, ticking()):
        raise RuntimeError("on purpose")
    assert "decode" not in vars(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_baseline_has_the_stages_that_it_has(tiny: Path) -> None:
    model = build_model(kind="prototype", backbone="efficientnet_lite0", pretrained=False).eval()
    work = Workload(model, case_of(tiny), CPU, None)
    seconds = profile(model, ticking(), {"encode_support": lambda _: work.learn()})
    assert seconds["encode_support"] == 1
    with pytest.raises(ValueError, match="kind rifenet"):
        training_step(model.config, case_of(tiny), CPU)


# Workloads.


@pytest.mark.parametrize("size", [64, 321, 473])
def test_foreground_is_a_fifth_of_the_map(size: int) -> None:
    mask = square_mask(size)
    assert set(np.unique(mask)) == {0, 1}
    assert mask.mean() == pytest.approx(FOREGROUND, rel=0.05)


def test_classes_share_the_backbone_pass_and_shots_need_one_each(tiny: Path) -> None:
    model, work = workload(tiny, shots=3, batch=2)
    images: list[int] = []
    model.backbone.register_forward_hook(lambda _, inputs, __: images.append(len(inputs[0])))
    heads = count_calls(model.head)
    context = work.learn()
    assert sum(images) == 3
    images.clear()
    work.query(context, classes=5)
    assert sum(images) == 2
    assert len(heads) == 2 * 5


def test_the_unit_is_a_copy_of_the_backbone_on_one_image(tiny: Path) -> None:
    model = load_model(tiny)
    tasks = measuring.tasks(model, case_of(tiny, shots=2, batch=2), CPU, Plan(models=(str(tiny),)))
    own = count_calls(model.backbone)
    assert list(tasks[0]()) == ["unit"]
    assert own == []
    assert list(tasks[3]()) == ["learn"]
    assert own == [None]


def test_a_training_step_trains_all_but_the_backbone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(config: Any) -> Any:
        built.append(build_model(config))
        return built[-1]

    monkeypatch.setattr("rifenet.bench.workload.build_model", build)
    step = training_step(load_model(tiny).config, case_of(tiny, shots=2, batch=2), CPU)
    (model,) = built
    images: list[int] = []
    model.backbone.register_forward_hook(lambda _, inputs, __: images.append(len(inputs[0])))
    before = copy.deepcopy(model.state_dict())
    step()
    # A query, two supports, and a weak and a strong view of each unlabeled image, twice; in one pass.
    assert images == [2 * (1 + 2 + 2 * UNLABELED)]
    frozen = {name for name in before if name.startswith("backbone.")}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not changed & frozen
    assert {"head.classify.weight", "auxiliary.head.classify.weight", "local_prototype.reduce.0.weight"} <= changed
    assert any(name.startswith("activation.") for name in changed)


# Measuring.


def test_tasks_take_turns_and_warm_up() -> None:
    order = []

    def task(name: str) -> Any:
        def run() -> dict[str, float]:
            order.append(name)
            return {name: float(len(order))}

        return run

    seconds = measuring.measure([task("a"), task("b")], range(5), warmup=2)
    assert order == ["a", "b"] * 5
    assert seconds == {"a": [5, 7, 9], "b": [6, 8, 10]}


def test_figures_are_quartiles_and_units() -> None:
    table = measuring.figures({"unit": [2.0, 1.0, 3.0], "query": [5.0, 1.0, 2.0, 3.0, 4.0]})
    assert table["unit"] == {"median": 2.0, "q1": 1.5, "q3": 2.5, "units": 1.0, "runs": 3}
    assert table["query"] == {"median": 3.0, "q1": 2.0, "q3": 4.0, "units": 1.5, "runs": 5}


def test_cases_are_all_combinations_once(tiny: Path) -> None:
    plan = Plan(models=(str(tiny), "resnet50", "efficientnet_lite2"), shots=(1, 5), batches=(1, 2, 1))
    cases = plan.cases()
    assert len(cases) == 3 * 2 * 2
    assert {case.model: case.size for case in cases} == {str(tiny): SIZE, "resnet50": 473, "efficientnet_lite2": 321}
    assert {case.size for case in Plan(models=("resnet50",), sizes=(321, 473)).cases()} == {321, 473}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"models": ("resnet5",)}, "resnet50.*'resnet5'"),
        ({"sizes": (16,)}, "sizes between 32"),
        ({"shots": (0,)}, "shots between 1 and 20"),
        ({"batches": (0,)}, "batches"),
        ({"classes": (0,)}, "classes"),
        ({"runs": 0}, "runs between 1"),
        ({"warmup": -1}, "warm-up"),
        ({"threads": 0}, "threads"),
    ],
)
def test_a_wrong_plan_gets_a_sentence(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Plan(**{"models": ("resnet50",), **fields})


def test_a_fresh_process_inherits_no_memory() -> None:
    if peak_resident() is None:
        pytest.skip("This system does not tell a process's peak memory.")
    ballast = np.ones(600 * 2**20 // 8)
    peak = in_fresh_process(peak_resident)
    assert peak < ballast.nbytes / 2**20 < peak_resident()  # type: ignore[operator]


def test_a_process_that_dies_or_fails_says_so() -> None:
    with pytest.raises(OSError, match="enough memory"):
        in_fresh_process(os._exit, 1)
    with pytest.raises(ValueError, match="invalid literal"):
        in_fresh_process(int, "x")


# Comparing.


def bench_file(tiny: Path, scale: float = 1.0, **machine: Any) -> dict[str, Any]:
    seconds = {"unit": [0.1 * scale], "query": [0.15 * scale], "query.prior": [0.0]}
    return {
        "format": FORMAT,
        "machine": {"cpu": "A", "torch": "2.13.0", **machine},
        "settings": {"runs": 20},
        "cases": [
            {
                **{"model": tiny.name, "size": SIZE, "shots": 1, "batch": 1, "weights": "loaded"},
                "figures": measuring.figures(seconds),
            }
        ],
    }


def test_a_bench_against_itself(tiny: Path) -> None:
    bench = bench_file(tiny)
    outcome = compare(bench, copy.deepcopy(bench))
    assert outcome["differs"] == {}
    (case,) = outcome["cases"]
    assert case["ratios"] == {name: {"seconds": 1.0, "units": 1.0} for name in ("unit", "query")}


def test_ratios_to_another_machine_and_what_differs(tiny: Path) -> None:
    here, there = bench_file(tiny, scale=0.5, gpu="none"), bench_file(tiny, cpu="B", torch="2.12.0")
    there["cases"] += [{**there["cases"][0], "size": 321}]
    outcome = compare(here, there)
    assert outcome["differs"] == {
        "cpu": ["A", "B"],
        "torch": ["2.13.0", "2.12.0"],
        "gpu": ["none", None],
        "size": [[SIZE], [SIZE, 321]],
    }
    (case,) = outcome["cases"]
    assert case["ratios"]["query"] == {"seconds": pytest.approx(0.5), "units": pytest.approx(1.0)}
    here["cases"][0]["size"] = 473
    assert compare(here, there)["cases"] == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "cases": [{}]}'])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        read(path)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"format 1, but .*other\.json"):
        read(path)


@pytest.mark.parametrize("wrong", [None, [], {}, "text", 10**400], ids=lambda value: repr(value)[:9])
def test_a_bench_with_a_value_of_another_kind_is_refused(wrong: Any, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    whole = bench_file(tiny)
    for change in (
        {"machine": wrong or 1},
        {"cases": wrong or 1},
        {"cases": [wrong]},
        {"cases": [{**whole["cases"][0], "size": wrong}]},
        {"cases": [{**whole["cases"][0], "figures": {"unit": {"median": wrong, "units": 1.0}}}]},
    ):
        path.write_text(json.dumps({**whole, **change}), encoding="utf-8")
        with pytest.raises(ValueError, match=r"format 1, but .* is none \(expected it"):
            read(path)


# The command.


def test_the_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, out = tmp_path / "other.json", tmp_path / "new" / "bench.json"
    other.write_text(json.dumps(bench_file(tiny, cpu="a slow one")), encoding="utf-8")
    words = ["--backbones", str(tiny), "--classes", "1", "3", "--runs", "3", "--warmup", "1"]
    assert main(["bench", *words, "--device", "cpu", "--against", str(other), "--out", str(out), "--json"]) == 0
    bench = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text(encoding="utf-8")) == bench
    assert read(out) == bench
    assert bench["machine"]["torch"] == torch.__version__
    assert bench["machine"]["threads"] == torch.get_num_threads()
    assert bench["settings"]["foreground"] == FOREGROUND
    assert "Some cases have random weights" in bench["note"]

    (case,) = bench["cases"]
    assert (case["model"], case["size"], case["shots"], case["batch"]) == ("tiny.safetensors", SIZE, 1, 1)
    assert (case["kind"], case["backbone"], case["weights"]) == ("rifenet", "efficientnet_lite0", "loaded")
    figures = case["figures"]
    assert [name for name in figures if "." not in name] == [
        *("unit", "decode_file", "transform", "learn", "query", "query_3_classes", "photo")
    ]
    assert {name.partition(".")[2] for name in figures if name.startswith("query.")} == {
        *("encode_query", "decode", *PARTS, "prior", "upsample", "other")
    }
    assert {"learn.encode_support", "learn.backbone", "learn.projection", "learn.interaction"} <= figures.keys()
    assert figures["unit"]["units"] == 1
    for figure in figures.values():
        assert 0 <= figure["q1"] <= figure["median"] <= figure["q3"]
        assert figure["units"] == pytest.approx(figure["median"] / figures["unit"]["median"])
        assert figure["runs"] == 3

    memory = case["peak_memory_mib"]
    assert set(memory) == {"query"}
    assert memory["query"]["process"] is None or memory["query"]["import"] <= memory["query"]["process"]

    assert bench["against"]["differs"]["cpu"][1] == "a slow one"
    (ratios,) = (compared["ratios"] for compared in bench["against"]["cases"])
    assert ratios["unit"]["seconds"] == pytest.approx(figures["unit"]["median"] / 0.1)
    assert ratios["query"]["units"] == pytest.approx(figures["query"]["units"] / 1.5)

    _print_tables(bench)
    text = capsys.readouterr().out
    for words_of_table in ("tiny.safetensors, 64 px, 1 shot, batch 1, loaded weights", "query 3 classes", "a slow one"):
        assert words_of_table in text
    assert "peak memory, query" in text


@pytest.mark.slow
def test_training_and_several_cases(tiny: Path) -> None:
    plan = Plan(models=(str(tiny),), batches=(1, 2), classes=(), runs=2, warmup=0, training=True, device="cpu")
    labels = []

    def track(items: Any, total: int, label: str) -> Any:
        labels.append((total, label))
        return iter(items)

    bench = measuring.run(plan, track)
    assert [case["batch"] for case in bench["cases"]] == [1, 2]
    assert labels == [(2, "tiny.safetensors, 64 px, memory"), (2, "tiny.safetensors, 64 px")] * 2
    for case in bench["cases"]:
        assert case["figures"]["training_step"]["units"] > 0
        query, training = (case["peak_memory_mib"][what]["process"] for what in ("query", "training_step"))
        assert query is None or training > query  # a graph, gradients and six images instead of two


def test_wrong_words_cost_no_measuring(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rifenet.bench.run", lambda *_: pytest.fail("measured"))
    for words, complaint in (
        (["--backbones", "resnet5"], "Expected a backbone"),
        (["--backbones", str(tiny), "--runs", "0"], "Expected runs"),
        (["--backbones", str(tiny), "--against", str(tmp_path / "none.json")], "none.json"),
        (["--backbones", str(tiny), "--out", str(tmp_path)], "is a folder"),
    ):
        assert main(["bench", *words]) == 1
        error = capsys.readouterr().err
        assert error.startswith("rifenet bench: ")
        assert complaint in error
        assert error.count("\n") == 1


def test_the_random_weights_of_an_architecture_are_always_the_same() -> None:
    case = Case(model="efficientnet_lite0", size=SIZE, shots=1, batch=1)
    first, second = (case.load().state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_full_measures_what_the_docs_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def run(plan: Plan, _: Any) -> dict[str, Any]:
        plans.append(plan)
        return {"format": FORMAT, "machine": {}, "settings": {}, "cases": []}

    monkeypatch.setattr("rifenet.bench.run", run)
    assert main(["bench", "--full", "--json"]) == 0
    assert main(["bench", "--json"]) == 0
    full, short = plans
    assert full.models[-1] == "resnet50"
    assert (full.shots, full.classes, full.training, full.runs) == ((1, 5, 10), (5,), True, 20)
    assert (short.models, short.shots, short.training, short.runs) == (full.models[:1], (1,), False, 20)
