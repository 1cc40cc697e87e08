"""Hand-computed checks of the references, so that they can be trusted as oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from . import attention, hsnet, interaction, losses, metrics, prior, prototypes, resize, tokens

LOG3 = math.log(3.0)  # sigmoid(log 3) = 3/4, softmax(log 3, 0) = (3/4, 1/4)


def close(actual: ArrayLike, expected: ArrayLike, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(
        np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64), rtol=0, atol=atol
    )


class TestResize:
    def test_upsampling_puts_corners_on_corners(self) -> None:
        x = np.array([[[0, 2], [4, 6]]])
        close(resize.bilinear_align_corners(x, 3, 3), [[[0, 1, 2], [2, 3, 4], [4, 5, 6]]])

    def test_downsampling_picks_every_second_pixel(self) -> None:
        close(resize.bilinear_align_corners(np.arange(5.0)[None, None], 1, 3), [[[0, 2, 4]]])

    def test_fractional_positions(self) -> None:
        # 3 -> 4 columns samples at 0, 2/3, 4/3, 2; between 3 and 9 at 1/3: 3 + 6/3 = 5.
        close(resize.bilinear_align_corners(np.array([[[0, 3, 9]]]), 1, 4), [[[0, 2, 5, 9]]])

    def test_size_one_axes_sample_index_zero(self) -> None:
        x = np.array([[[1, 2], [3, 4]]])
        close(resize.bilinear_align_corners(x, 1, 1), [[[1]]])
        close(resize.bilinear_align_corners(x, 2, 1), [[[1], [3]]])
        close(resize.bilinear_align_corners(np.array([[[5]]]), 2, 3), np.full((1, 2, 3), 5))

    def test_same_size_is_identity_and_channels_stay_apart(self) -> None:
        x = np.arange(12.0).reshape(2, 2, 3)
        close(resize.bilinear_align_corners(x, 2, 3), x)


class TestPrior:
    """Query vectors against a foreground vector (1, 0): (3,4) -> 0.6, (4,3) -> 0.8, (1,0) -> 1, (-1,0) -> -1."""

    support = np.array([[[[2.0, 0.0]], [[0.0, 5.0]]]])  # [1, 2, 1, 2]: (2, 0) and (0, 5)
    first_only = np.array([[[0.01, 0.0]]])

    @staticmethod
    def query(*vectors: tuple[float, float]) -> np.ndarray:
        return np.array(vectors, dtype=np.float64).T[:, None, :]  # [2, 1, n]

    def test_clamp_and_min_max(self) -> None:
        # Similarities 1, 0.6, 0 and -1 clamped to 0; low 0, high 1.
        query = self.query((1, 0), (3, 4), (0, 1), (-1, 0))
        actual = prior.prior_mask(query, np.ones((1, 4), bool), self.support, self.first_only)
        close(actual, np.array([[1, 0.6, 0, 0]]) / (1 + 1e-7))

    def test_invalid_positions_are_zero_and_outside_the_min_max(self) -> None:
        # Over the valid 0.6, 0.8, 1 the range is 0.4: (0, 0.5, 1); the invalid 0 would have made the low end 0.
        query = self.query((3, 4), (4, 3), (1, 0), (0, 1))
        valid = np.array([[True, True, True, False]])
        actual = prior.prior_mask(query, valid, self.support, self.first_only)
        close(actual, np.array([[0, 0.2, 0.4, 0]]) / (0.4 + 1e-7))

    def test_best_foreground_position_counts(self) -> None:
        # Foreground (1,0) and (0,1) directions: (3,4) -> max(0.6, 0.8); (1,0) -> 1. Low 0.8, high 1.
        query = self.query((3, 4), (1, 0))
        actual = prior.prior_mask(query, np.ones((1, 2), bool), self.support, np.array([[[0.2, 0.9]]]))
        close(actual, [[0, 0.2 / (0.2 + 1e-7)]])

    def test_shot_without_foreground_counts_as_zero_in_the_mean(self) -> None:
        query = self.query((1, 0), (0, 1))
        supports = np.concatenate([self.support, self.support])
        masks = np.concatenate([self.first_only, np.zeros((1, 1, 2))])
        actual = prior.prior_mask(query, np.ones((1, 2), bool), supports, masks)
        close(actual, np.array([[0.5, 0]]) / (1 + 1e-7))

    def test_mean_over_shots_after_normalisation(self) -> None:
        # Shot 1 wants (1,0): 0.6, 1, 0 -> as they are. Shot 2 wants (0,1): 0.8, 0, 1 -> as they are.
        query = self.query((3, 4), (1, 0), (0, 1))
        supports = np.concatenate([self.support, self.support])
        masks = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
        actual = prior.prior_mask(query, np.ones((1, 3), bool), supports, masks)
        close(actual, np.array([[0.7, 0.5, 0.5]]) / (1 + 1e-7))

    def test_constant_map_and_no_valid_position_give_zero(self) -> None:
        query = self.query((3, 4), (6, 8))
        close(prior.prior_mask(query, np.ones((1, 2), bool), self.support, self.first_only), np.zeros((1, 2)), 1e-8)
        close(prior.prior_mask(query, np.zeros((1, 2), bool), self.support, self.first_only), np.zeros((1, 2)))

    def test_zero_vector_has_no_similarity(self) -> None:
        query = self.query((0, 0), (1, 0))
        actual = prior.prior_mask(query, np.ones((1, 2), bool), self.support, self.first_only)
        close(actual, [[0, 1 / (1 + 1e-7)]])


class TestPrototypes:
    def test_masked_average(self) -> None:
        # Weights 1, 0.5, 0, 0.5: (2 + 0.5*4 + 0.5*8) / 2 = 4 and (1 + 0 + 0.5*6) / 2 = 2.
        features = np.array([[[2, 4], [6, 8]], [[1, 0], [9, 6]]])
        close(prototypes.masked_average(features, np.array([[1, 0.5], [0, 0.5]])), [4, 2])

    def test_empty_mask_gives_zeros(self) -> None:
        close(prototypes.masked_average(np.ones((3, 2, 2)), np.zeros((2, 2))), [0, 0, 0])

    def test_global_prototype_is_a_mean_of_shots_not_of_pixels(self) -> None:
        # Shot 1 averages three pixels to 2, shot 2 one pixel to 10, shot 3 is empty: (2 + 10 + 0) / 3 = 4.
        features = np.array([[[[1, 2, 3]]], [[[10, 0, 0]]], [[[7, 7, 7]]]])
        weights = np.array([[[1, 1, 1]], [[1, 0, 0]], [[0, 0, 0]]])
        close(prototypes.global_prototype(features, weights), [4])

    def test_grid_pool_even_cells(self) -> None:
        x = np.arange(16.0).reshape(1, 4, 4)
        # Cell (0,0) holds 0 1 4 5, its mean 2.5; one cell right +2, one cell down +8.
        close(prototypes.grid_pool(x, np.ones((4, 4), bool), 2), [[[2.5, 4.5], [10.5, 12.5]]])

    def test_grid_pool_overlapping_cells(self) -> None:
        # 3 positions on 2 cells: 0-1 and 1-2. Of 1..9: (1+2+4+5)/4 = 3, then 4, 6, 7.
        x = np.arange(1.0, 10.0).reshape(1, 3, 3)
        close(prototypes.grid_pool(x, np.ones((3, 3), bool), 2), [[[3, 4], [6, 7]]])

    def test_grid_pool_more_cells_than_positions(self) -> None:
        # 2 positions on 4 cells: start 0 0 1 1, end 1 1 2 2.
        close(prototypes.grid_pool(np.array([[[3, 8]]]), np.ones((1, 2), bool), 4), [[[3, 3, 8, 8]] * 4])

    def test_grid_pool_valid_positions_only(self) -> None:
        x = np.arange(16.0).reshape(1, 4, 4)
        valid = np.ones((4, 4), bool)
        valid[0, 0] = False  # (1 + 4 + 5) / 3
        valid[2:, 2:] = False  # the last cell has none
        close(prototypes.grid_pool(x, valid, 2), [[[10 / 3, 4.5], [10.5, 0]]])

    def test_grid_pool_windows_of_the_paper(self) -> None:
        # A 60x60 map on a 4x4 grid: 15x15 windows. With column indices as features: 7, 22, 37, 52.
        x = np.tile(np.arange(60.0), (60, 1))[None]
        close(prototypes.grid_pool(x, np.ones((60, 60), bool), 4), [[[7, 22, 37, 52]] * 4])

    def test_channel_attention(self) -> None:
        # Squeezed (2, 1); hidden relu(1*2 - 1*1, -2*2 + 1) = (1, 0); gates sigmoid(log3 * 1) = 3/4, sigmoid(0) = 1/2.
        x = np.array([[[1, 3], [0, 4]], [[1, 1], [2, 0]]])
        w1 = np.array([[1, -1], [-2, 1]])
        w2 = np.array([[LOG3, 5], [0, 5]])
        close(prototypes.channel_attention(x, w1, w2), np.stack([0.75 * x[0], 0.5 * x[1]]))

    def test_local_prototype(self) -> None:
        # A 1x2 map on a 2x2 grid: both rows of the grid see the single row, each column its own position.
        # Times the prior (1, 0.5): channel 0 (4, 1), channel 1 (2, 3). Refined by [[1, 1], [0, 2]]: (6, 4) and (4, 6).
        # Squeezed (5, 5); hidden relu(0.2 * 5) = 1; gates sigmoid(log3) = 3/4 and sigmoid(0) = 1/2.
        low = np.array([[[4, 2]], [[2, 6]]])
        actual = prototypes.local_prototype(
            low,
            np.array([[1, 0.5]]),
            np.ones((1, 2), bool),
            2,
            np.array([[1, 1], [0, 2]]),
            np.array([[0.2, 0.0]]),
            np.array([[LOG3], [0]]),
        )
        close(actual, [4.5, 3, 4.5, 3, 2, 3, 2, 3])

    def test_local_prototype_leaves_invalid_positions_out(self) -> None:
        # One cell, one channel: only the first position counts, 4 * 0.5 = 2; refined by 3: 6; gate sigmoid(0) = 1/2.
        actual = prototypes.local_prototype(
            np.array([[[4, 100]]]),
            np.array([[0.5, 1]]),
            np.array([[True, False]]),
            1,
            np.array([[3]]),
            np.array([[1]]),
            np.array([[0]]),
        )
        close(actual, [3])


class TestInteraction:
    projected = np.array([[[1, 2]], [[3, 4]]])  # [2, 1, 2]
    prior_map = np.array([[0.5, 1]])

    def test_query_merge_with_everything(self) -> None:
        # Inputs per position: 2 query, 2 global (10, 20), 3 local (1, 2, 3), 1 prior; the weight reads each block once.
        # Row 0: q0 + global1 - local2 + 2*prior = (1 + 20 - 3 + 1, 2 + 20 - 3 + 2) = (19, 21).
        # Row 1: q1 - global0 + 3*local1 = (3 - 10 + 6, 4 - 10 + 6) = (-1, 0) -> ReLU (0, 0).
        weight = np.array([[1, 0, 0, 1, 0, 0, -1, 2], [0, 1, -1, 0, 0, 3, 0, 0]])
        actual = interaction.query_merge(
            self.projected, np.array([10, 20]), np.array([1, 2, 3]), self.prior_map, weight
        )
        close(actual, [[[19.0, 21.0]], [[0.0, 0.0]]])

    def test_query_merge_without_prototypes(self) -> None:
        weight = np.array([[1, 1, 2], [1, -1, 0]])  # (1+3+1, 2+4+2) and (-2, -2) -> 0
        close(interaction.query_merge(self.projected, None, None, self.prior_map, weight), [[[5, 8]], [[0, 0]]])

    def test_query_merge_with_one_prototype(self) -> None:
        only_global = np.array([[0, 0, 1, 2, 0], [0, 0, 0, 0, 1]])  # 10 + 40; the prior
        actual = interaction.query_merge(self.projected, np.array([10, 20]), None, self.prior_map, only_global)
        close(actual, [[[50.0, 50.0]], [[0.5, 1.0]]])
        only_local = np.array([[0, 0, 7, 0], [1, 0, 0, 0]])  # 7 * local; q0
        actual = interaction.query_merge(self.projected, None, np.array([3]), self.prior_map, only_local)
        close(actual, [[[21, 21]], [[1, 2]]])

    def test_wrong_weight_is_refused(self) -> None:
        with pytest.raises(ValueError, match="Expected 4 concatenated channels"):
            interaction.query_merge(self.projected, None, None, self.prior_map, np.ones((2, 4)))

    def test_support_merge(self) -> None:
        # Row 0: s0 + own1 = (1 + 7, 2 + 7); row 1: s1 - own0 = (3 - 5, 4 - 5) -> 0.
        weight = np.array([[1, 0, 0, 1], [0, 1, -1, 0]])
        close(interaction.support_merge(self.projected, np.array([5, 7]), weight), [[[8, 9]], [[0, 0]]])


class TestTokens:
    def test_select_evenly(self) -> None:
        # F = 4, count = 2: floors of r*2/4 for r = 0..4 are 0 0 1 1 2, so ranks 1 and 3.
        label_mask = np.array([False, True, True, False, True, True])
        assert tokens.select_evenly(label_mask, 2).tolist() == [2, 5]
        # F = 5, count = 3: floors of r*3/5 for r = 0..5 are 0 0 1 1 2 3, so ranks 1, 3, 4.
        assert tokens.select_evenly(np.ones(5, bool), 3).tolist() == [1, 3, 4]

    @pytest.mark.parametrize("count", [5, 6, 600])
    def test_select_evenly_takes_all_where_there_are_few(self, count: int) -> None:
        assert tokens.select_evenly(np.ones(5, bool), count).tolist() == [0, 1, 2, 3, 4]

    def test_select_evenly_of_nothing(self) -> None:
        assert tokens.select_evenly(np.zeros(3, bool), 2).tolist() == []
        assert tokens.select_evenly(np.ones(3, bool), 0).tolist() == []

    def test_select_evenly_gives_exactly_the_count(self) -> None:
        for total in range(1, 40):
            for count in range(total + 1):
                assert len(tokens.select_evenly(np.ones(total, bool), count)) == count

    @pytest.mark.parametrize(
        ("available", "total", "expected"),
        [
            ((500, 500), 600, (300, 300)),
            ((300, 300), 600, (300, 300)),
            ((100, 900), 600, (100, 500)),  # foreground short by 200
            ((900, 50), 600, (550, 50)),  # background short by 250
            ((100, 400), 600, (100, 400)),  # 100 slots stay empty
            ((100, 100), 600, (100, 100)),
            ((0, 1000), 600, (0, 600)),
            ((4, 4), 7, (3, 3)),
        ],
    )
    def test_counts(self, available: tuple[int, int], total: int, expected: tuple[int, int]) -> None:
        assert tokens.counts(*available, total) == expected

    def test_labels(self) -> None:
        soft_mask = np.array([[0.9, 0.5, 0.0], [0.51, 0.0, 0.2]])
        soft_void = np.array([[0.0, 0.5, 0.6], [0.0, 0.0, 0.0]])
        valid = np.array([[True, True, True], [True, False, True]])
        foreground, background = tokens.labels(soft_mask, soft_void, valid)
        assert foreground.tolist() == [[True, False, False], [True, False, False]]
        # Second: void exactly 0.5, still background; third: void; fifth: invalid.
        assert background.tolist() == [[False, True, False], [False, False, True]]

    def test_labels_fallback_is_the_first_of_the_largest(self) -> None:
        soft_mask = np.array([[0.1, 0.4], [0.4, 0.0]])
        foreground, background = tokens.labels(soft_mask, np.zeros((2, 2)), np.ones((2, 2), bool))
        assert foreground.tolist() == [[False, True], [False, False]]
        assert background.tolist() == [[True, False], [True, True]]

    def test_labels_without_any_mask(self) -> None:
        foreground, background = tokens.labels(np.zeros((1, 2)), np.zeros((1, 2)), np.ones((1, 2), bool))
        assert not foreground.any()
        assert background.all()


class TestDeformable:
    """Identity value and output projections unless said; the map 1 2 / 3 4 with one channel or two."""

    @staticmethod
    def weights(channels: int, heads: int, points: int) -> dict[str, np.ndarray]:
        return {
            "value_w": np.eye(channels),
            "value_b": np.zeros(channels),
            "offset_w": np.zeros((heads * points * 2, channels)),
            "offset_b": np.zeros(heads * points * 2),
            "attn_w": np.zeros((heads * points, channels)),
            "attn_b": np.zeros(heads * points),
            "out_w": np.eye(channels),
            "out_b": np.zeros(channels),
        }

    def test_no_offset_is_identity(self) -> None:
        value = np.array([[1.0], [2], [3], [4]])
        actual = attention.deformable(value, value, 2, 2, np.ones(4, bool), 1, 3, self.weights(1, 1, 3))
        close(actual, value)

    def test_half_a_pixel_right_samples_zeros_outside(self) -> None:
        # Row 0: (1 + 2)/2, (2 + 0)/2; row 1: (3 + 4)/2, (4 + 0)/2.
        weights = self.weights(1, 1, 1) | {"offset_b": np.array([0.5, 0])}
        value = np.array([[1.0], [2], [3], [4]])
        actual = attention.deformable(value, value, 2, 2, np.ones(4, bool), 1, 1, weights)
        close(actual[:, 0], [1.5, 1, 3.5, 2])

    def test_bilinear_in_both_axes_and_negative_offsets(self) -> None:
        # From (0.25 up, 0.5 left) of token 3 (value 4 at row 1, column 1): rows 0 and 1 weigh 1/4 and 3/4, columns
        # 1/2 each: 1/8*1 + 1/8*2 + 3/8*3 + 3/8*4 = 3. Token 0 sees only itself: 3/4 * 1/2 * 1 = 3/8.
        weights = self.weights(1, 1, 1) | {"offset_b": np.array([-0.5, -0.25])}
        value = np.array([[1.0], [2], [3], [4]])
        actual = attention.deformable(value, value, 2, 2, np.ones(4, bool), 1, 1, weights)
        close(actual[[0, 3], 0], [0.375, 3])

    def test_heads_have_their_own_channels_and_offsets(self) -> None:
        # Head 0 (channel 0) looks one to the right, head 1 (channel 1) one down.
        weights = self.weights(2, 2, 1) | {"offset_b": np.array([1.0, 0, 0, 1])}
        value = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40]])
        actual = attention.deformable(value, value, 2, 2, np.ones(4, bool), 2, 1, weights)
        close(actual, [[2, 30], [0, 40], [4, 0], [0, 0]])

    def test_points_are_weighed_by_softmax_per_head(self) -> None:
        # Head 0: points stay / right with 3/4 and 1/4; head 1: stay / down with 1/4 and 3/4. Token 0:
        # 3/4*1 + 1/4*2 = 1.25 and 1/4*10 + 3/4*30 = 25.
        weights = self.weights(2, 2, 2) | {
            "offset_b": np.array([0.0, 0, 1, 0, 0, 0, 0, 1]),
            "attn_b": np.array([LOG3, 0, 0, LOG3]),
        }
        value = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40]])
        actual = attention.deformable(value, value, 2, 2, np.ones(4, bool), 2, 2, weights)
        close(actual[0], [1.25, 25])

    def test_offsets_and_weights_come_from_the_query_with_position(self) -> None:
        # The offset to the right is the query's number, so tokens of the row 1 2 3 move by 2, 0, -1; the second point
        # stays and its logit is log3 * query: token 0 weighs it 9/(9+1), token 1 1/2, token 2 1/3 / (1/3 + 1) = 1/4.
        weights = self.weights(1, 1, 2) | {
            "offset_w": np.array([[1.0], [0], [0], [0]]),
            "attn_w": np.array([[0.0], [LOG3]]),
        }
        value, query = np.array([[1.0], [2], [3]]), np.array([[2.0], [0], [-1]])
        actual = attention.deformable(query, value, 1, 3, np.ones(3, bool), 1, 2, weights)
        close(actual[:, 0], [0.1 * 3 + 0.9 * 1, 2, 0.75 * 2 + 0.25 * 3])

    def test_projections_and_invalid_values(self) -> None:
        # Values 2*v + 1 = 3, 5 (invalid, so 0 in spite of the bias); output 10*x - 1.
        weights = self.weights(1, 1, 1) | {
            "value_w": np.array([[2.0]]),
            "value_b": np.array([1.0]),
            "out_w": np.array([[10.0]]),
            "out_b": np.array([-1.0]),
        }
        value = np.array([[1.0], [2]])
        actual = attention.deformable(value, value, 1, 2, np.array([True, False]), 1, 1, weights)
        close(actual[:, 0], [29, -1])

    def test_linear_uses_rows_of_the_weight_as_outputs(self) -> None:
        actual = attention.linear(np.array([[1, 2]]), np.array([[1, 0], [1, 1], [0, 3]]), np.array([0, 0, 1]))
        close(actual, [[1, 3, 7]])


class TestCycleMask:
    query = np.array([[[1.0, 0]], [[0, 1.0]]])  # two queries, one head
    keys = np.array([[[2.0, 0]], [[1.0, 0]], [[0, 1.0]]])  # the first two belong to query 0, the last to query 1
    both = np.ones(2, bool)
    all_tokens = np.ones(3, bool)

    def test_hand_example(self) -> None:
        # Token 1 -> query 0 -> token 0 of the other label: out. Tokens 0 and 2 come back to themselves.
        keep = attention.cycle_mask(self.query, self.keys, self.both, self.all_tokens, np.array([True, False, False]))
        assert keep.tolist() == [[True, False, True]]

    def test_same_label_comes_back_to_another_token_and_stays(self) -> None:
        keep = attention.cycle_mask(self.query, self.keys, self.both, self.all_tokens, np.array([True, True, False]))
        assert keep.tolist() == [[True, True, True]]

    def test_invalid_tokens_are_no_target_and_not_kept(self) -> None:
        # Without token 0, token 1 comes back to itself.
        valid = np.array([False, True, True])
        keep = attention.cycle_mask(self.query, self.keys, self.both, valid, np.array([True, False, False]))
        assert keep.tolist() == [[False, True, True]]

    def test_invalid_queries_are_no_step(self) -> None:
        # Only query 1 is left; it prefers token 2 (background), so foreground token 0 is out, token 1 stays.
        keep = attention.cycle_mask(
            self.query, self.keys, np.array([False, True]), self.all_tokens, np.array([True, False, False])
        )
        assert keep.tolist() == [[False, True, True]]

    def test_ties_go_to_the_lowest_index(self) -> None:
        # Equal keys: the only query's best token is token 0, whose label decides.
        keys = np.ones((3, 1, 2))
        keep = attention.cycle_mask(self.query[:1], keys, np.ones(1, bool), self.all_tokens, np.array([1, 0, 0], bool))
        assert keep.tolist() == [[True, False, False]]
        # Token 0 ties both queries and takes query 0, whose best token is token 1, of the other label. Query 1 would
        # have led back to token 0 (1 against 0).
        keys = np.array([[[1.0, 1]], [[2.0, 0]]])
        keep = attention.cycle_mask(self.query, keys, self.both, np.ones(2, bool), np.array([True, False]))
        assert keep.tolist() == [[False, True]]

    def test_heads_are_separate(self) -> None:
        query = np.concatenate([self.query, self.query], axis=1)
        keys = np.concatenate([self.keys, self.keys[[1, 0, 2]]], axis=1)  # head 1 prefers token 1
        keep = attention.cycle_mask(query, keys, self.both, self.all_tokens, np.array([True, False, False]))
        assert keep.tolist() == [[True, False, True], [False, True, True]]

    def test_some_token_always_stays(self) -> None:
        # The pair of the largest affinity is its own best both ways.
        rng = np.random.default_rng(0)
        for _ in range(20):
            query, keys = rng.normal(size=(4, 2, 3)), rng.normal(size=(5, 2, 3))
            keep = attention.cycle_mask(query, keys, np.ones(4, bool), np.ones(5, bool), rng.random(5) < 0.5)
            assert keep.any(axis=1).all()


class TestCross:
    query = np.array([[[2 * LOG3, 0, 0, 0]]])  # d = 4, so the scale is 1/2
    keys = np.array([[[1.0, 0, 0, 0]], [[0, 5.0, 0, 0]], [[1.0, 0, 0, 0]]])
    values = np.array([[[4.0, 0, 0, 1]], [[8.0, 4, 0, 1]], [[0, 0, 0, 0]]])

    def test_two_tokens(self) -> None:
        # Logits log3 and 0: weights 3/4 and 1/4: (3 + 2, 0 + 1, 0, 1).
        valid = np.array([True, True, False])
        actual = attention.cross(self.query, self.keys, self.values, np.ones((1, 3), bool), valid)
        close(actual, [[5, 1, 0, 1]])

    def test_all_three_and_masked(self) -> None:
        # Logits log3, 0, log3: weights 3/7, 1/7, 3/7; without token 0 by the mask: 1/4 and 3/4.
        valid = np.ones(3, bool)
        actual = attention.cross(self.query, self.keys, self.values, np.ones((1, 3), bool), valid)
        close(actual, [[20 / 7, 4 / 7, 0, 4 / 7]])
        actual = attention.cross(self.query, self.keys, self.values, np.array([[False, True, True]]), valid)
        close(actual, [[2, 1, 0, 0.25]])

    def test_nothing_left_is_zero(self) -> None:
        actual = attention.cross(self.query, self.keys, self.values, np.zeros((1, 3), bool), np.ones(3, bool))
        close(actual, np.zeros((1, 4)))

    def test_heads_are_concatenated(self) -> None:
        # d = 1: head 0 logits log3, 0; head 1 keeps only token 1.
        query = np.array([[[LOG3], [1.0]]])
        keys = np.array([[[1.0], [3.0]], [[0.0], [1.0]]])
        values = np.array([[[8.0], [1.0]], [[0.0], [2.0]]])
        keep = np.array([[True, True], [False, True]])
        close(attention.cross(query, keys, values, keep, np.ones(2, bool)), [[6, 2]])


class TestSinePosition:
    def test_four_channels(self) -> None:
        # Half of 2: frequency 1 only. Row at 1/1 of the circle: sin 0, cos 1. Columns at 1/2 and 2/2: cos -1 and 1.
        actual = attention.sine_position(1, 2, 4)
        close(actual, [[[0, 0]], [[1, 1]], [[0, 0]], [[-1, 1]]])

    def test_second_frequency_is_a_hundredth(self) -> None:
        # Half of 4: channels 2 and 3 have exponent 2*1/4, a wavelength of 10000**0.5 = 100. Rows at 1/4 and 2/4 (h=4).
        actual = attention.sine_position(4, 1, 8)
        close(actual[:4, 0, 0], [1, 0, math.sin(math.pi / 200), math.cos(math.pi / 200)])
        close(actual[:4, 1, 0], [0, -1, math.sin(math.pi / 100), math.cos(math.pi / 100)])
        close(actual[4:, 2, 0], [0, 1, math.sin(math.pi / 50), math.cos(math.pi / 50)])


class TestLosses:
    def test_indifferent_prediction(self) -> None:
        # p = 1/2 on 4 pixels, target 1 1 1 0. Foreground: 1 - 2*1.5/(1 + 3) = 1/4. Background: 1 - 2*0.5/(1 + 1) = 1/2.
        close(losses.dice(np.zeros((2, 2, 2)), np.array([[1, 1], [1, 0]])), 0.75, atol=1e-7)

    def test_ignored_pixels_are_in_no_sum(self) -> None:
        logits = np.zeros((2, 1, 6))
        logits[:, 0, 4:] = 50.0
        close(losses.dice(logits, np.array([[1, 1, 1, 0, 255, 255]])), 0.75, atol=1e-7)

    def test_channels_have_their_own_logit(self) -> None:
        # Foreground p = 3/4, 1/4 on target 1, 0: 1 - 2*(3/4)/(10/16 + 1) = 1 - 12/13 = 1/13.
        # Background p = 3/4, 3/4 on target 0, 1: 1 - 2*(3/4)/(18/16 + 1) = 1 - 12/17 = 5/17.
        logits = np.array([[[LOG3, LOG3]], [[LOG3, -LOG3]]])
        close(losses.dice(logits, np.array([[1, 0]])), 1 / 13 + 5 / 17, atol=1e-7)

    def test_epsilon_is_in_each_denominator(self) -> None:
        # Same example, exactly.
        logits = np.array([[[LOG3, LOG3]], [[LOG3, -LOG3]]])
        exact = 2 - 1.5 / (26 / 16 + 1e-7) - 1.5 / (34 / 16 + 1e-7)
        close(losses.dice(logits, np.array([[1, 0]])), exact, atol=1e-14)

    def test_right_wrong_and_empty(self) -> None:
        target = np.array([[0, 1]])
        right = np.array([[[800.0, -800]], [[-800, 800]]])
        close(losses.dice(right, target), 0, atol=1e-6)
        close(losses.dice(-right, target), 2)
        close(losses.dice(right, np.full((1, 2), 255)), 2)

    def test_soft_target(self) -> None:
        # Foreground p = 3/4, 1/4, t = 1/2, 1/4: overlap 7/16, squares 10/16 + 5/16: 1 - 14/15.
        # Background p = 1/2, 1/2, t = 1/2, 3/4: overlap 10/16, squares 8/16 + 13/16: 1 - 20/21.
        logits = np.array([[[0, 0, 9]], [[LOG3, -LOG3, 9]]])
        target = np.array([[[0.5, 0.75, 0.3]], [[0.5, 0.25, 0.7]]])
        valid = np.array([[True, True, False]])
        close(losses.dice_soft(logits, target, valid), 1 / 15 + 1 / 21, atol=1e-6)


class TestMetrics:
    predictions = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 1, 1]]])
    targets = np.array([[[1, 0, 0, 255]], [[1, 1, 1, 0]], [[0, 1, 1, 255]]])
    # Foreground intersection/union: 1/2, 1/3, 1/2; background: 1/2, 1/3, 1/2.

    def test_intersection_union(self) -> None:
        pairs = list(zip(self.predictions, self.targets, strict=True))
        assert [metrics.intersection_union(p, t, 1) for p, t in pairs] == [(1, 2), (1, 3), (1, 2)]
        assert [metrics.intersection_union(p, t, 0) for p, t in pairs] == [(1, 2), (1, 3), (1, 2)]

    def test_miou_divides_once_per_class(self) -> None:
        # Class 7 holds episodes 0 and 1: 2/5; class 9: 1/2. Means of episodes would give 5/12 for class 7.
        assert metrics.class_iou(list(self.predictions), list(self.targets), [7, 7, 9]) == {7: 0.4, 9: 0.5}
        close(metrics.miou(list(self.predictions), list(self.targets), [7, 7, 9]), 0.45)

    def test_fb_iou_ignores_classes(self) -> None:
        # Make the sides differ: episode 0 predicted all background: foreground 0/1, background 2/3.
        predictions = [np.zeros((1, 4)), *self.predictions[1:]]
        # Foreground (0 + 1 + 1) / (1 + 3 + 2) = 1/3; background (2 + 1 + 1) / (3 + 3 + 2) = 1/2.
        close(metrics.fb_iou(predictions, list(self.targets)), 5 / 12)

    def test_undefined_iou_is_refused(self) -> None:
        with pytest.raises(ValueError, match="undefined"):
            metrics.miou([np.zeros((1, 1))], [np.zeros((1, 1))], [3])

    def test_ece(self) -> None:
        # Bin 0.9-1.0: 0.95 and 1.0, one right: |0.975 - 0.5| = 0.475, weight 2/4. Bin 0.2-0.3: 0.2 and 0.25, none
        # right: 0.225, weight 2/4. Together 0.35.
        close(metrics.ece([0.95, 0.2, 1.0, 0.25], [True, False, False, False]), 0.35)
        # With two bins: 0.5 goes up. Upper: |0.75 - 0.5| * 2/3; lower: |0.4 - 1| * 1/3.
        close(metrics.ece([0.5, 1.0, 0.4], [False, True, True], bins=2), 0.5 / 3 + 0.6 / 3)

    def test_auroc(self) -> None:
        # Positives 0.9, 0.4; negatives 0.4, 0.1, 0.6: 3 won by 0.9; 0.4 ties one and beats one: 4.5 of 6.
        close(metrics.auroc([0.9, 0.4, 0.4, 0.1, 0.6], [True, True, False, False, False]), 0.75)
        close(metrics.auroc([0.2, 0.8], [True, False]), 0)
        with pytest.raises(ValueError, match="one positive and one negative"):
            metrics.auroc([0.5], [True])


class TestHsnet:
    def test_squash_takes_what_lies_under_the_centre(self) -> None:
        # 6 columns to 3: centres at 1, 3, 5 hit columns 1, 3, 5. 2 rows to 3: centres at 1/3, 1, 5/3 hit rows 0, 1, 1.
        mask = np.array([[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 255]])
        assert hsnet.squash_mask(mask, 3).tolist() == [[1, 3, 5], [11, 13, 255], [11, 13, 255]]

    def test_squash_moves_middles_to_middles_and_edges_to_edges(self) -> None:
        # The middle of 7 pixels is 3, that of 400 is 199.5; the left edge is half a pixel before the first centre.
        close(hsnet.squash_coordinate(3, 7, 400), 199.5)
        close(hsnet.squash_coordinate(-0.5, 7, 400), -0.5)
        close(hsnet.squash_coordinate(6.5, 7, 400), 399.5)

    def test_corners_of_scores_go_to_the_corners_of_the_picture(self) -> None:
        close(hsnet.network_scores(np.array([[0.0, 2], [4, 6]]), 3), [[0, 1, 2], [2, 3, 4], [4, 5, 6]])
        close(hsnet.network_scores(np.array([[0.0, 2], [4, 6]]), 2), [[0, 2], [4, 6]])

    def test_counts_meet_at_network_size(self) -> None:
        # Class 3 is under centre (0, 0), the ignored pixel under (1, 1): three pixels count, one of them is wrong.
        mask = np.array([[9, 9, 9, 9], [9, 3, 9, 0], [9, 9, 9, 9], [9, 0, 9, 255]])
        prediction = np.array([[1, 1], [0, 1]])
        assert hsnet.counts_at_network_size(prediction, mask, 3) == [[1, 2], [1, 2]]

    def test_votes_over_the_most_votes(self) -> None:
        # Sums 4, 2, 1, 0 of five masks: over the largest, 1, 0.5, 0.25, 0.
        masks = np.array([[[1, 1, 0, 0]], [[1, 1, 0, 0]], [[1, 0, 1, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]])
        assert hsnet.vote(masks).tolist() == [[1, 1, 0, 0]]

    def test_one_vote_is_enough_where_none_has_two_and_none_is_not(self) -> None:
        assert hsnet.vote(np.array([[[1, 0]], [[0, 0]], [[0, 0]]])).tolist() == [[1, 0]]
        assert hsnet.vote(np.zeros((3, 1, 2))).tolist() == [[0, 0]]
