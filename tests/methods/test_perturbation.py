"""Perturbation and reward: expectation and variance of what they teach, by enumeration of all draws, in float64."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import batch, plain_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConfigError
from backroads.methods.base import Method
from backroads.methods.perturbation import NodePerturbation, WeightPerturbation, per_example
from backroads.methods.three_factor import ThreeFactor

D = torch.float64


def net(*widths: int, activation: Callable[[], nn.Module] = nn.Tanh, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), activation())]
        return nn.Sequential(*layers[:-1]).double()


def identity() -> nn.Module:
    return nn.LeakyReLU(1.0)  # an activation, so that a block ends there


def data(n: int, inputs: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, inputs, dtype=D, generator=generator), torch.arange(n) % classes


def taught(method: Method, model: nn.Module, x: Tensor, y: Tensor, loss: Any = F.cross_entropy) -> Tensor:
    """All gradients in one vector."""
    model.zero_grad()
    method.objective(model, x, y, loss)[0].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def square(output: Tensor, y: Tensor) -> Tensor:
    return (output - F.one_hot(y, output.shape[1])).pow(2).sum(1).mean()


class Signs:
    """Every pattern of n signs, one after another."""

    def __init__(self, n: int) -> None:
        self.patterns = [torch.tensor(p, dtype=D) for p in itertools.product((-1.0, 1.0), repeat=n)]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.patterns)


def over_all_signs(method: Any, model: nn.Module, x: Tensor, y: Tensor, n: int, loss: Any) -> Tensor:
    """What is taught, for each pattern of n signs as the noise: (2^n, parameters)."""
    found = []
    for pattern in Signs(n):
        left = list(pattern)

        def noise(self: Any, like: Tensor, left: list[Tensor] = left) -> Tensor:
            return torch.stack([left.pop(0) for _ in range(like.numel())]).reshape(like.shape)

        given = type("Given", (type(method),), {"noise": noise})(**dataclasses.asdict(method))
        found.append(taught(given, model, x, y, loss))
        assert not left
    return torch.stack(found)


@pytest.mark.parametrize(("kind", "n"), [(NodePerturbation, 5), (WeightPerturbation, 6)])
def test_perturbation_is_unbiased_where_the_loss_is_quadratic(kind: Any, n: int) -> None:
    """E[xi (L(u + sd xi) - L(u))] / sd of a quadratic L is its gradient: odd moments of signs are 0."""
    if kind is WeightPerturbation:  # quadratic in the weights: only the last layer's are perturbed
        model = net(2, 2, 2, activation=identity)
    else:
        model = net(2, 3, 2, activation=identity)
    x, y = data(1, 2)
    kind(deviation=0.7).prepare(model, x, 0)
    for p in model[0].parameters():
        p.requires_grad_(kind is NodePerturbation)
    trained = [p for p in model.parameters() if p.requires_grad]
    found = []
    for pattern in Signs(n):
        left = list(pattern)

        class Given(kind):  # type: ignore[misc]
            def noise(self, like: Tensor, left: list[Tensor] = left) -> Tensor:
                return torch.stack([left.pop(0) for _ in range(like.numel())]).reshape(like.shape)

        model.zero_grad()
        Given(deviation=0.7).objective(model, x, y, square)[0].backward()
        found.append(torch.cat([p.grad.flatten() for p in trained]))
    expected = torch.autograd.grad(square(model(x), y), trained)
    torch.testing.assert_close(
        torch.stack(found).mean(0), torch.cat([g.flatten() for g in expected]), rtol=1e-10, atol=1e-10
    )


def test_the_bias_of_node_perturbation_is_the_third_derivative_times_half_the_variance() -> None:
    """L = sum of u^3 over the outputs, of one hidden unit: the spread of u adds sd^2 (1 + 3 w^2) to 3 u^2."""
    model = net(1, 1, 2, activation=identity)
    x, y, sd = torch.ones(1, 1, dtype=D), torch.zeros(1, dtype=torch.long), 0.3
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    method = NodePerturbation(deviation=sd)
    method.prepare(model, x, 0)

    def cubes(output: Tensor, y: Tensor) -> Tensor:
        return output.pow(3).sum()

    u = model(x).detach()[0]
    # Of the patterns, only the last layer's bias is read; its noise is the last two signs.
    found = over_all_signs(method, model, x, y, 3, cubes).mean(0)[-2:]
    w = model[2].weight.detach()[:, 0]  # the hidden unit's noise adds w sd xi, which is independent and even
    # E[xi ((u + sd (xi + w xi'))^3 - u^3)] / sd = 3 u^2 + sd^2 (E xi^4 + 3 w^2), and E xi^4 = 1
    torch.testing.assert_close(found, 3 * u**2 + sd**2 * (1 + 3 * w**2), rtol=1e-10, atol=1e-10)


def test_the_variance_of_node_perturbation_is_that_of_its_formula() -> None:
    """Linear loss, N units, Gaussian noise, two points: total variance of the units' estimate is (N + 1) |g|^2."""
    model, n = net(2, 4, 6, activation=identity), 40_000
    method = NodePerturbation(deviation=0.5)
    x, y = data(1, 2)
    method.prepare(model, x, 0)
    c = torch.randn(6, dtype=D, generator=torch.Generator().manual_seed(2))
    g = torch.cat([c @ model[2].weight.detach(), c])  # N = 10
    torch.manual_seed(0)
    xi = torch.randn(n, 10, dtype=D)
    # The estimate itself on a few draws, against its definition; its variance on many draws of that definition.
    for row in range(3):

        class Given(NodePerturbation):
            def noise(self, like: Tensor, row: int = row) -> Tensor:
                return xi[row, :4].reshape(1, 4) if like.shape[1] == 4 else xi[row, 4:].reshape(1, 6)

        taught(Given(deviation=0.5), model, x, y, lambda output, y: (output @ c).sum())
        biases = torch.cat([model[0].bias.grad, model[2].bias.grad])
        torch.testing.assert_close(biases, (xi[row] @ g) * xi[row], rtol=1e-9, atol=1e-12)
    estimates = (xi @ g).unsqueeze(1) * xi
    assert float(estimates.var(0).sum() / g.pow(2).sum()) == pytest.approx(11, rel=0.05)


