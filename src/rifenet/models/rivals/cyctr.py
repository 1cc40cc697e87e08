"""CyCTR (Zhang et al., NeurIPS 2021): cycle-consistent attention between the pixels of query and support.

RiFeNet is built on it, and is it with two ideas more: the unlabeled branch, and the local query prototype. So this is
RiFeNet without them: the global prototype and the prior mask meet the query, self-attention aggregates the query, and
cross-attention reads those support pixels that are cycle-consistent (equations 3 to 5; method.md 7 and 8).

Against the paper: the transformer's details, the tokens and the losses are as in RiFeNet, so that the comparison shows
the two ideas and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from rifenet.config import NetworkConfig
from rifenet.models.backbones import Backbone
from rifenet.models.rifenet import RiFeNet


class CyCTR(RiFeNet):
    """RiFeNet without a local prototype. It has no unlabeled branch, because `config.effective` leaves that out."""

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        own = {"use_local": False, "use_global": True, "self_attention": True, "cross_attention": True, "cycle": True}
        super().__init__(replace(config, **own), backbone)
