"""Views of a support: what each shows, by a plain reference, and what the network makes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import SMALL
from torch import Tensor

from rifenet.config import ModelConfig, with_test_options
from rifenet.models import Features, RiFeNet, build_model
from rifenet.models.beyond.support_views import ROOM, support_views


def box_of(mask: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the foreground, the latter of each pair past the end."""
    rows, columns = np.nonzero(mask.numpy() == 1)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def closer_by_pillow(image: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The closer look as Pillow's affine transform sees it: [H,W] of the first channel, and of the mask."""
    height, width = mask.shape
    top, bottom, left, right = box_of(mask)
    share = min(1.0, ROOM * max((bottom - top) / height, (right - left) / width))
    y = min(max((top + bottom) / 2 - share * height / 2, 0), height - share * height)
    x = min(max((left + right) / 2 - share * width / 2, 0), width - share * width)
    affine = (share, 0, x, 0, share, y)
    channel = Image.fromarray(image[0].numpy(), mode="F")
    bilinear = channel.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    nearest = Image.fromarray(mask.numpy()).transform((width, height), Image.Transform.AFFINE, affine)
    return np.asarray(bilinear), np.asarray(nearest)


def supports() -> tuple[Tensor, Tensor, Tensor]:
    """Two shots of 40 x 64: an object of 10 x 8 with an ignored border, and one at the edge; the second is padded."""
    torch.manual_seed(0)
    images, masks = torch.rand(1, 2, 3, 40, 64), torch.zeros(1, 2, 40, 64, dtype=torch.uint8)
    masks[0, 0, 11:23, 29:39] = 255
    masks[0, 0, 12:22, 30:38] = 1
    masks[0, 1, 0:6, 50:60] = 1
    valid = torch.ones(1, 2, 40, 64, dtype=torch.bool)
    valid[0, 1, 32:] = False
    return images, masks, valid


def test_the_whole_photo_comes_first_and_every_view_mirrored_after_it() -> None:
    images, masks, valid = supports()
    whole, mirrored, closer, closer_mirrored = support_views(images, masks, valid, 4)
    for part, expected in zip(whole, (images, masks, valid), strict=True):
        assert part is expected
    for view, turned in ((whole, mirrored), (closer, closer_mirrored)):
        for part, other in zip(view, turned, strict=True):
            assert part is not None
            assert other is not None
            assert torch.equal(part.flip(-1), other)
    assert len(list(support_views(images, masks, valid, 2))) == 2
    assert len(list(support_views(images, masks, valid, 1))) == 1


def test_the_second_of_two_views_may_be_a_mirrored_closer_look() -> None:
    shots = supports()
    whole, closer = support_views(*shots, 2, closer=True)
    _, _, _, expected = support_views(*shots, 4)
    for parts, others in ((whole, shots), (closer, expected)):
        for part, other in zip(parts, others, strict=True):
            assert part is not None
            assert other is not None
            assert torch.equal(part, other)


def test_a_closer_look_is_what_pillow_sees_of_the_same_box() -> None:
    images, masks, valid = supports()
    seen, labels, real = list(support_views(images, masks, valid, 4))[2]
    for shot in range(2):
        image, mask = closer_by_pillow(images[0, shot], masks[0, shot])
        inner = (slice(2, -2), slice(2, -2))  # at the border of a photo Pillow invents no pixel, and leaves black
        np.testing.assert_allclose(seen[0, shot, 0].numpy()[inner], image[inner], atol=1e-5)
        assert (labels[0, shot].numpy() != mask).mean() < 0.03  # halves are rounded to either side
        assert (labels[0, shot] == 1).sum() > 2 * (masks[0, shot] == 1).sum()
    assert real is not None
    assert real[0].all()  # both boxes lie in real pixels
    assert seen.shape == images.shape
    assert labels.dtype == masks.dtype


def test_padding_in_a_closer_look_is_padding() -> None:
    images, masks, valid = supports()
    masks[0, 1] = 0
    masks[0, 1, 26:32, 4:12] = 1  # the box around it reaches into the padding from row 32 on
    real = list(support_views(images, masks, valid, 4))[2][2]
    assert real is not None
    shown = real[0, 1].float().mean()
    assert 0.5 < float(shown) < 1
    assert not real[0, 1, -1].any()


@pytest.mark.parametrize("mask", [0, 1, 255])
def test_an_object_everywhere_or_nowhere_leaves_the_whole_photo(mask: int) -> None:
    images = torch.rand(1, 1, 3, 33, 47)
    masks = torch.full((1, 1, 33, 47), mask, dtype=torch.uint8)
    seen, labels, real = list(support_views(images, masks, None, 4))[2]
    assert torch.allclose(seen, images, atol=1e-6)
    assert torch.equal(labels, masks)
    assert real is None


@pytest.mark.parametrize(("count", "closer"), [(4, False), (2, False), (2, True)])
def test_views_are_shots_and_features_have_none(count: int, closer: bool) -> None:
    model = build_model(**SMALL).eval()
    assert isinstance(model, RiFeNet)
    images, masks, valid = supports()
    images = torch.nn.functional.interpolate(images[0], size=(65, 97))[None]
    masks = torch.nn.functional.interpolate(masks[0][None].float(), size=(65, 97))[0][None].to(torch.uint8)
    valid = torch.ones(masks.shape, dtype=torch.bool)
    with torch.inference_mode():
        plain = model.encode_support(images, masks, valid)
        viewing = dataclasses.replace(model.config, support_views=count, support_closer=closer)
        model.config = viewing
        viewed = model.encode_support(images, masks, valid)
        parts = list(support_views(images, masks, valid, count, closer=closer))
        model.config = dataclasses.replace(model.config, support_views=1, support_closer=False)
        by_hand = model.encode_support(*(torch.cat(field, 1) for field in zip(*parts, strict=True)))  # type: ignore[arg-type]  # valid is there
        model.config = viewing
        features = model.backbone(images.flatten(0, 1))
        known = Features(*(level[None] for level in features))
        from_features = model.encode_support(known, masks, valid)
    for one, other in zip(viewed, by_hand, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)
    assert viewed.prior_keys.shape[1] == count * plain.prior_keys.shape[1]
    for one, other in zip(plain, from_features, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)


def test_what_is_learned_of_a_class_can_be_set_on_a_trained_model() -> None:
    config = with_test_options(ModelConfig(), ["support_views=4", "max_evidence_keys=1024", "mask_threshold=0.3"])
    assert (config.support_views, config.max_evidence_keys, config.mask_threshold) == (4, 1024, 0.3)
    assert with_test_options(config, []) == config
    halved = with_test_options(config, ["support_views=2", "support_closer=true"])
    assert (halved.support_views, halved.support_closer) == (2, True)
    assert with_test_options(halved, ["support_closer=False"]).support_closer is False


@pytest.mark.parametrize("views", [1, 4])
def test_only_the_second_of_two_views_can_be_chosen(views: int) -> None:
    with pytest.raises(ValueError, match=rf"model\.support_views 2 with model\.support_closer.* but got {views}"):
        ModelConfig(support_views=views, support_closer=True)
    with pytest.raises(ValueError, match=f"but got {views}"):
        with_test_options(ModelConfig(support_views=2, support_closer=True), [f"support_views={views}"])


@pytest.mark.parametrize(
    "setting",
    [
        *("embed_dim=4", "support_views", "support_views=x", "support_views=3", "support_views=2.0", ""),
        *("mask_threshold=1", "mask_threshold=0", "mask_threshold=nan", "mask_threshold=half"),
    ],
)
def test_nothing_else_can(setting: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        with_test_options(ModelConfig(), [setting])


@pytest.mark.parametrize("word", ["", "0", "1", "no", "truee"])
def test_a_switch_is_true_or_false(word: str) -> None:
    with pytest.raises(ValueError, match="true or false for support_closer"):
        with_test_options(ModelConfig(support_views=2), [f"support_closer={word}"])
