"""CMI: a generator a batch, the contrast with earlier images, and the mask of the adversary."""

import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network
from helpers.small import small

from dreamstill.engine import Engine
from dreamstill.methods.cmi import CMI


def ready(**settings):
    method = small(CMI, **{"crop": 0, "flip": False, **settings})
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    method.setup(engine)
    engine.begin(0, 0.0)
    return method, engine


def inputs(method, engine, earlier):
    n = method.images
    whole = torch.full((n, 4), 0.5, dtype=torch.float64)
    return engine.labels(n), torch.zeros(n, 2, dtype=torch.int64), torch.zeros(n).bool(), whole, earlier


def weights(owned):
    return torch.cat([p.detach().flatten() for p in owned.params]).clone()


def test_the_contrast_by_hand():
    method, engine = ready(w_cr=2.0, tau_cr=0.5, w_bn=0.0, local=1.0)  # the second view is the whole image too
    with torch.no_grad():
        method.z.copy_(engine.noise(method.images, method.nz))
        earlier = torch.rand(5, 8, dtype=torch.float64)
        found = method.loss_g(*inputs(method, engine, earlier))[0]["contrast"]
        f = method.teacher(method.generator(method.z)).taps[method.taps[0]]
        own, others = F.normalize(method.h(f)), F.normalize(method.h(earlier))
    same, among = (own @ own.T / 0.5).exp(), (own @ others.T / 0.5).exp()
    expected = -(same.diagonal() / (same.sum(1) + among.sum(1))).log().mean()
    # Bilinear sampling of the whole image is the image, and so both views are one.
    torch.testing.assert_close(found, 2 * expected, rtol=1e-4, atol=1e-5)


def test_the_adversarial_term_by_hand():
    method, engine = ready(w_adv=3.0, w_cr=0.0, w_bn=0.0, w_label=0.0)
    method.student = lambda x: engine.given.student(x) + 20 * engine.given.teacher(x)  # which agrees on some images
    engine.given.student.eval()
    with torch.no_grad():
        method.z.copy_(engine.noise(method.images, method.nz))
        found = method.loss_g(*inputs(method, engine, method.earlier[:0]))[0]
        x = method.generator(method.z)
        s, t = method.student(x), engine.given.teacher(x)
    kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1)
    assert found.keys() == {"label", "adversarial"}
    assert found["label"] == 0
    torch.testing.assert_close(found["adversarial"], -3 * (kl * (s.argmax(1) == t.argmax(1))).mean())
    assert found["adversarial"] < 0


def test_a_batch_has_a_new_generator_and_the_head_goes_on():
    method, engine = ready(lr_g=0.0)
    head = engine.owned["head"]
    seen = []
    for i in range(2):
        engine.begin(i, 0.0)
        method.synthesis(engine)
        seen.append((weights(method.opt_g), weights(head)))
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


def test_head_generator_and_noise_learn_together_in_each_step():
    method, engine = ready(inner_steps=3)
    before = [weights(owned) for owned in method.made]
    method.synthesis(engine)
    assert [owned.name for owned in method.made] == ["generator", "codes", "head"]
    assert [owned.steps for owned in method.made] == [3, 3, 3]
    assert not any(torch.equal(b, weights(owned)) for b, owned in zip(before, method.made, strict=True))


def test_the_memory_is_a_ring_of_the_features_of_stored_images():
    method, engine = ready(images=16, memory=24, inner_steps=1)
    rows = []
    for i in range(2):
        engine.begin(i, 0.0)
        method.synthesis(engine)
        with torch.no_grad():
            rows.append(method.teacher(method.generator(method.z)).taps[method.taps[0]])
    torch.testing.assert_close(method.earlier[16:], rows[1][:8])
    torch.testing.assert_close(method.earlier[:8], rows[1][8:])
    torch.testing.assert_close(method.earlier[8:16], rows[0][8:])


def test_only_what_is_in_the_memory_is_drawn_from_it():
    method, engine = ready(memory=64, negatives=16, inner_steps=1)
    asked, minimise = [], engine.minimise

    def watched(fn, *owned, inputs=()):
        asked.append(inputs[-1])
        return minimise(fn, *owned, inputs=inputs)

    engine.minimise = watched
    for i in range(2):
        engine.begin(i, 0.0)
        method.synthesis(engine)
    assert [len(earlier) for earlier in asked] == [0, 16]
    known = {tuple(row.tolist()) for row in method.earlier[:16]}
    assert {tuple(row.tolist()) for row in asked[1]} <= known  # no row of zeros


def test_a_batch_makes_the_contrast_smaller():
    method, engine = ready(w_cr=5.0, w_label=0.0, w_adv=0.0, inner_steps=25, images=32, bn_memory=0.0)
    values, minimise = [], engine.minimise

    def watched(fn, *owned, inputs=()):
        values.append(fn(*inputs)[0]["contrast"].item())
        return minimise(fn, *owned, inputs=inputs)

    engine.minimise = watched
    method.synthesis(engine)
    assert values[-1] < 0.9 * values[0]


def test_what_it_needs():
    assert {"bn", "linear_head"} <= CMI().needed
    assert not {"bn", "linear_head"} & CMI(w_bn=0.0, w_cr=0.0).needed
    method, engine = ready(w_cr=0.0)
    method.synthesis(engine)
    assert "head" not in engine.owned
