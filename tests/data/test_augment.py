"""Crops, flips and zooms against the same thing in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from backroads.data.augment import (
    AREAS,
    ATTEMPTS,
    AUGMENTS,
    COLUMNS,
    DOWN,
    PAD,
    RATIOS,
    RIGHT,
    boxes,
    shift,
    uniforms,
    zoom,
)

N = 20_000


def test_numbers_depend_on_seed_epoch_and_position_alone() -> None:
    whole = uniforms(1, 2, torch.arange(50))
    assert torch.equal(uniforms(1, 2, torch.tensor([7, 40, 3])), whole[[7, 40, 3]])
    assert not torch.equal(uniforms(1, 3, torch.arange(50)), whole)
    assert not torch.equal(uniforms(2, 1, torch.arange(50)), whole)


def test_numbers_are_uniform_and_independent() -> None:
    u = uniforms(0, 0, torch.arange(N))
    assert u.shape == (N, COLUMNS)
    assert 0 <= float(u.min()) < float(u.max()) < 1
    # Five standard errors each; with the 23 columns' 276 pairs too.
    assert float((u.mean(0) - 0.5).abs().max()) < 5 * math.sqrt(1 / 12 / N)
    assert float((u.var(0) - 1 / 12).abs().max()) < 5 * math.sqrt(1 / 180 / N)
    assert float((torch.corrcoef(u.T) - torch.eye(COLUMNS)).abs().max()) < 5 / math.sqrt(N)
    assert float(torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1].abs()) < 5 / math.sqrt(N)


def test_half_of_the_images_are_flipped_and_all_shifts_are_equally_frequent() -> None:
    draws = AUGMENTS["crop_flip"].draw(0, 0, torch.arange(N), (32, 32))
    assert draws.flips is not None
    assert draws.offsets is not None
    assert abs(float(draws.flips.double().mean()) - 0.5) < 5 * math.sqrt(0.25 / N)
    for axis in (0, 1):
        share = torch.bincount(draws.offsets[:, axis], minlength=9).double() / N
        assert len(share) == 2 * PAD + 1
        assert float((share - 1 / 9).abs().max()) < 5 * math.sqrt(1 / 9 * 8 / 9 / N)


def test_a_shift_is_a_window_of_the_image_in_a_border_of_zeros() -> None:
    x = torch.randn(4, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([[0, 0], [8, 8], [4, 4], [1, 6]])
    found = shift(x, offsets)
    for n, (down, right) in enumerate(offsets.tolist()):
        for c in range(2):
            for i in range(5):
                for j in range(7):
                    row, column = i + down - PAD, j + right - PAD
                    inside = 0 <= row < 5 and 0 <= column < 7
                    assert found[n, c, i, j] == (x[n, c, row, column] if inside else 0)


def test_flips_mirror_those_images_and_no_others() -> None:
    x = torch.randn(64, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    draws = AUGMENTS["flip"].draw(5, 1, torch.arange(64), (3, 4))
    assert draws.flips is not None
    for n, flipped in enumerate(draws.flips.tolist()):
        expected = [row[::-1] if flipped else row for row in x[n, 0].tolist()]
        assert draws.apply(x)[n, 0].tolist() == expected


def test_a_zoom_is_a_crop_that_is_resized() -> None:
    x = torch.randn(5, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 0, 9, 12], [2, 3, 4, 5], [8, 11, 1, 1], [0, 6, 9, 6], [5, 0, 3, 12]])
    found = zoom(x, places)
    for n, (top, left, h, w) in enumerate(places.tolist()):
        part = x[n : n + 1, :, top : top + h, left : left + w]
        torch.testing.assert_close(found[n : n + 1], F.interpolate(part, size=(9, 12), mode="bilinear"))


@pytest.mark.parametrize("size", [(32, 32), (20, 60), (300, 7), (1, 1), (5, 500)])
def test_boxes_are_those_of_the_definition(size: tuple[int, int]) -> None:
    height, width = size
    u = uniforms(0, 0, torch.arange(100))
    found = boxes(u, height, width).tolist()
    for numbers, box in zip(u.tolist(), found, strict=True):
        for attempt in range(ATTEMPTS):
            area = height * width * (0.08 + 0.92 * numbers[AREAS + attempt])
            ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * numbers[RATIOS + attempt])
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(numbers[DOWN] * (height - h + 1))
                assert box == [top, int(numbers[RIGHT] * (width - w + 1)), h, w]
                break
        else:
            ratio = box[3] / box[2]
            assert 0.6 < ratio < 1.5
            assert box[2] == height or box[3] == width
        assert box[0] >= 0
        assert box[1] >= 0
        assert box[0] + box[2] <= height
        assert box[1] + box[3] <= width


def test_alternate_flips_show_each_image_both_ways_in_two_epochs() -> None:
    images, other = torch.randperm(N), torch.randperm(N)
    how = AUGMENTS["translate_alternate"]
    first, second, third = (
        how.draw(3, epoch, torch.arange(N), (8, 8), order) for epoch, order in ((1, images), (2, other), (3, images))
    )
    assert first.flips is not None
    assert second.flips is not None
    assert torch.equal(first.flips[images.argsort()], ~second.flips[other.argsort()])
    assert torch.equal(first.flips, third.flips)
    assert abs(float(first.flips.float().mean()) - 0.5) < 4 * 0.5 / N**0.5  # half of them begin mirrored


def test_a_translation_moves_the_image_and_reflects_its_border() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(5, 1, 4, 4)
    offsets = torch.tensor([[2, 0], [2, 1], [2, 2], [2, 3], [2, 4]])
    moved = shift(x, offsets, 2)[:, 0, 0]
    # 2 1 [0 1 2 3] 2 1, cut at 0 to 4: the pixel at the edge is not repeated.
    assert moved.tolist() == [[2, 1, 0, 1], [1, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 2], [2, 3, 2, 1]]
    draws = AUGMENTS["translate_alternate"].draw(0, 1, torch.arange(N), (8, 8), torch.arange(N))
    assert draws.offsets is not None
    assert set(draws.offsets.flatten().tolist()) == {0, 1, 2, 3, 4}
