"""The demo: its network's gradients, its training's repeatability, its facts, and that it runs as newcomers run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbn
from support.derivatives import central_differences

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import facts  # noqa: E402
import training  # noqa: E402
from network import Network, Sigmoid, cross_entropy  # noqa: E402
from training import BATCH, Curve, first_step_above, train  # noqa: E402

SIZES = (5, 4, 4, 4, 3)
both = pytest.mark.parametrize("normalized", [False, True], ids=["plain", "normalized"])


class Blobs:
    """Three clouds of points, in the place of the digits; the labels of the test points are all 0."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.train_labels = np.repeat(np.arange(3), 40)
        self.train_images = rng.normal(size=(120, 5)) + 3.0 * np.eye(3, 5)[self.train_labels]
        self.test_labels = np.zeros(30, dtype=np.intp)
        self.test_images = rng.normal(size=(30, 5)) + 3.0 * np.eye(3, 5)[0]


def small_batch():
    """Return points and labels."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(7, 5)), np.array([0, 1, 2, 0, 1, 2, 0])


@both
def test_gradients_of_the_network_are_those_of_finite_differences(normalized):
    x, labels = small_batch()
    network = Network(SIZES, normalized=normalized, seed=3, deviation=1.0)
    network.backward(cross_entropy(network(x), labels)[1])
    computed = [gradient.copy() for gradient in network.gradients()]
    for parameter, gradient in zip(network.parameters(), computed, strict=True):
        expected = central_differences(lambda: cross_entropy(network(x), labels)[0], parameter, step=1e-5)
        # truncation is of the order of step^2 = 1e-10, rounding of 1e-16 / step = 1e-11, times higher derivatives
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


def test_gradient_of_the_cross_entropy_is_that_of_finite_differences():
    logits, labels = small_batch()[0], np.array([4, 3, 2, 1, 0, 4, 3])
    loss, gradient = cross_entropy(logits, labels)
    assert loss == pytest.approx(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(7), labels]))
    expected = central_differences(lambda: cross_entropy(logits, labels)[0], logits, step=1e-5)
    # truncation and rounding as above, of a softmax, whose derivatives are all below 1
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


def test_large_logits_and_sigmoid_inputs_do_not_overflow():
    loss, gradient = cross_entropy(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert loss == 5000.0
    np.testing.assert_array_equal(gradient, [[0.0, 0.0], [-0.5, 0.5]])
    np.testing.assert_array_equal(Sigmoid()(np.array([[-1e4, 0.0, 1e4]])), [[0.0, 0.5, 1.0]])


def test_both_networks_start_from_the_same_weights_and_only_the_plain_one_has_hidden_biases():
    plain, normalized = (Network(SIZES, normalized=flag, seed=3) for flag in (False, True))
    weights = [[p for p in network.parameters() if p.ndim == 2] for network in (plain, normalized)]
    assert [w.shape for w in weights[0]] == [(5, 4), (4, 4), (4, 4), (4, 3)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    linear = [layer for layer in normalized.layers if hasattr(layer, "weight") and layer.weight.ndim == 2]
    assert [layer.bias is None for layer in linear] == [True, True, True, False]
    assert sum(isinstance(layer, fastbn.BatchNorm) for layer in normalized.layers) == 3
    assert sum(p.ndim == 1 for p in plain.parameters()) == 4


def test_the_input_of_the_last_sigmoid_is_what_the_figure_watches():
    x, _ = small_batch()
    network = Network(SIZES, normalized=True, seed=3, deviation=1.0)
    network(x)
    watched = network.last_sigmoid_input()
    assert watched.shape == (7, 4)
    np.testing.assert_allclose(watched.mean(axis=0), 0.0, atol=1e-14)  # straight out of a new BatchNorm
    network.eval()
    network(x)
    assert np.abs(network.last_sigmoid_input().mean(axis=0)).max() > 1e-3  # and now by the running statistics


def trained(seed, **options):
    """Return the two networks and their curves after a short training."""
    networks = {name: Network(SIZES, normalized=name == "with", seed=seed) for name in ("without", "with")}
    settings = {"steps": 45, "rate": 1.0, "every": 20} | options
    return networks, train(networks, Blobs(), seed=seed, **settings)


def test_a_seed_repeats_the_training_bit_by_bit_and_another_does_not():
    (nets, curves), (again, curves_again), (others, _) = trained(0), trained(0), trained(1)
    for name in ("without", "with"):
        for one, same, other in zip(*(n[name].parameters() for n in (nets, again, others)), strict=True):
            np.testing.assert_array_equal(one, same)
            assert not np.array_equal(one, other)
        for one, same in zip(curves[name], curves_again[name], strict=True):
            np.testing.assert_array_equal(one, same)


def test_a_network_learns_the_same_alone_and_in_company():
    together, _ = trained(0)
    alone = Network(SIZES, normalized=True, seed=0)
    train({"with": alone}, Blobs(), steps=45, rate=1.0, seed=0, every=1)  # nor does measuring more often matter
    for one, other in zip(together["with"].parameters(), alone.parameters(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_measures_at_the_start_every_so_many_steps_and_at_the_end():
    seen = []
    _, curves = trained(0, on_step=seen.append)
    assert seen == list(range(1, 46))
    curve = curves["with"]
    np.testing.assert_array_equal(curve.steps, [0, 20, 40, 45])
    assert curve.accuracy.shape == (4,)
    assert curve.inputs.shape == (4, 3, 4)
    assert np.all(np.diff(curve.inputs, axis=1) >= 0)
    assert curve.accuracy[-1] > 0.9  # clouds three deviations from the origin, learned in 22 epochs


def test_every_image_is_seen_once_before_any_is_seen_again(monkeypatch):
    blobs, batches = Blobs(), []
    monkeypatch.setattr(training, "train_step", lambda network, images, labels, rate: batches.append((images, labels)))
    train({"": Network(SIZES, normalized=False, seed=0)}, blobs, steps=4, rate=0.1, seed=0, every=100)
    assert [len(images) for images, _ in batches] == [BATCH] * 4
    whole = np.column_stack([blobs.train_images, blobs.train_labels])
    for epoch in batches[:2], batches[2:]:
        seen = np.concatenate([np.column_stack(batch) for batch in epoch])
        np.testing.assert_array_equal(seen[np.lexsort(seen.T)], whole[np.lexsort(whole.T)])
    assert not np.array_equal(batches[0][0], batches[2][0])


def test_the_step_that_passes_is_the_first_strictly_above():
    curve = Curve(np.array([0, 5, 10, 15]), np.array([0.1, 0.8, 0.9, 0.85]), np.empty((4, 3, 1)))
    assert first_step_above(curve, 0.8) == 10
    assert first_step_above(curve, 0.75) == 5
    assert first_step_above(curve, 0.9) is None


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-15), (np.float32, 5e-7)])
def test_gamma_sigma_and_beta_mu_give_the_input_back(dtype, bound):
    x = np.random.default_rng(0).uniform(size=(200, 6)).astype(dtype)
    x[:, 2] = 0.25  # constant: given back exactly
    assert facts.identity_error(x) <= bound  # a few roundings of numbers up to 1: 4 * eps
    assert facts.identity_error(x[:, 2:3]) == 0.0


def test_identity_error_sees_an_error(monkeypatch):
    x = np.random.default_rng(0).uniform(size=(200, 6))
    monkeypatch.setattr(facts.fastbn, "moments", lambda x: fastbn.Moments(len(x), x.mean(axis=0) + 0.5, np.ones(6)))
    assert facts.identity_error(x) > 0.4


def test_the_bias_before_the_layer_has_no_gradient_unless_the_mean_is_neglected():
    sizes = facts.BiasedClassifier(*small_batch(), classes=3).gradients()
    assert sizes.weight > 1e-2
    assert sizes.bias < 1e-14  # sums of seven terms of size 1 that cancel
    assert sizes.neglectful_bias > 1e-2


def test_the_neglectful_bias_grows_for_ever_and_the_loss_stays():
    classifier = facts.BiasedClassifier(*small_batch(), classes=3)
    right = classifier.walk(50, through_statistics=True)
    wrong = classifier.walk(50, through_statistics=False)
    assert right.bias.max() < 1e-12  # 50 steps, each of a sum over the batch that is 0 but for some 1e-16
    assert wrong.bias[0] == 0.0
    # every step adds the same, but for the rounding of u + b, which b's growth to about 10 makes about 1e-15
    np.testing.assert_allclose(wrong.bias[1:], wrong.bias[1] * np.arange(1, 51), rtol=1e-12)
    np.testing.assert_allclose(wrong.loss, wrong.loss[0], rtol=1e-12)
    np.testing.assert_allclose(right.loss, right.loss[0], rtol=1e-12)


def test_times_are_taken_of_results_that_agree():
    timing = facts.compare_times((4, 3, 5, 5), repeats=2)
    assert timing.fastbn > 0.0
    assert timing.numpy > 0.0
    assert timing.difference < 1e-5
    shape = 4, 3, 5, 5
    x = np.random.default_rng(0).normal(size=shape)
    y = facts.numpy_batch_norm(x, np.full(3, 2.0), np.full(3, 5.0))
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 5.0)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 4.0, rtol=1e-4)  # 1e-5 of it is eps


def test_nothing_is_timed_where_the_results_differ(monkeypatch):
    monkeypatch.setattr(facts, "numpy_batch_norm", lambda x, weight, bias: x)
    with pytest.raises(AssertionError):
        facts.compare_times((4, 3, 5, 5), repeats=1)


def test_the_typical_unit_is_the_middle_one():
    pytest.importorskip("matplotlib")
    from figure import typical_unit

    medians = np.array([[0.0, 0.0, 0.0], [5.0, 1.0, -3.0], [5.0, 0.5, -2.0]])
    inputs = np.stack([medians - 1.0, medians, medians + 1.0], axis=1)
    assert typical_unit(Curve(np.arange(3), np.zeros(3), inputs)) == 2


def test_the_digits_are_split_without_overlap():
    pytest.importorskip("sklearn")
    import images

    digits = images.load()
    assert digits.train_images.shape == (1347, 64)
    assert digits.test_images.shape == (450, 64)
    assert digits.train_images.min() == 0.0
    assert digits.train_images.max() == 1.0
    assert np.abs(np.bincount(digits.test_labels) - 45).max() <= 2
    train_set = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in train_set for image in digits.test_images)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the quick demo as a newcomer would, without a terminal, and return what it printed and its picture."""
    for name in ("sklearn", "matplotlib", "rich"):
        pytest.importorskip(name)
    picture = tmp_path_factory.mktemp("demo") / "new" / "digits.png"
    command = [sys.executable, str(EXAMPLES / "digits.py"), "--quick", "--steps", "110", "--out", str(picture)]
    return subprocess.run(command, capture_output=True, text=True, check=True), picture


def test_the_demo_prints_the_curves_and_the_facts(demo):
    done, _ = demo
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()]
    steps = [row for row in rows if len(row) == 3 and row[0].isdigit()]
    assert [row[0] for row in steps] == ["0", "20", "40", "100", "110"]
    assert float(steps[-1][2]) > float(steps[-1][1]) + 30  # the paper's point, 95 % against 10 % at this step
    text = " ".join(done.stdout.split())
    for said in ("passes that at step", "gives the input back", "its gradient is zero", "times as fast"):
        assert said in text
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_demo_is_quiet_where_there_is_no_terminal(demo):
    done, _ = demo
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "training" not in done.stdout.lower().replace("training call", "")


def test_the_demo_draws_a_picture(demo):
    _, picture = demo
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1440, 480)
    assert len(content) > 20_000  # an empty frame has about a third


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--steps", "x"], ["--rate", "fast"]])
def test_the_demo_refuses_what_it_cannot_do(arguments, capsys):
    for name in ("sklearn", "matplotlib", "rich"):
        pytest.importorskip(name)
    import digits

    with pytest.raises(SystemExit):
        digits.parse(arguments)
    assert arguments[0] in capsys.readouterr().err
