"""Times the stages of a model by hooks around its modules while it runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Self

from torch import Tensor, nn

PARTS = {
    "backbone": ("backbone",),
    "projection": ("support_projection", "query_projection", "local_prototype.reduce"),
    "local_prototype": ("local_prototype",),
    "interaction": ("support_interaction", "query_interaction"),
    "activation": ("activation",),
    "self_attention": ("activation.layers.*.self_attention",),
    "cross_attention": ("activation.layers.*.cross_attention",),
    "head": ("activated_projection", "residual", "head"),
}
"""Name patterns of the modules of each stage."""
WITHIN = ("self_attention", "cross_attention")
"""Stages inside the activation; the sum of the stages leaves them out."""
_ORDER = ("backbone", "projection", "prior", *list(PARTS)[2:], "upsample", "other")

Clock = Callable[[], float]
"""A clock in seconds that waits for the device to finish its work."""


class StageClock:
    """A context that adds up, in `seconds`, the time of the stages of `PARTS`, of `decode` and of the prior mask.

    The prior mask is no module. Its time runs from the start of `decode` to the first module in it.
    """

    def __init__(self, model: nn.Module, now: Clock) -> None:
        self.model: Any = model
        self.now = now
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __enter__(self) -> Self:
        self._handles: list[Any] = []
        self._decode_started: float | None = None
        for name, module in self.model.named_modules():
            for stage, patterns in PARTS.items():
                if any(fnmatchcase(name, pattern) for pattern in patterns):
                    self._watch(stage, module)
        inner = self.model.decode

        def decode(*arguments: Any, **options: Any) -> Tensor:
            self._decode_started = started = self.now()
            logits: Tensor = inner(*arguments, **options)
            self.seconds["model_decode"] += self.now() - started
            return logits

        self.model.decode = decode
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        del self.model.decode  # removes the wrapper, so that the class's own method shows again

    def _watch(self, stage: str, module: nn.Module) -> None:
        started = 0.0

        def before(*_: Any) -> None:
            nonlocal started
            started = self.now()
            if self._decode_started is not None:
                self.seconds["prior"] += started - self._decode_started
                self._decode_started = None

        def after(*_: Any) -> None:
            self.seconds[stage] += self.now() - started

        self._handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def profile(model: nn.Module, now: Clock, steps: dict[str, Callable[[Any], Any]]) -> dict[str, float]:
    """Seconds of the steps and of the model's stages within them. Each step gets the result of the step before.

    `upsample` is the time of the step `decode` outside the model: resizing and copying the logits. `other` is the time
    outside all stages. The stages, without the two attentions, add up to the time of the steps.
    """
    with StageClock(model, now) as clock:
        value, marks = None, [now()]
        for step in steps.values():
            value = step(value)
            marks.append(now())
    whole = {name: end - start for name, start, end in zip(steps, marks, marks[1:], strict=False)}
    stages = dict(clock.seconds)
    if "decode" in whole:
        stages["upsample"] = whole["decode"] - stages.pop("model_decode")
    accounted = sum(seconds for stage, seconds in stages.items() if stage not in WITHIN)
    stages["other"] = sum(whole.values()) - accounted
    return whole | {stage: stages[stage] for stage in _ORDER if stage in stages}