def test_weight_perturbation_is_the_directional_derivative_along_its_noise() -> None:
    model, (x, y) = plain_network(), batch()
    method = WeightPerturbation(deviation=1e-6)
    method.prepare(model, x, 0)
    model.eval()  # batch norm's mean and variance stand still
    exact = gradient(F.cross_entropy(model(x), y), model)
    torch.manual_seed(3)
    found = taught(method, model, x, y)
    torch.manual_seed(3)
    xi = torch.cat([torch.randn_like(p).flatten() for p in model.parameters()])
    torch.testing.assert_close(found, (exact @ xi) * xi, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [NodePerturbation(draws=3), WeightPerturbation(draws=3)])
def test_running_statistics_are_those_of_one_forward_pass(method: Any) -> None:
    (x, y), plain, model = batch(), plain_network(), plain_network()
    plain(x)
    method.prepare(model, x, 0)
    taught(method, model, x, y)
    for (name, expected), (_, buffer) in zip(plain.named_buffers(), model.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)


@pytest.mark.parametrize("method", [NodePerturbation(deviation=1e-4), WeightPerturbation(deviation=1e-4)])
def test_many_draws_come_to_the_gradient_of_backpropagation(method: Any) -> None:
    """Mean of M draws: cosine about 1 / sqrt(1 + (N + 1) / M), N units or weights."""
    model, (x, y), M = net(3, 4, 2), data(1, 3), 2000
    method.prepare(model, x, 0)
    N = 6 if isinstance(method, NodePerturbation) else sum(p.numel() for p in model.parameters())
    torch.manual_seed(0)
    found = taught(dataclasses.replace(method, draws=M), model, x, y)
    exact = gradient(F.cross_entropy(model(x), y), model)
    cosine = float(F.cosine_similarity(found, exact, dim=0))
    assert cosine == pytest.approx(1 / math.sqrt(1 + (N + 1) / M), abs=0.02)


def test_losses_of_single_examples_are_those_of_batches_of_one() -> None:
    output, y = torch.randn(4, 3, dtype=D), torch.tensor([0, 2, 1, 1])
    found = per_example(lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1), output, y)
    expected = [F.cross_entropy(output[i : i + 1], y[i : i + 1], label_smoothing=0.1) for i in range(4)]
    torch.testing.assert_close(found, torch.stack(expected))


# --- reward ---


