"""Shards of an evaluation, made elsewhere in any order, give what one process gives; what was lost is made again."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.scenes import ColourModel
from evaluation.test_partial import lines, scored
from evaluation.test_protocol import config, figures

from rifenet.data.index import ImageIndex
from rifenet.evaluation import shards
from rifenet.evaluation.partial import Journal
from rifenet.evaluation.protocol import evaluate
from rifenet.evaluation.result_file import unpack_counts
from rifenet.evaluation.scoring import score_episodes
from rifenet.evaluation.shards import Elsewhere
from rifenet.models import build_model


class Machines:
    """Other machines: each job and its result go through pickle, and the last jobs end first."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.jobs: list[tuple[int, ...]] = []
        self.fails_at = fails_at

    def __call__(self, jobs: Sequence[Any], make: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
        threads = torch.get_num_threads()
        for number, job in enumerate(reversed(jobs)):
            self.jobs.append(job)
            if number == self.fails_at:
                yield job, RuntimeError("a node\n died")
                return
            try:
                yield job, pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(make))(job)))
            finally:
                torch.set_num_threads(threads)


def test_shards_give_the_counts_of_one_process(index: ImageIndex) -> None:
    rules = config(shots=2)
    expected = evaluate(ColourModel(), index, rules)
    machines, seen = Machines(), []
    result = evaluate(
        ColourModel(), index, rules, elsewhere=Elsewhere(machines, shard=7), progress=seen.append, journal=Journal()
    )
    assert figures(result) == figures(expected)
    np.testing.assert_array_equal(unpack_counts(result).counts, unpack_counts(expected).counts)
    total = expected["episodes"] * len(expected["seeds"])
    assert sum(seen) == total
    assert {len(job) for job in machines.jobs[1:]} == {7}
    assert sorted(position for job in machines.jobs for position in job) == list(range(total)), "each episode once"
    assert result["environment"]["device"] == "cpu"
    assert result["peak_memory_mib"]["process"] > 0


def test_a_real_network_with_an_accelerated_backbone(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network goes to the machines as it is here: the counts are the same to the bit on the same processor."""
    model = build_model(backbone="resnet18", width=0.25, embed_dim=32, pretrained=False).eval()
    rules = config(image_size=65, seeds=(0,), episodes=12)
    expected = evaluate(model, index, rules)
    folded: list[bool] = []

    def watched(there: Any, *words: Any, **options: Any) -> Any:
        folded.append(there.backbone._folded is not None)
        return score_episodes(there, *words, **options)

    monkeypatch.setattr(shards, "score_episodes", watched)
    result = evaluate(model, index, rules, elsewhere=Elsewhere(Machines(), shard=5))
    assert folded == [True] * 3, "a plain backbone differs in the last bits, and is slower"
    np.testing.assert_array_equal(unpack_counts(result).counts, unpack_counts(expected).counts)
    assert result["model"] == expected["model"]


def test_a_lost_shard_ends_the_command_and_the_next_makes_only_what_is_missing(
    index: ImageIndex, tmp_path: Path
) -> None:
    rules, path = config(shots=2), tmp_path / "result.json.partial"
    expected = evaluate(ColourModel(), index, rules)
    total = expected["episodes"] * len(expected["seeds"])
    machines = Machines(fails_at=2)
    with pytest.raises(ValueError, match=r"shard of episodes to be scored, but RuntimeError: a node died The episodes"):
        evaluate(ColourModel(), index, rules, elsewhere=Elsewhere(machines, shard=7), journal=Journal(path))
    kept = scored(path)
    assert sorted(kept) == sorted(position for job in machines.jobs[:2] for position in job)
    again = Machines()
    result = evaluate(ColourModel(), index, rules, elsewhere=Elsewhere(again, shard=7), journal=Journal(path))
    made = [position for job in again.jobs for position in job]
    assert sorted(kept + made) == list(range(total)), "nothing is lost, and nothing is made twice"
    assert figures(result) == figures(expected)
    alone = evaluate(ColourModel(), index, rules, journal=Journal(path))
    assert figures(alone) == figures(expected), "one process goes on with what the machines have made"


def test_a_photo_that_no_machine_can_read(index: ImageIndex, tmp_path: Path) -> None:
    rules, path = config(shots=1), tmp_path / "result.json.partial"
    photo = index.records[0].image_path
    photo.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"cannot read .*--on-error skip"):
        evaluate(ColourModel(), index, rules, elsewhere=Elsewhere(Machines(), shard=5), journal=Journal(path))
    assert lines(path)
    with pytest.warns(UserWarning, match="could not be read"):
        expected = evaluate(ColourModel(), index, rules, journal=Journal(skip=True))
    with pytest.warns(UserWarning, match="could not be read"):
        result = evaluate(
            ColourModel(), index, rules, elsewhere=Elsewhere(Machines(), shard=5), journal=Journal(path, skip=True)
        )
    assert figures(result) == figures(expected)
    assert [each["episode"] for each in result["skipped"]] == [each["episode"] for each in expected["skipped"]]


def test_other_versions_are_refused(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    from rifenet.evaluation import shards

    real = shards.environment
    versions = iter(["1.0", "2.0"])
    monkeypatch.setattr(shards, "environment", lambda *of: real(*of) | {"pillow": next(versions)})
    with pytest.raises(ValueError, match=r"a worker has pillow 2\.0 and this machine 1\.0"):
        evaluate(ColourModel(), index, config(), elsewhere=Elsewhere(Machines()))
