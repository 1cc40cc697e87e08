"""The network, its losses and optimiser steps, from the description of the method alone: plain formulas only.

Every function takes a dict of parameters (name -> tensor) and a prefix. Gradients come from autograd through these
formulas, so nothing here may detach anything but a pseudo-label.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = dict[str, Tensor]
TINY = 1e-7


# ---------------------------------------------------------------- small pieces


def weights_of_resize(target: int, source: int, like: Tensor) -> Tensor:
    """[target, source] matrix of the bilinear resize with aligned corners."""
    matrix = torch.zeros(target, source, dtype=like.dtype)
    for i in range(target):
        place = i * (source - 1) / (target - 1) if target > 1 else 0.0
        left = min(math.floor(place), source - 1)
        right = min(left + 1, source - 1)
        matrix[i, left] += 1 - (place - left)
        matrix[i, right] += place - left
    return matrix


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    rows, cols = weights_of_resize(size[0], x.shape[-2], x), weights_of_resize(size[1], x.shape[-1], x)
    return torch.einsum("ij,...jk,lk->...il", rows, x, cols)


def conv1(state: State, name: str, x: Tensor) -> Tensor:
    out = torch.einsum("oc,...chw->...ohw", state[f"{name}.weight"][:, :, 0, 0], x)
    return out + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else out


def conv3(state: State, name: str, x: Tensor) -> Tensor:
    """3x3, stride 1, zeros around; x [..., C, h, w]."""
    weight, (h, w) = state[f"{name}.weight"], x.shape[-2:]
    wide = torch.zeros(*x.shape[:-2], h + 2, w + 2, dtype=x.dtype)
    wide[..., 1:-1, 1:-1] = x
    out = 0
    for dy in range(3):
        for dx in range(3):
            out = out + torch.einsum("oc,...chw->...ohw", weight[:, :, dy, dx], wide[..., dy : dy + h, dx : dx + w])
    return out + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else out


def linear(state: State, name: str, x: Tensor) -> Tensor:
    out = x @ state[f"{name}.weight"].T
    return out + state[f"{name}.bias"] if f"{name}.bias" in state else out


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def softmax(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True).detach())
    return e / e.sum(-1, keepdim=True)


def layer_norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


def masked_average(x: Tensor, weight: Tensor) -> Tensor:
    """x [C, h, w] under weight [h, w] -> [C]."""
    return (x * weight).sum((-1, -2)) / weight.sum()


def evenly(count: int, room: int) -> list[int]:
    """`room` of `count` ranks, evenly spaced: where floor((r + 1) * room / count) steps up; the text leaves it open."""
    room = min(room, count)
    return [r for r in range(count) if (r + 1) * room // count > r * room // count]


# ---------------------------------------------------------------- 8. feature activation


def sine_positions(h: int, w: int, channels: int, like: Tensor) -> Tensor:
    """[h*w, C]: half of the channels for y, half for x; sine and cosine alternate; coordinates 1..n over n, times 2 pi.

    The description says "sine position encoding" only; DETR's normalised one is assumed, over the whole padded map.
    """
    half = channels // 2
    table = torch.zeros(h, w, channels, dtype=like.dtype)
    for y in range(h):
        for x in range(w):
            for offset, value in ((0, (y + 1) / h), (half, (x + 1) / w)):
                for i in range(half):
                    angle = 2 * math.pi * value / 10000 ** (2 * (i // 2) / half)
                    table[y, x, offset + i] = math.sin(angle) if i % 2 == 0 else math.cos(angle)
    return table.reshape(h * w, channels)


def deformable(state: State, name: str, query: Tensor, value: Tensor, valid: Tensor, heads: int, points: int) -> Tensor:
    """One image. query, value [N, C]; valid [h, w] bool. Each head reads `points` places around its own position.

    Deformable DETR's: an offset is in cells, values at padded positions and outside the map are zero, weights are a
    softmax over the points.
    """
    (h, w), channels = valid.shape, query.shape[1]
    wide = channels // heads
    values = (linear(state, f"{name}.value", value) * valid.reshape(-1, 1)).reshape(h, w, heads, wide)
    offsets = linear(state, f"{name}.offsets", query).reshape(h, w, heads, points, 2)
    weights = softmax(linear(state, f"{name}.weights", query).reshape(h, w, heads, points))
    grid_y, grid_x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    px = grid_x[:, :, None, None] + offsets[..., 0]
    py = grid_y[:, :, None, None] + offsets[..., 1]
    x0, y0 = torch.floor(px.detach()), torch.floor(py.detach())
    head = torch.arange(heads)[None, None, :, None].expand_as(px)
    total = 0
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = x0 + dx, y0 + dy
            share = (1 - (px - x).abs()) * (1 - (py - y).abs())
            inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
            read = values[y.clamp(0, h - 1).long(), x.clamp(0, w - 1).long(), head]  # h w heads points wide
            total = total + (read * (share * inside * weights)[..., None]).sum(3)
    return linear(state, f"{name}.output", total.reshape(h * w, channels))


def cycle_attention(
    state: State, name: str, query: Tensor, valid: Tensor, tokens: Tensor, label: Tensor, usable: Tensor, heads: int
) -> Tensor:
    """One image. query [N, C], valid [N] bool; tokens [M, C], label [M] bool, usable [M] bool."""
    wide = query.shape[1] // heads
    q, k, v = (linear(state, f"{name}.{part}", x) for part, x in (("query", query), ("key", tokens), ("value", tokens)))
    here, there = valid.nonzero()[:, 0].tolist(), usable.nonzero()[:, 0].tolist()
    outs = []
    for head in range(heads):
        own = slice(head * wide, (head + 1) * wide)
        score = q[:, own] @ k[:, own].T / math.sqrt(wide)
        plain, keep = score.detach().tolist(), torch.zeros(len(tokens), dtype=torch.bool)
        for j in there:
            best, back = -math.inf, -math.inf
            for i in here:
                if plain[i][j] > best:
                    best, best_query = plain[i][j], i
            for m in there:
                if plain[best_query][m] > back:
                    back, best_token = plain[best_query][m], m
            keep[j] = label[best_token] == label[j]
        score = torch.where(keep[None], score, torch.full_like(score, -math.inf))
        outs.append(softmax(score) @ v[:, own])
    return linear(state, f"{name}.output", torch.cat(outs, 1))


def feed_forward(state: State, name: str, x: Tensor) -> Tensor:
    return linear(state, f"{name}.reduce", relu(linear(state, f"{name}.expand", x)))


def activation_layer(
    state: State,
    name: str,
    x: Tensor,
    valid: Tensor,
    tokens: Tensor,
    label: Tensor,
    usable: Tensor,
    heads: int,
    points: int,
) -> Tensor:
    """One image, one layer. x [N, C], valid [h, w]. Positions go to the queries of the self-attention only."""
    where = sine_positions(*valid.shape, x.shape[1], x)
    attended = deformable(state, f"{name}.self_attention", x + where, x, valid, heads, points)
    x = layer_norm(state, f"{name}.self_norm", x + attended)
    x = layer_norm(state, f"{name}.self_ffn.norm", x + feed_forward(state, f"{name}.self_ffn", x))
    crossed = cycle_attention(state, f"{name}.cross_attention", x, valid.reshape(-1), tokens, label, usable, heads)
    x = layer_norm(state, f"{name}.cross_norm", x + crossed)
    return layer_norm(state, f"{name}.cross_ffn.norm", x + feed_forward(state, f"{name}.cross_ffn", x))


def residual(state: State, name: str, x: Tensor) -> Tensor:
    """Two 3x3 convs around a skip; a ReLU after each conv, before the sum (CyCTR's), as the description doesn't say."""
    return x + relu(conv3(state, f"{name}.second", relu(conv3(state, f"{name}.first", x))))


def head(state: State, name: str, x: Tensor) -> Tensor:
    return conv1(state, f"{name}.classify", relu(conv3(state, f"{name}.hidden", x)))


# ---------------------------------------------------------------- 5., 6. prior and prototypes


def foreground(mask: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return resize((mask == 1).to(dtype), size)


def on_grid(valid: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Image pixels [H, W] bool -> positions [h, w] bool: at least half of the bilinear weight is real."""
    return resize(valid.to(dtype), size) >= 0.5


def prior_mask(query: Tensor, query_valid: Tensor, supports: list[tuple[Tensor, Tensor]], cap: int) -> Tensor:
    """query [C, h, w]; supports: (high [C, h, w], soft mask [h, w]) of each shot -> [h, w].

    `cap` keys for all shots together, an equal share for each.
    """
    h, w = query.shape[1:]
    seen = torch.nn.functional.normalize(query.reshape(len(query), -1).T, dim=1)
    maps = []
    for high, soft in supports:
        chosen = (soft.reshape(-1) > 0).nonzero()[:, 0]
        chosen = chosen[evenly(len(chosen), cap // len(supports))]
        if not len(chosen):
            maps.append(torch.zeros(h, w, dtype=query.dtype))
            continue
        keys = (high * soft).reshape(len(high), -1).T[chosen]
        keys = keys / keys.norm(dim=1, keepdim=True)
        best = (seen @ keys.T).amax(1).clamp(min=0).reshape(h, w)
        low, top = best[query_valid].min(), best[query_valid].max()
        maps.append((best - low) / (top - low + TINY) * query_valid)
    return torch.stack(maps).mean(0)


def local_prototype(state: State, name: str, low: Tensor, prior: Tensor, valid: Tensor, grid: int) -> Tensor:
    """low [c', h, w] -> [c * g * g], channel by channel."""
    h, w = prior.shape
    x = relu(conv1(state, f"{name}.reduce.0", low)) * prior
    cells = torch.zeros(len(x), grid, grid, dtype=x.dtype)
    for i in range(grid):
        for j in range(grid):
            rows = slice(i * h // grid, -(-(i + 1) * h // grid))
            cols = slice(j * w // grid, -(-(j + 1) * w // grid))
            seen = valid[rows, cols].to(x.dtype)
            if seen.sum() > 0:
                cells[:, i, j] = (x[:, rows, cols] * seen).sum((1, 2)) / seen.sum()
    cells = conv1(state, f"{name}.refine.0", cells)
    squeezed = relu(linear(state, f"{name}.refine.1.squeeze", cells.mean((1, 2))))
    gate = sigmoid(linear(state, f"{name}.refine.1.excite", squeezed))
    return (cells * gate[:, None, None]).reshape(-1)


# ---------------------------------------------------------------- the branches


class Options:
    """What the formulas need beside parameters."""

    def __init__(self, heads: int, points: int, layers: int, grid: int, tokens: int, max_tokens: int, max_keys: int):
        self.heads, self.points, self.layers, self.grid = heads, points, layers, grid
        self.tokens, self.max_tokens, self.max_keys = tokens, max_tokens, max_keys


def choose_tokens(
    softs: list[Tensor], voids: list[Tensor], valids: list[Tensor], side: int, cap: int
) -> tuple[list[int], list[bool]]:
    """Positions in the union of the shots, lowest first, and their labels: `side` of each for one shot, times K.

    Left open and taken as: the cap is on both labels together, half of it each; a shot (not the union) without
    foreground over 0.5 lends its largest; a position with more than half of its weight on 255 or padding is no
    background.
    """
    objects, rest, start = [], [], 0
    for soft, void, valid in zip(softs, voids, valids, strict=True):
        values = soft.reshape(-1).tolist()
        mine = {i for i, value in enumerate(values) if value > 0.5}
        if not mine and max(values) > 0:
            mine = {values.index(max(values))}
        open_ = (valid & (void <= 0.5)).reshape(-1).tolist()
        objects += [start + i for i in sorted(mine)]
        rest += [start + i for i in range(len(values)) if i not in mine and open_[i]]
        start += len(values)
    room = min(2 * side * len(softs), cap)
    many = min(len(objects), max(room // 2, room - len(rest)))
    few = min(len(rest), room - many)
    picked = {objects[i]: True for i in evenly(len(objects), many)} | {rest[i]: False for i in evenly(len(rest), few)}
    return sorted(picked), [picked[i] for i in sorted(picked)]


def support_context(state: State, mid: Tensor, high: Tensor, masks: Tensor, valid: Tensor, options: Options) -> dict:
    """One episode: mid [K, C, h, w], masks and valid [K, H, W]."""
    size, dtype = tuple(mid.shape[-2:]), mid.dtype
    projected = relu(conv1(state, "support_projection.0", mid))
    softs = [foreground(mask, size, dtype) for mask in masks]
    voids = [resize(((mask == 255) | ~real).to(dtype), size) for mask, real in zip(masks, valid, strict=True)]
    reals = [on_grid(real, size, dtype) for real in valid]
    shots = torch.stack([masked_average(x, soft) for x, soft in zip(projected, softs, strict=True)])
    spread = shots[:, :, None, None].expand_as(projected)
    mixed = relu(conv1(state, "support_interaction.merge", torch.cat([projected, spread], 1)))
    picked, labels = choose_tokens(softs, voids, reals, options.tokens, options.max_tokens)
    flat = mixed.permute(0, 2, 3, 1).reshape(-1, mixed.shape[1])
    return {
        "projected": projected,
        "global": shots.mean(0),
        "tokens": flat[picked],
        "labels": torch.tensor(labels),
        "prior": list(zip(high, softs, strict=True)),
    }


def query_local(
    state: State, low: Tensor, high: Tensor, valid: Tensor, context: dict, options: Options
) -> tuple[Tensor, Tensor]:
    prior = prior_mask(high, valid, context["prior"], options.max_keys)
    return prior, local_prototype(state, "local_prototype", low, prior, valid, options.grid)


def decode(
    state: State, mid: Tensor, prior: Tensor, local: Tensor, valid: Tensor, context: dict, options: Options
) -> dict:
    """One image of the query or of the unlabeled branch -> logits [2, h, w] at feature size."""
    projected = relu(conv1(state, "query_projection.0", mid))
    h, w = prior.shape
    parts = [projected]
    parts += [vector[:, None, None].expand(-1, h, w) for vector in (context["global"], local)]
    x = relu(conv1(state, "query_interaction.merge", torch.cat([*parts, prior[None]])))
    tokens = x.reshape(len(x), -1).T
    support = context["tokens"], context["labels"], torch.ones_like(context["labels"])
    for layer in range(options.layers):
        name = f"activation.layers.{layer}"
        tokens = activation_layer(state, name, tokens, valid, *support, options.heads, options.points)
    # The description says nothing of padded positions after the activation; zero, so that the 3x3 convs see no padding.
    activated = tokens.T.reshape(-1, h, w) * valid
    last = residual(state, "residual", relu(conv1(state, "activated_projection.0", activated)))
    return {
        "projected": projected,
        "activated": activated,
        "logits": head(state, "head", last),
    }


def auxiliary(state: State, decoded: dict, query_mask: Tensor, context: dict) -> Tensor:
    """[K, 2, h, w]: the supports' masks, found from the query's own mask.

    "1x1 conv + ReLU of the activated features" could also be the one before the main head's residual block; it is taken
    as a conv of its own.
    """
    x = relu(conv1(state, "auxiliary.reduce", decoded["activated"])) + decoded["projected"]
    soft = foreground(query_mask, tuple(x.shape[-2:]), x.dtype)
    prototype = masked_average(x, soft)
    raw = context["projected"]
    mixed = relu(conv1(state, "auxiliary.merge", torch.cat([raw, prototype[None, :, None, None].expand_as(raw)], 1)))
    return head(state, "auxiliary.head", residual(state, "auxiliary.residual", mixed))


# ---------------------------------------------------------------- training


def forward(state: State, batch: dict, options: Options, guide: str = "query") -> dict:
    """A batch of episodes. `batch`: support, query, weak, strong = (low, mid, high, valid); masks, query_mask.

    Features [B, K, ...], [B, ...], [B, U, ...], [B, U, ...], valid at image size; an unlabeled image belongs to the
    episode of its own row.
    """
    query, weak, strong, aux = [], [], [], []
    for b in range(len(batch["query_mask"])):
        _, mid, high, valid = (x[b] for x in batch["support"])
        context = support_context(state, mid, high, batch["masks"][b], valid, options)
        low, mid, high, valid = (x[b] for x in batch["query"])
        valid = on_grid(valid, tuple(mid.shape[-2:]), mid.dtype)
        prior, local = query_local(state, low, high, valid, context, options)
        decoded = decode(state, mid, prior, local, valid, context, options)
        query.append(decoded["logits"])
        aux.append(auxiliary(state, decoded, batch["query_mask"][b], context))
        for view, out in (("weak", weak), ("strong", strong)):
            if view not in batch:
                continue
            for u in range(batch[view][0].shape[1]):
                low, mid, high, valid = (x[b, u] for x in batch[view])
                valid = on_grid(valid, tuple(mid.shape[-2:]), mid.dtype)
                prior, own = query_local(state, low, high, valid, context, options)
                chosen = {"query": local, "self": own, "none": torch.zeros_like(local)}[guide]
                out.append(decode(state, mid, prior, chosen, valid, context, options)["logits"])
    b = len(query)
    result = {"query": torch.stack(query), "aux": torch.stack(aux)}
    if weak:
        result["weak"] = torch.stack(weak).reshape(b, -1, *weak[0].shape)
        result["strong"] = torch.stack(strong).reshape(b, -1, *strong[0].shape)
    return result


# ---------------------------------------------------------------- 10. losses


def dice(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """One channel of one image: p in [0, 1], target, bool."""
    p, t = prediction[counted], target[counted]
    return 1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum())


def dice_of_mask(logits: Tensor, mask: Tensor) -> Tensor:
    """logits [2, h, w] brought to the mask's size; channels are background, object; summed."""
    p = sigmoid(resize(logits, tuple(mask.shape)))
    counted = mask != 255
    return dice(p[0], (mask == 0).to(p.dtype), counted) + dice(p[1], (mask == 1).to(p.dtype), counted)


def dice_of_views(learner: Tensor, teacher: Tensor, valid: Tensor, hard: bool, confidence: float) -> Tensor:
    """A pseudo-label is the teacher's sigmoid.

    Left open and taken as: hard puts 1 on the larger channel and 0 on the other; a position is as confident as its
    larger channel, and below the threshold in no sum.
    """
    label = sigmoid(teacher.detach())
    counted = valid & (torch.maximum(label[0], label[1]) >= confidence)
    if hard:
        larger = label[1] > label[0]
        label = torch.stack([~larger, larger]).to(label.dtype)
    p = sigmoid(learner)
    return dice(p[0], label[0], counted) + dice(p[1], label[1], counted)


def losses(
    outputs: dict,
    batch: dict,
    beta: float = 0.5,
    w_aux: float = 1.0,
    mutual: bool = False,
    hard: bool = False,
    confidence: float = 0.0,
) -> dict:
    b, k = batch["masks"].shape[:2]
    query = sum(dice_of_mask(outputs["query"][i], batch["query_mask"][i]) for i in range(b)) / b
    aux = sum(dice_of_mask(outputs["aux"][i, j], batch["masks"][i, j]) for i in range(b) for j in range(k)) / (b * k)
    terms = {"query": query, "aux": aux, "total": query + w_aux * aux}
    if "weak" in outputs:
        u, terms["self"] = outputs["weak"].shape[1], 0
        for i in range(b):
            for j in range(u):
                weak, strong = outputs["weak"][i, j], outputs["strong"][i, j]
                valid = on_grid(batch["weak"][3][i, j], tuple(weak.shape[-2:]), weak.dtype)
                one = dice_of_views(strong, weak, valid, hard, confidence)
                if mutual:
                    one = (one + dice_of_views(weak, strong, valid, hard, confidence)) / 2
                terms["self"] = terms["self"] + one / (b * u)
        terms["total"] = terms["total"] + beta * terms["self"]
    return terms


def gradients(total: Tensor, state: State) -> State:
    names = [name for name in state if state[name].requires_grad]
    found = torch.autograd.grad(total, [state[name] for name in names], allow_unused=True)
    return {name: torch.zeros_like(state[name]) if g is None else g for name, g in zip(names, found, strict=True)}


# ---------------------------------------------------------------- 11. optimisers


def clip(grads: State, largest: float) -> State:
    norm = math.sqrt(sum((g**2).sum().item() for g in grads.values()))
    return {name: g * min(1.0, largest / (norm + 1e-6)) for name, g in grads.items()}


def sgd(value: Tensor, grads: list[Tensor], rate: float, momentum: float, decay: float) -> Tensor:
    """Plain SGD over successive gradients: v = momentum v + (g + decay x), x -= rate v."""
    velocity = torch.zeros_like(value)
    for g in grads:
        velocity = momentum * velocity + g + decay * value
        value = value - rate * velocity
    return value


def adamw(
    value: Tensor, grads: list[Tensor], rate: float, decay: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Tensor:
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    for t, g in enumerate(grads, start=1):
        value = value * (1 - rate * decay)
        first = b1 * first + (1 - b1) * g
        second = b2 * second + (1 - b2) * g * g
        value = value - rate * (first / (1 - b1**t)) / (torch.sqrt(second / (1 - b2**t)) + eps)
    return value
