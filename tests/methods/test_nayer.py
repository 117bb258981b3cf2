"""NAYER: where its randomness is, what each term is, and embeddings from a file."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network
from helpers.small import small
from safetensors.torch import save_file

from dreamstill.data.class_vectors import read_class_vectors
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods.nayer import NAYER, NoisyLayers


def ready(**settings):
    method = small(NAYER, **{"crop": 0, "flip": False, **settings})
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    method.setup(engine)
    engine.begin(0, 0.0)
    return method, engine


def weights(owned):
    return torch.cat([p.detach().flatten() for p in owned.params]).clone()


def all_images(method):
    return (torch.arange(method.images), torch.zeros(method.images, 2, dtype=torch.int64), torch.zeros(0))


def test_a_layer_makes_one_image_of_each_class():
    torch.manual_seed(0)
    embeddings = torch.randn(4, 6)
    noisy = NoisyLayers(embeddings, images=10, nz=5)
    normed = torch.nn.BatchNorm1d(6)(embeddings)  # over the classes
    z = noisy(torch.arange(10))
    assert z.shape == (10, 5)
    assert len(noisy.layers) == 3
    for i in range(10):
        torch.testing.assert_close(z[i], noisy.layers[i // 4](normed[i % 4]))
    torch.testing.assert_close(noisy(torch.tensor([7])), z[7:8])  # whatever else is in the batch
    assert torch.cdist(z, z).fill_diagonal_(1).min() > 1e-3  # no two are alike


def test_each_term_by_hand():
    method, engine = ready(w_label=2.0, w_bn=0.0, w_adv=3.0)
    method.student = lambda x: engine.given.student(x) + 20 * engine.given.teacher(x)  # which agrees on some images
    engine.given.student.eval()
    image, shift, coins = all_images(method)
    with torch.no_grad():
        found, _ = method.loss_g(image, shift, coins)
        x = method.made(image)
        s, t = method.student(x), engine.given.teacher(x)
    torch.testing.assert_close(found["label"], 2 * F.cross_entropy(t, image % 4))
    kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1)
    torch.testing.assert_close(found["adversarial"], -3 * (kl * (s.argmax(1) == t.argmax(1))).mean())
    assert found["adversarial"] < 0


def test_the_noisy_layers_are_drawn_anew_and_the_generator_lives_on():
    method, engine = ready(lr_g=0.0, life=3)
    drawn, lived = [], []
    for i in range(4):
        engine.begin(i, 0.0)
        method.synthesis(engine)
        drawn.append(weights(method.opt_z))
        lived.append(weights(method.opt_g))
    assert len({tuple(w.tolist()) for w in drawn}) == 4
    assert [torch.equal(a, b) for a, b in pairwise(lived)] == [True, True, False]


def test_generator_and_noisy_layers_learn_and_the_images_are_counted():
    method, engine = ready(inner_steps=3)
    before = weights(method.opt_g)
    method.synthesis(engine)
    assert method.opt_g.steps == method.opt_z.steps == 3
    assert not torch.equal(before, weights(method.opt_g))
    assert engine.drawn == method.images
    assert method.fixed.bank.labels[:8].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_one_batch_makes_its_loss_smaller():
    method, engine = ready(inner_steps=30, w_adv=0.0, bn_memory=0.0, images=32, width=8, lr_g=1e-2)
    losses, minimise = [], engine.minimise

    def kept(fn, *owned, inputs=()):
        losses.append(sum(t.item() for t in fn(*inputs)[0].values()))
        return minimise(fn, *owned, inputs=inputs)

    engine.minimise = kept
    method.synthesis(engine)
    assert losses[-1] < 0.7 * losses[0]


def test_embeddings_come_from_a_file_and_are_declared(tmp_path):
    vectors = torch.randn(4, 12)
    save_file({"text": vectors}, tmp_path / "text.safetensors")
    np.save(tmp_path / "text.npy", vectors.numpy())
    for name in ("text.safetensors", "text.npy"):
        method, _ = ready(embeddings=str(tmp_path / name))
        apart = (vectors - vectors.mean(0)) / (vectors.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(method.noisy.module.inputs.float(), apart)
        assert method.outside_used == ("vectors of the class names, from a file",)
    method, _ = ready()
    assert method.noisy.module.inputs.argmax(1).tolist() == [0, 1, 2, 3]  # one-hot
    assert method.outside_used == ()


def test_a_file_that_is_no_table_of_vectors_is_refused(tmp_path):
    np.save(tmp_path / "short.npy", np.zeros((3, 5), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((4, 5), np.int64))
    np.save(tmp_path / "nan.npy", np.full((4, 5), np.nan))
    np.save(tmp_path / "object.npy", np.array([{}] * 4), allow_pickle=True)
    save_file({"a": torch.zeros(4, 2), "b": torch.zeros(4, 2)}, tmp_path / "two.safetensors")
    wrong = {
        "short.npy": r"shape \(3, 5\): expected .* of 4 rows", "whole.npy": "int64", "nan.npy": "NaN",
        "object.npy": "cannot be read", "two.safetensors": "it holds 2 tensors", "none.npy": "cannot be read",
    }  # fmt: skip
    for name, said in wrong.items():
        with pytest.raises(InputError, match=said):
            read_class_vectors(str(tmp_path / name), 4)


def test_a_teacher_without_batch_norm_needs_no_statistics():
    assert "bn" in NAYER().needed
    assert "bn" not in NAYER(w_bn=0.0).needed
    method, engine = ready(w_bn=0.0)
    method.synthesis(engine)
    assert not any(name.startswith("mean") for name in engine.buffers)
