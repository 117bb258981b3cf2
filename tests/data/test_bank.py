import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamstill.data.augment import crop_flip
from dreamstill.data.bank import ImageBank
from dreamstill.errors import InputError
from dreamstill.networks.pixels import to_float, to_uint8


def batch(values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1) / 255


@given(st.integers(1, 7), st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_the_bank_holds_the_newest(capacity, sizes):
    bank, stream = ImageBank(capacity, 1, (1, 1)), []
    for b in sizes:
        b = min(b, capacity)
        new = list(range(len(stream), len(stream) + b))
        bank.add(batch(new), torch.tensor(new))
        stream += new
    assert len(bank) == min(capacity, len(stream))
    images, labels, logits = bank.draw(torch.arange(len(bank)))
    assert logits.shape == (len(bank), 0)
    assert sorted(labels.tolist()) == stream[-len(bank) :]
    assert torch.equal((images.flatten() * 255).round().long(), labels)


def test_rows_since_and_restore():
    bank = ImageBank(5, 1, (1, 1))
    bank.add(batch([0, 1, 2]))
    bank.add(batch([3, 4, 5, 6]))
    start, rows = bank.rows(0)
    assert start == 2  # the ring has overwritten 0 and 1
    assert rows["pixels"].flatten().tolist() == [2, 3, 4, 5, 6]
    other = ImageBank(5, 1, (1, 1))
    for since in (0, 4):
        other.restore(*bank.rows(since))
    other.added = bank.added
    assert torch.equal(other.pixels, bank.pixels)


def test_logits_stay_with_their_image():
    bank = ImageBank(4, 1, (1, 1), k=3)
    logits = torch.randn(6, 3) * 20
    for i in range(0, 6, 2):
        bank.add(batch([i, i + 1]), logits=logits[i : i + 2])
    found = bank.draw(torch.arange(4))
    number = (found.images.flatten() * 255).round().long()
    assert sorted(number.tolist()) == [2, 3, 4, 5]
    assert torch.allclose(found.logits, logits[number], rtol=2**-11)


def test_fifty_thousand_small_images_and_their_logits():
    bank = ImageBank(50_000, 3, (32, 32), k=100)
    assert sum(b.numel() * b.element_size() for b in bank.buffers()) < 170e6


def test_clipping_is_counted():
    bank = ImageBank(4, 1, (1, 2))
    bank.add(torch.tensor([[-0.1, 0.5], [0.2, 1.3]]).view(2, 1, 1, 2))
    bank.add(torch.tensor([[0.1, 0.5], [0.2, 1.0]]).view(2, 1, 1, 2))
    assert bank.clipped_share == pytest.approx(0.25)
    assert bank.pixels.flatten()[:4].tolist() == [0, 128, 51, 255]


def test_a_margin_keeps_what_goes_beyond_black_and_white():
    bank = ImageBank(4, 1, (1, 2), margin=0.5)
    images = torch.tensor([[-0.4, 0.5], [1.45, 1.7]]).view(2, 1, 1, 2)
    bank.add(images)
    assert bank.clipped_share == pytest.approx(0.25)
    drawn = bank.draw(torch.arange(2)).images
    assert torch.allclose(drawn, images.clamp(max=1.5), atol=1 / 255 + 1e-6)


def test_too_large_a_batch():
    with pytest.raises(InputError, match="do not fit"):
        ImageBank(2, 1, (1, 1)).add(torch.zeros(3, 1, 1, 1))


@given(st.integers(0, 1000))
def test_quantisation_is_within_half_a_step(seed):
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    assert (to_float(to_uint8(images)) - images).abs().max() <= 0.5 / 255 + 1e-6


@given(st.integers(0, 3), st.integers(0, 1000))
def test_each_crop_is_a_window_of_the_padded_image(pad, seed):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 2, 5, 6, generator=g)
    shift, flip = torch.randint(2 * pad + 1, (4, 2), generator=g), torch.rand(4, generator=g) < 0.5
    out = crop_flip(images, shift, flip, pad)
    padded = torch.nn.functional.pad(images, [pad] * 4)
    for i, (top, left) in enumerate(shift.tolist()):
        window = padded[i, :, top : top + 5, left : left + 6]
        assert torch.equal(out[i], window.flip(2) if flip[i] else window)


def test_no_shift_and_no_flip_is_no_change_and_gradients_pass():
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    out = crop_flip(images, torch.full((2, 2), 2), None, 2)
    assert torch.equal(out, images)
    out.sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))