def enumerated(
    method: ThreeFactor, model: nn.Sequential, x: Tensor, y: Tensor, rewards: Tensor, baseline: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Over all states of a 3-2-2 network and its answers: E[dW], total variance, and E[R] with its graph.

    Args:
        rewards: of each answer, (2,).
    """
    probabilities, found = [], []
    binary = isinstance(model[1], nn.Sigmoid)
    for pattern in itertools.product((0, 1), repeat=2):
        for a in (0, 1):

            class Given(ThreeFactor):
                def uniform(self, like: Tensor, pattern: Any = pattern) -> Tensor:
                    return torch.tensor([[-1.0 if on else 2.0 for on in pattern]], dtype=D)

                def answer(self, output: Tensor, a: int = a) -> Tensor:
                    return torch.tensor([a])

                def reward(self, answer: Tensor, y: Tensor) -> Tensor:
                    return rewards[answer] - baseline

            given = Given(**dataclasses.asdict(method))
            found.append(-taught(given, model, x, y))
            u = model[0](x)[0]
            p = torch.sigmoid(u if binary else 2 * u)
            on = torch.tensor(pattern)
            s = (on if binary else 2 * on - 1).double()
            logits = model[2](s)
            probabilities.append(torch.where(on.bool(), p, 1 - p).prod() * logits.softmax(0)[a])
    P, dW = torch.stack(probabilities), torch.stack(found)
    mean = P.detach() @ dW
    variance = (P.detach() @ (dW - mean).pow(2)).sum()
    R = (P.reshape(4, 2) @ rewards).sum()
    assert float(P.detach().sum()) == pytest.approx(1, abs=1e-12)
    return mean, variance, R


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize("baseline", [0.0, 0.4, 5.0])
def test_reinforce_is_the_gradient_of_the_expected_reward_for_any_baseline(activation: Any, baseline: float) -> None:
    model, (x, y) = net(3, 2, 2, activation=activation), data(1, 3)
    method = ThreeFactor(expectation="none")
    method.prepare(model, x, 0)
    mean, _, R = enumerated(method, model, x, y, torch.tensor([0.2, 0.9], dtype=D), baseline)
    torch.testing.assert_close(mean, gradient(R, model), rtol=1e-10, atol=1e-12)


def test_a_good_baseline_lowers_the_variance() -> None:
    model, (x, y) = net(3, 2, 2, activation=nn.Sigmoid), data(1, 3)
    method = ThreeFactor(expectation="none")
    method.prepare(model, x, 0)
    rewards = torch.tensor([0.0, 1.0], dtype=D)
    R = float(enumerated(method, model, x, y, rewards)[2].detach())
    none, good, bad = (float(enumerated(method, model, x, y, rewards, b)[1]) for b in (0.0, R, 5.0))
    assert good < none < bad


def test_plain_hebb_is_biased_unless_the_expectation_is_right() -> None:
    """E[dW] = Cov(R, s) x^T + (E R - Rbar)(E s - theta) x^T: with a constant R it drifts, and REINFORCE does not."""
    model, (x, y) = net(3, 2, 2, activation=nn.Sigmoid), data(1, 3)
    rewards = torch.tensor([0.7, 0.7], dtype=D)
    hebb = ThreeFactor(eligibility="hebb", expectation="none", theta=0.1)
    hebb.prepare(model, x, 0)
    mean = enumerated(hebb, model, x, y, rewards)[0]
    p = torch.sigmoid(model[0](x)).detach()[0]
    torch.testing.assert_close(mean[:6].reshape(2, 3), 0.7 * torch.outer(p - 0.1, x[0]), rtol=1e-10, atol=1e-12)
    right = enumerated(hebb, model, x, y, rewards, 0.7)[0]
    torch.testing.assert_close(right, torch.zeros_like(right), rtol=0, atol=1e-12)
    likelihood = enumerated(dataclasses.replace(hebb, eligibility="likelihood"), model, x, y, rewards)[0]
    torch.testing.assert_close(likelihood, torch.zeros_like(right), rtol=0, atol=1e-12)


def test_noisy_units_move_along_their_noise() -> None:
    """dW = R xi x^T / sd before a ReLU."""
    model, (x, y), sd = net(3, 4, 2, activation=nn.ReLU), data(1, 3), 0.3
    method = ThreeFactor(expectation="none", deviation=sd)
    method.prepare(model, x, 0)
    torch.manual_seed(5)
    xi = torch.randn(1, 4, dtype=D)
    for R in (1.0, -2.0):

        class Fixed(ThreeFactor):
            def reward(self, answer: Tensor, y: Tensor, R: float = R) -> Tensor:
                return torch.full((1,), R, dtype=D)

        torch.manual_seed(5)
        taught(Fixed(expectation="none", deviation=sd), model, x, y)
        torch.testing.assert_close(model[0].weight.grad, -R * xi.T @ x / sd)


def test_the_expectation_is_of_other_trials_only() -> None:
    model, (x, y) = net(3, 2, 2), data(4, 3)
    R = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=D)
    seen: list[Tensor] = []

    class Seen(ThreeFactor):
        def reward(self, answer: Tensor, y: Tensor) -> Tensor:
            return R

        def _expected(self, *args: Any) -> Tensor:
            seen.append(super()._expected(*args))
            return seen[-1]

    others = Seen()
    others.prepare(model, x, 0)
    taught(others, model, x, y)
    torch.testing.assert_close(seen[0], torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=D) / 3)
    model = others.revert(model)
    seen.clear()
    running = Seen(expectation="running", tau=4)
    running.prepare(model, x, 0)
    for _ in range(2):
        taught(running, model, x, y)
    model.eval()
    taught(running, model, x, y)
    taught(running, model, x, y)
    # Two trials a class and step: the mean moves from 0 by 1 - (3/4)^2 of the way to 1/2, after it was used.
    first = 0.5 * (1 - 0.75**2)
    second = first + (0.5 - first) * (1 - 0.75**2)
    for got, expected in zip(seen, (0.0, first, second, second), strict=True):  # eval mode changes nothing
        torch.testing.assert_close(got, torch.full((4,), expected, dtype=D))


@pytest.mark.parametrize("method", [ThreeFactor(), ThreeFactor(eligibility="hebb"), NodePerturbation()])
@pytest.mark.parametrize("last", [1, 4, 7])
def test_with_the_reward_held_fixed_no_later_weight_changes_an_update(method: Any, last: int) -> None:
    class Fixed(type(method)):  # type: ignore[misc]
        def reward(self, answer: Tensor, y: Tensor) -> Tensor:
            return torch.arange(len(y), dtype=D)

    calls = 0

    def fixed(output: Tensor, y: Tensor) -> Tensor:
        """A loss that later weights do not change; another one with noise than without."""
        nonlocal calls
        calls += 1
        return calls * y.double().add(1).mean() + 0 * output.sum()

    given = Fixed(**dataclasses.asdict(method))
    model = given.prepare(plain_network(), batch()[0], 0)
    updates = []
    for _ in range(2):
        calls = 0
        model.zero_grad()
        torch.manual_seed(0)
        given.objective(model, *batch(), fixed)[0].backward()
        updates.append({n: p.grad.clone() for n, p in model.named_parameters() if int(n.partition(".")[0]) <= last})
        with torch.no_grad():
            for name, p in model.named_parameters():
                if int(name.partition(".")[0]) > last:
                    p.normal_()
    assert all(torch.equal(value, updates[1][name]) for name, value in updates[0].items())
    assert any(bool(value.any()) for value in updates[0].values())


@pytest.mark.parametrize("depth", [2, 3])  # one layer of 8 has a local optimum at 3 of 4
def test_reward_alone_teaches_exclusive_or(depth: int) -> None:
    x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=D).repeat(8, 1)
    y = torch.tensor([0, 1, 1, 0]).repeat(8)
    model, method = net(2, *[8] * depth, 2), ThreeFactor()
    method.prepare(model, x, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    torch.manual_seed(0)
    for _ in range(600):
        optimizer.zero_grad()
        method.objective(model, x, y, F.cross_entropy)[0].backward()
        optimizer.step()
    assert bool((method.predict(model, x).argmax(1) == y).all())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("node_perturbation", {"deviation": 0}, "node_perturbation: deviation: expected a number above 0"),
        ("weight_perturbation", {"draws": 0}, "weight_perturbation: draws: expected a number of draws"),
        ("three_factor", {"eligibility": "heb"}, "expected one of likelihood, hebb, got 'heb'. Did you mean 'hebb'"),
        ("three_factor", {"expectation": "mean"}, "expectation: expected one of others, running, none"),
        ("three_factor", {"tau": 0.5}, "tau: expected a number of trials, 1 or more"),
        ("three_factor", {"deviation": -1}, "deviation: expected a number above 0"),
        ("reinforce", {"theta": math.nan}, "theta: expected a finite number"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        br.get_method(name, **options)


def test_the_plan_says_which_units_are_drawn() -> None:
    text = str(ThreeFactor().plan(plain_network(), batch(2)[0]))
    assert "units of -1 and 1" in text
    assert "noisy units" in text
    assert "drawn answer" in text
