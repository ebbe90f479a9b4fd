"""Where the rules lead, by simulation: the library's layers, torch's SGD, and the fixed points of the theory.

C is M[x x^T], the uncentered second moment of a layer's input; for a convolution of its patches, summed over positions.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from problems import PROBLEMS, agree, randn
from torch import Tensor

import backroads as br
from backroads.feedback.functional import LinearMap, propagate

A = br.Alignment


class Held:
    """A layer whose W stays and whose B learns on one batch."""

    def __init__(self, kind: str, rule: br.FeedbackRule, examples: int = 12) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if kind == "linear":
                self.layer = br.nn.Linear(4, 3, rule=rule, dtype=torch.float64)
            else:
                self.layer = br.nn.Conv2d(2, 3, 2, rule=rule, dtype=torch.float64)
        if kind == "linear":
            # Axes of different strength, so that C is far from white.
            self.x = randn(examples, 4, seed=1) * torch.tensor([0.5, 1.0, 1.0, 1.5], dtype=torch.float64)
            rows = self.x
        else:
            self.x = randn(examples, 2, 3, 4, seed=1) / 2
            rows = F.unfold(self.x, 2).transpose(1, 2).flatten(0, 1)
        self.C = rows.t() @ rows / examples
        self.W = self.layer.weight.detach().flatten(1).clone()

    @property
    def B(self) -> Tensor:
        return self.layer.backward_weight.detach().flatten(1).clone()

    def learn(self, steps: int, rate: float) -> Tensor:
        """B after ``steps`` of SGD."""
        optimizer = torch.optim.SGD([self.layer.backward_weight], lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            self.layer(self.x).sum().backward()
            optimizer.step()
        agree(self.layer.weight.flatten(1), self.W, 0)
        return self.B


each_kind = pytest.mark.parametrize("kind", ["linear", "conv2d"])


# --- W held ---


@each_kind
@pytest.mark.parametrize(("amp", "decay"), [(0.5, 0.5), (0.2, 0.5), (0.9, 0.3)])
def test_the_weight_mirror_settles_at_w_times_the_input_power(kind: str, amp: float, decay: float) -> None:
    held = Held(kind, A(amp=amp, decay=decay))
    agree(held.learn(80, rate=1.0), amp / decay * held.W @ held.C)


@each_kind
def test_the_mirror_with_its_default_options_settles_at_w_times_the_covariance_over_the_power(kind: str) -> None:
    held = Held(kind, br.rules.weight_mirror(amp=0.5, decay=0.5, cadence=br.Cadence()))
    held.x = held.x + 1  # centering over the batch takes it off again
    x = held.x - held.x.mean(0)
    rows = x if kind == "linear" else F.unfold(x, 2).transpose(1, 2).flatten(0, 1)
    agree(held.learn(80, rate=1.0), held.W @ (rows.t() @ rows / len(rows)) / x.square().mean())


def test_information_alignment_settles_at_the_ridge_pseudo_inverse() -> None:
    held = Held("linear", A(decay=0.25, amp=0.25, null=0.25))
    power = held.W @ held.C @ held.W.t()
    expected = torch.linalg.solve(power + torch.eye(3, dtype=torch.float64), held.W @ held.C)
    agree(held.learn(150, rate=1.0), expected)


def test_information_alignment_of_a_convolution_settles_where_its_linear_equation_says() -> None:
    held = Held("conv2d", A(decay=0.25, amp=0.25, null=0.25))
    y = held.W @ F.unfold(held.x, 2)  # (N, O, positions)

    def left_side(B: Tensor) -> Tensor:  # B + M[y r^T], r = B^T y summed where patches overlap
        r = F.fold(B.reshape(3, 8).t() @ y, (3, 4), 2)
        return B + (y @ F.unfold(r, 2).transpose(1, 2)).mean(0).flatten()

    matrix = torch.stack([left_side(unit) for unit in torch.eye(24, dtype=torch.float64)], dim=1)
    expected = torch.linalg.solve(matrix, (held.W @ held.C).flatten()).reshape(3, 8)
    agree(held.learn(150, rate=1.0), expected)


@each_kind
@pytest.mark.parametrize(("self_", "decay"), [(0.5, 0.5), (0.2, 0.5), (0.9, 0.3)])
def test_symmetric_alignment_settles_at_w_for_any_input(kind: str, self_: float, decay: float) -> None:
    for scale in (0.0, 1.0, 100.0):
        held = Held(kind, A(decay=decay, self_=self_))
        held.x = held.x * scale
        agree(held.learn(80, rate=1.0), self_ / decay * held.W)


@each_kind
def test_symmetric_alignment_at_rate_one_makes_b_equal_w_in_one_step(kind: str) -> None:
    held = Held(kind, A(decay=1, self_=1))
    assert (held.B - held.W).abs().max() > 0.1
    agree(held.learn(1, rate=1.0), held.W, 1e-15)


@each_kind
def test_the_default_of_symmetric_alignment_goes_its_decay_of_the_way_in_a_step(kind: str) -> None:
    rule = br.rules.symmetric_alignment()
    held = Held(kind, rule)
    before = held.B - held.W
    agree(held.learn(4, rate=1.0) - held.W, (1 - rule.decay) ** 4 * before)


@each_kind
@pytest.mark.parametrize(("amp", "sparse"), [(0.5, 0.5), (0.2, 0.4)])
def test_activation_alignment_settles_at_w_if_the_input_has_full_rank(kind: str, amp: float, sparse: float) -> None:
    held = Held(kind, A(amp=amp, sparse=sparse))
    strengths = torch.linalg.eigvalsh(held.C)
    assert strengths[0] > 0.01  # full rank
    rate = 1 / (sparse * strengths[-1].item())
    steps = int(20 * strengths[-1] / strengths[0])
    agree(held.learn(steps, rate), amp / sparse * held.W, 1e-8)


def test_activation_alignment_is_as_slow_along_an_axis_as_the_input_is_weak_there() -> None:
    held = Held("linear", A(amp=1, sparse=1))
    strengths, axes = torch.linalg.eigh(held.C)
    start = (held.B - held.W) @ axes
    rate = 0.5 / strengths[-1].item()
    agree((held.learn(20, rate) - held.W) @ axes, start * (1 - rate * strengths) ** 20)


def test_activation_alignment_never_learns_what_the_input_never_shows() -> None:
    held = Held("linear", A(amp=1, sparse=1), examples=2)  # two examples span two of four axes
    strengths, axes = torch.linalg.eigh(held.C)
    assert strengths[1] < 1e-12 < 0.1 < strengths[2]
    unseen, seen = axes[:, :2], axes[:, 2:]
    start = held.B
    after = held.learn(200, 1 / strengths[-1].item())
    agree(after @ seen, held.W @ seen)
    agree(after @ unseen, start @ unseen)
    assert (after - held.W).norm() > 0.1


def test_feedback_alignment_and_zero_coefficients_leave_b() -> None:
    held = Held("linear", br.rules.feedback_alignment())
    before = held.B
    held.layer(held.x).sum().backward()
    assert held.layer.backward_weight.grad is None
    agree(held.B, before, 0)


# --- W learns a task, B follows ---


@pytest.mark.parametrize(("rate", "decay"), [(0.1, 0.5), (0.5, 0.01), (0.3, 0.0)])
def test_kolen_pollack_shrinks_the_difference_by_rate_times_decay_in_every_step(rate: float, decay: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 2), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(8, 3)
        ).double()
        br.convert(net, br.rules.kolen_pollack(decay))
    optimizer = torch.optim.SGD(
        [
            {"params": br.forward_parameters(net), "weight_decay": decay},
            {"params": br.backward_parameters(net)},
        ],
        lr=rate,
    )
    x, target = randn(6, 1, 3, 3, seed=1), randn(6, 3, seed=2)
    layers = [layer for _, layer in br.aligned_layers(net)]
    for _ in range(5):
        before = [(layer.weight - layer.backward_weight).detach() for layer in layers]
        W = layers[0].weight.detach().clone()
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
        assert not torch.equal(layers[0].weight, W)
        for layer, difference in zip(layers, before, strict=True):
            agree(layer.weight - layer.backward_weight, (1 - rate * decay) * difference, 1e-14)


# --- both weights move: one input of 1, one output ---


def flow(point: Tensor, rule: br.Alignment) -> Tensor:
    """(w', b') at ``point`` = (w, b): minus the alignment gradients; differentiable."""
    w, b = point[0].reshape(1, 1), point[1].reshape(1, 1)
    if not point.requires_grad:
        w, b = w.requires_grad_(), b.requires_grad_()
    y = propagate(torch.ones(1, 1, dtype=torch.float64), w, None, LinearMap(), rule, {"backward_weight": b})
    return -torch.cat(torch.autograd.grad(0 * y.sum(), (w, b), create_graph=point.requires_grad)).flatten()


def jacobian(point: list[float], rule: br.Alignment) -> Tensor:
    at = torch.tensor(point, dtype=torch.float64)
    by_autograd = torch.autograd.functional.jacobian(lambda p: flow(p, rule), at)
    h = 1e-4  # the flow is at most quadratic in either weight: central differences have only rounding errors
    steps = h * torch.eye(2, dtype=torch.float64)
    by_differences = torch.stack([(flow(at + s, rule) - flow(at - s, rule)) / (2 * h) for s in steps], dim=1)
    agree(by_autograd, by_differences)
    return by_differences


def simulate(w: float, b: float, rule: br.Alignment, steps: int, rate: float) -> list[tuple[float, float]]:
    layer = br.nn.Linear(1, 1, bias=False, rule=rule, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(w)
        layer.backward_weight.fill_(b)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate)
    path = [(w, b)]
    for _ in range(steps):
        optimizer.zero_grad()
        (0 * layer(torch.ones(1, 1, dtype=torch.float64))).sum().backward()
        optimizer.step()
        path.append((layer.weight.item(), layer.backward_weight.item()))
    return path


@pytest.mark.parametrize("decay", [0.3, 1.0, 2.0])
def test_the_mirror_with_both_weights_moving_is_linear_with_its_known_eigenvalues(decay: float) -> None:
    rule = A(amp=1, decay=decay, update_forward=True)
    for point in ([0.0, 0.0], [0.7, -0.2], [3.0, 2.0]):
        J = jacobian(point, rule)
        agree(J, torch.tensor([[-decay, 1.0], [1.0, -decay]], dtype=torch.float64))
        agree(torch.linalg.eigvalsh(J), torch.tensor([-1 - decay, 1 - decay], dtype=torch.float64))
        agree(flow(torch.tensor(point, dtype=torch.float64), rule), J @ torch.tensor(point, dtype=torch.float64))


@pytest.mark.parametrize("decay", [0.3, 1.0, 2.0])
def test_the_mirror_with_both_weights_moving_explodes_or_collapses(decay: float) -> None:
    rate, steps = 0.1, 100
    path = simulate(0.5, -0.1, A(amp=1, decay=decay, update_forward=True), steps, rate)
    w, b = path[-1]
    # Along w + b the eigenvalue is 1 - decay, along w - b it is -1 - decay.
    assert w + b == pytest.approx(0.4 * (1 + rate * (1 - decay)) ** steps, rel=1e-9)
    assert w - b == pytest.approx(0.6 * (1 - rate * (1 + decay)) ** steps, abs=1e-9)
    if decay < 1:
        assert w > 100
    elif decay > 1:
        assert abs(w) < 1e-4


LAMBDAS = [0.1, 0.25, 0.5, 0.9]


@pytest.mark.parametrize("decay", LAMBDAS)
def test_information_alignment_with_both_weights_moving_has_two_stable_points(decay: float) -> None:
    rule = A(amp=1, null=1, decay=decay, update_forward=True)
    # The origin lets go of what starts on either side.
    agree(torch.linalg.eigvalsh(jacobian([0.0, 0.0], rule))[1], torch.tensor(1 - decay, dtype=torch.float64))
    expected = torch.tensor(sorted([-2 * (1 - decay), -2 * decay]), dtype=torch.float64)
    for sign, start in ((1, (1.5, 0.0)), (-1, (0.1, -0.4))):
        end = sign * (1 - decay) ** 0.5
        agree(flow(torch.tensor([end, end], dtype=torch.float64), rule), torch.zeros(2, dtype=torch.float64))
        agree(torch.linalg.eigvalsh(jacobian([end, end], rule)), expected)
        agree(simulate(*start, rule, 120, rate=0.5)[-1], (end, end), 1e-4)


def test_information_alignment_with_too_much_decay_collapses() -> None:
    w, b = simulate(0.9, 0.5, A(amp=1, null=1, decay=1.5, update_forward=True), 100, rate=0.3)[-1]
    assert max(abs(w), abs(b)) < 1e-5


@pytest.mark.parametrize("rule", [A(amp=0.5, sparse=0.5), A(amp=0.3, sparse=0.6), A(sparse=0.4)], ids=str)
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "circular" not in p and "empty" not in p])
def test_a_step_of_rate_one_over_sparse_ends_nearest_to_the_fixed_point(problem: str, rule: br.Alignment) -> None:
    """Along its own gradient, of any scale of the input: a little more or less ends further away, in every row."""
    layer = PROBLEMS[problem].layer(dataclasses.replace(rule, reduction="projected_step"))
    target = rule.amp / rule.sparse * layer.weight.detach()
    for scale in (1.0, 1e-6, 1e6):
        layer.zero_grad()
        layer(scale * PROBLEMS[problem].input()).sum().backward()
        B, step = layer.backward_weight.detach(), layer.backward_weight.grad / rule.sparse

        def away(t: float, B: Tensor = B, step: Tensor = step) -> Tensor:
            return (B - t * step - target).flatten(1).square().sum(1)

        assert bool((away(1) < away(0)).all())
        derivative = (away(1.001) - away(0.999)) / (0.002 * away(0))
        agree(derivative, torch.zeros_like(derivative), 1e-6)


INPUTS = {"noise": lambda x: x, "all alike": lambda x: x[:1].expand_as(x), "one pixel": lambda x: x * (x == x.max())}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "circular" not in p])
def test_no_layer_is_too_steep_for_normalised_examples_over_the_overlap(problem: str, kind: str) -> None:
    """Examples of norm 1 over the overlap of kernels: no direction of B has a curvature above 1."""
    rule = A(sparse=1.0, reduction="overlap", operations=br.Operations(normalize_input=True))
    layer = PROBLEMS[problem].layer(rule)
    x = PROBLEMS[problem].input()
    x = INPUTS[kind](x) if x.numel() else x
    for _ in range(30):  # power iteration: B <- C B
        layer.zero_grad()
        layer(x).sum().backward()
        grad, B = layer.backward_weight.grad, layer.backward_weight.data
        assert float(grad.norm()) <= float(B.norm()) * (1 + 1e-9)
        B.copy_(grad / grad.norm() if grad.any() else B)
