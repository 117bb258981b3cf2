"""Crop and flip against numpy's padding and slicing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamstill.data.augment import crop_flip, relight, resized_crop, resized_crops, roll_flip, starts, warp

sizes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7))


def draws(shape, pad, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=generator)
    shift = torch.randint(2 * pad + 1, (shape[0], 2), generator=generator)
    return images, shift, torch.rand(shape[0], generator=generator) < 0.5


@given(sizes, st.integers(0, 4), st.integers(0, 1000))
def test_each_image_is_numpys_pad_slice_and_mirror(shape, pad, seed):
    images, shift, flip = draws(shape, pad, seed)
    _, _, h, w = shape
    got = crop_flip(images, shift, flip, pad)
    assert got.shape == shape
    for image, (top, left), mirrored, out in zip(images.numpy(), shift.tolist(), flip, got.numpy(), strict=True):
        window = np.pad(image, [(0, 0), (pad, pad), (pad, pad)])[:, top : top + h, left : left + w]
        assert np.array_equal(out, window[:, :, ::-1] if mirrored else window)


@given(sizes, st.integers(0, 4), st.integers(0, 1000))
def test_no_shift_is_the_identity_and_two_flips_are_too(shape, pad, seed):
    images, _, flip = draws(shape, pad, seed)
    still = torch.full((shape[0], 2), pad)
    assert torch.equal(crop_flip(images, still, None, pad), images)
    assert torch.equal(crop_flip(images, still, torch.zeros_like(flip), pad), images)
    assert torch.equal(crop_flip(crop_flip(images, still, flip, pad), still, flip, pad), images)


@given(sizes, st.integers(0, 3), st.integers(0, 1000))
def test_windows_of_larger_images_are_numpys_too(shape, pad, seed):
    images, _, flip = draws(shape, pad, seed)
    b, c, h, w = shape
    size = (h - h // 2, w - w // 3)
    generator = torch.Generator().manual_seed(seed)

    def integers(high, *wanted):
        return torch.randint(high, wanted, generator=generator)

    shift = starts(integers, b, pad, images.shape, size)
    got = crop_flip(images, shift, flip, pad, size=size)
    assert got.shape == (b, c, *size)
    for image, (top, left), mirrored, out in zip(images.numpy(), shift.tolist(), flip, got.numpy(), strict=True):
        window = np.pad(image, [(0, 0), (pad, pad), (pad, pad)])[:, top : top + size[0], left : left + size[1]]
        assert np.array_equal(out, window[:, :, ::-1] if mirrored else window)


def test_windows_start_anywhere_that_is_inside():
    generator = torch.Generator().manual_seed(0)

    def integers(high, *wanted):
        return torch.randint(high, wanted, generator=generator)

    drawn = starts(integers, 500, 1, (8, 3, 10, 7), (6, 5))
    assert [sorted(set(column.tolist())) for column in drawn.T] == [list(range(7)), list(range(5))]
    same = starts(integers, 500, 1, (8, 3, 10, 7))
    assert [sorted(set(column.tolist())) for column in same.T] == [[0, 1, 2]] * 2


def test_known_values():
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    down_right = crop_flip(image, torch.tensor([[0, 0]]), None, 1)  # the window starts in the padding
    assert down_right.tolist() == [[[[0, 0], [0, 1]]]]
    assert crop_flip(image, torch.tensor([[2, 1]]), None, 1).tolist() == [[[[3, 4], [0, 0]]]]
    assert crop_flip(image, torch.tensor([[2, 1]]), torch.tensor([True]), 1).tolist() == [[[[4, 3], [0, 0]]]]


@pytest.mark.parametrize("pad", [0, 2])
def test_gradients_reach_exactly_the_pixels_that_are_seen(pad):
    images, shift, flip = draws((3, 2, 4, 5), pad, 0)
    images.requires_grad_()
    out = crop_flip(images, shift, flip, pad)
    out.sum().backward()
    for gradient, (top, left) in zip(images.grad, shift.tolist(), strict=True):
        expected = torch.zeros(4 + 2 * pad, 5 + 2 * pad)
        expected[top : top + 4, left : left + 5] = 1
        assert torch.equal(gradient, expected[pad : pad + 4, pad : pad + 5].expand(2, 4, 5))


@given(sizes, st.integers(0, 4), st.integers(0, 1000))
def test_each_image_is_numpys_mirror_and_roll(shape, reach, seed):
    images, shift, flip = draws(shape, reach, seed)
    shift = shift - reach
    got = roll_flip(images, shift, flip)
    for image, (down, right), mirrored, out in zip(images.numpy(), shift.tolist(), flip, got.numpy(), strict=True):
        image = image[:, :, ::-1] if mirrored else image
        assert np.array_equal(out, np.roll(image, (down, right), (1, 2)))


def test_what_is_padded_has_the_value_asked_for():
    label = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    moved = crop_flip(label, torch.tensor([[2, 1]]), None, 1, fill=255)
    assert moved.dtype == torch.uint8
    assert moved.tolist() == [[[[3, 4], [255, 255]]]]


def test_rectangles_of_several_things_are_those_of_one():
    draw = torch.Generator().manual_seed(0)
    images, uniform = torch.rand(4, 3, 6, 8, generator=draw), torch.rand(4, 4, generator=draw)
    flip = torch.tensor([True, False, True, False])
    first, second = resized_crops([(images, "bilinear"), (images, "nearest")], uniform, flip, 0.3)
    assert torch.equal(first, resized_crop(images, uniform, flip, 0.3))
    assert not torch.equal(first, second)
    assert torch.isin(second, images).all()


def test_relighting_stays_an_image_and_does_what_it_says():
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    assert torch.equal(relight(images, torch.rand(5, 2), 0.0), images)
    brighter = relight(images, torch.tensor([[1.0, 0.5]]).expand(5, 2), 0.2)
    assert torch.allclose(brighter, images + 0.1, atol=1e-6)
    flatter = relight(images, torch.tensor([[0.5, 0.0]]).expand(5, 2), 0.5)
    assert torch.allclose(flatter.std((1, 2, 3)), images.std((1, 2, 3)) / 2)
    assert torch.allclose(flatter.mean((1, 2, 3)), images.mean((1, 2, 3)))
    wild = relight(torch.rand(50, 3, 4, 4), torch.rand(50, 2), 1.0)
    assert 0 <= float(wild.min()) <= float(wild.max()) <= 1


def test_warping_leaves_the_middle_and_turns_by_what_it_says():
    images = torch.rand(5, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    still = torch.full((5, 4), 0.5)
    assert torch.allclose(warp(images, still, 1.0), images, atol=1e-6)
    # By a quarter turn, whatever the sides: strength 6 is 90 degrees at the end of the range.
    square = images[:, :, :, :6]
    turned = warp(square, torch.tensor([[1.0, 0.5, 0.5, 0.5]]).expand(5, 4), 6.0)
    assert torch.allclose(turned, square.rot90(1, (2, 3)), atol=1e-5)
    flat = images[:, :, :3]
    turned = warp(flat, torch.tensor([[1.0, 0.5, 0.5, 0.5]]).expand(5, 4), 6.0)
    assert torch.allclose(turned[:, :, :, 3:6], flat[:, :, :, 3:6].rot90(1, (2, 3)), atol=1e-5)
    half = warp(torch.arange(6.0).expand(1, 1, 6, 6), torch.tensor([[0.5, 0.0, 0.5, 0.5]]), 10 / 3)
    assert torch.allclose(half[0, 0, 0], torch.tensor([1.25, 1.75, 2.25, 2.75, 3.25, 3.75]))  # sampled at half the pace
    rows = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 1, 6, 6)
    half = warp(rows, torch.tensor([[0.5, 0.5, 0.0, 0.5]]), 10 / 3)
    assert torch.allclose(half[0, 0, :, 0], torch.tensor([1.25, 1.75, 2.25, 2.75, 3.25, 3.75]))
    sheared = warp(torch.arange(6.0).expand(1, 1, 6, 6), torch.tensor([[0.5, 0.5, 0.5, 1.0]]), 5.0)
    # By as many columns as the row lies below the middle, half a pixel in the rows next to it.
    assert torch.allclose(sheared[0, 0, :, 2], torch.tensor([0, 0.5, 1.5, 2.5, 3.5, 4.5]))


def test_a_crop_of_the_whole_is_the_image_and_may_be_mirrored():
    x, flip = torch.rand(4, 1, 6, 8), torch.tensor([True, False, True, False])
    got = resized_crop(x, torch.full((4, 4), 0.5), flip, scale=1.0, ratio=1.0)
    assert torch.allclose(got, torch.where(flip[:, None, None, None], x.flip(3), x), atol=1e-6)


def test_a_crop_has_the_share_of_the_image_that_was_asked_for():
    x = torch.arange(16.0).expand(1, 1, 16, 16)
    half = resized_crop(x, torch.tensor([[0.0, 0.5, 0.5, 0.5]]), None, scale=0.25, ratio=1.0)
    assert (half[..., -1] - half[..., 0]).mean().item() == pytest.approx(7, abs=1)  # half of each side
