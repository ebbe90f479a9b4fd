"""The estimator: its windows and lines against a walk step by step, what it may see, and cause against correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from backroads.contrib.spiking import Circuit, Drive, Evidence, Neuron, Pair, Recording, RegressionDiscontinuity
from backroads.errors import RuleError, ShapeError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(0))


def walk(recording: Recording, neuron: Neuron, window: int, onset: float) -> list[tuple[int, bool, float, list[float]]]:
    """(neuron, spiked, largest drive, responses) of every window, by going through the steps one by one."""
    v, b = recording.potential[:, 0].double().numpy(), recording.drive[:, 0].double().numpy()
    fired, q = recording.spikes[:, 0].numpy(), recording.signal[:, 0].double().numpy()
    found = []
    for j in range(v.shape[1]):
        left, u, largest, spiked, start = 0, 0.0, 0.0, False, 0
        for t in range(len(v)):
            if left:
                left -= 1
                if left == 0:  # the last step of the window: its spike and drive are not looked at
                    found.append((j, spiked, largest, list(q[start + 1 : t + 1].mean(0) - q[start])))
                else:
                    u += neuron.dt * (-neuron.leak * u + neuron.coupling * (b[t, j] - u))
                    largest, spiked = max(largest, u), spiked or bool(fired[t, j])
            if not left and abs(v[t, j] - neuron.threshold) <= onset:
                left, u, largest, spiked, start = window, v[t, j], v[t, j], False, t
    return found


def test_sums_over_windows_are_those_of_a_walk_through_the_steps() -> None:
    rule = RegressionDiscontinuity(window=0.012, onset=0.2, bandwidth=0.5)
    recording = Circuit(weight(2, 4), drive=Drive(fraction=1.0), generator=seeded(1)).record(3000)
    evidence = Evidence.none(1, 4, 2)
    rule.add(evidence, recording, Neuron())
    windows = walk(recording, Neuron(), 12, 0.2)
    moments, responses = np.zeros((2, 3, 4)), np.zeros((2, 2, 4, 2))
    for j, spiked, largest, response in windows:
        x = largest - 1
        if abs(x) <= 0.5:
            moments[int(spiked), :, j] += (1, x, x * x)
            responses[int(spiked), :, j] += np.outer((1, x), response)
    assert moments[:, 0].min() > 5
    np.testing.assert_allclose(evidence.moments[:, :, 0].numpy(), moments, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(evidence.responses[:, :, 0].numpy(), responses, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.0, 2.0])
def test_the_jump_is_that_of_two_lines_by_least_squares(shrinkage: float) -> None:
    draw = np.random.default_rng(0)
    evidence, expected = Evidence.none(1, 1, 1), []
    for side in range(2):
        x = draw.uniform(0, 1, 40) * (2 * side - 1)
        r = 0.3 + 0.5 * side + 0.7 * x + draw.normal(0, 0.1, 40)
        evidence.moments[side, :, 0, 0] = torch.tensor([len(x), x.sum(), (x * x).sum()])
        evidence.responses[side, :, 0, 0, 0] = torch.tensor([r.sum(), (x * r).sum()])
        # A slope that is drawn to 0 is least squares with a row (0, sqrt(shrinkage)) -> 0.
        rows = np.vstack([np.stack([np.ones_like(x), x], 1), [0, shrinkage**0.5]])
        expected.append(np.linalg.lstsq(rows, np.append(r, 0.0), rcond=None)[0][0])
    found = RegressionDiscontinuity(shrinkage=shrinkage).jumps(evidence)
    assert float(found) == pytest.approx(expected[1] - expected[0], rel=1e-5)


def test_too_few_windows_say_nothing() -> None:
    evidence = Evidence.none(1, 2, 1)
    evidence.moments[:, :, 0] = torch.tensor([[10.0], [1.0], [2.0]], dtype=torch.float64).T.reshape(3, 1)
    evidence.responses[1, 0] = 5.0
    assert RegressionDiscontinuity(least=11).jumps(evidence).tolist() == [[[0.0, 0.0]]]
    assert RegressionDiscontinuity(least=10).jumps(evidence)[0, 0, 0] != 0


class Watched:
    """A simulator that writes down what is asked of it, of anything but itself."""

    def __init__(self, circuit: Circuit) -> None:
        object.__setattr__(self, "_circuit", circuit)
        object.__setattr__(self, "seen", [])

    def __getattribute__(self, name: str) -> Any:
        seen = object.__getattribute__(self, "seen")
        if name == "seen":
            return seen
        seen.append(name)
        return getattr(object.__getattribute__(self, "_circuit"), name)


def test_the_estimator_never_asks_for_w() -> None:
    watched = Watched(Circuit(weight(3, 6), generator=seeded(1)))
    rule = RegressionDiscontinuity()
    rule.jumps(rule.watch(watched, 3.0))
    assert set(watched.seen) == {"neuron", "groups", "inputs", "outputs", "record"}


def test_recordings_without_any_w_give_the_same() -> None:
    circuit, rule = Circuit(weight(3, 6), generator=seeded(1)), RegressionDiscontinuity(block=1.0, least=3)
    recordings = [circuit.record(1000) for _ in range(4)]

    class Tape:
        inputs, outputs, groups, neuron = 6, 3, 1, Neuron()

        def record(self, steps: int) -> Recording:
            return recordings.pop(0)

    live = rule.jumps(rule.watch(Circuit(weight(3, 6), generator=seeded(1)), 4.0))
    assert torch.equal(rule.jumps(rule.watch(Tape(), 4.0)), live)
    assert live.any()


def test_the_windows_of_copies_are_pooled() -> None:
    rule, recording = RegressionDiscontinuity(), Circuit(weight(2, 3, 4), copies=3, generator=seeded(1)).record(2000)
    pooled = Evidence.none(2, 4, 3)
    rule.add(pooled, recording, Neuron())
    apart = Evidence.none(2, 4, 3)
    for copy in range(3):
        own = slice(2 * copy, 2 * copy + 2)
        parts = (recording.spikes, recording.potential, recording.drive, recording.signal)
        rule.add(apart, Recording(*(part[:, own] for part in parts)), Neuron())
    torch.testing.assert_close(pooled.moments, apart.moments)
    torch.testing.assert_close(pooled.responses, apart.responses)


def naive(recording: Recording) -> torch.Tensor:
    """Mean signal of stretches of 30 ms with a spike of each neuron, less that of those without."""
    T = len(recording.spikes) // 30 * 30
    q = recording.signal[:T].unflatten(0, (-1, 30)).mean(1).expand(-1, -1, 2)
    spiked = recording.spikes[:T].unflatten(0, (-1, 30)).any(1)
    return q[spiked.nonzero(as_tuple=True)].new_tensor(
        [float(q[..., j][spiked[..., j]].mean() - q[..., j][~spiked[..., j]].mean()) for j in range(2)]
    )


def test_correlated_noise_fools_the_naive_dependence_and_not_the_discontinuity() -> None:
    """Only neuron 1 has an effect; neuron 2 shares four fifths of its drive."""
    rule = RegressionDiscontinuity(window=0.01, onset=0.5, bandwidth=0.1, shrinkage=0.0)
    pair = Pair((1.0, 0.0), 0.8, copies=100, generator=seeded(0))
    parts, dependences = [], []
    for _ in range(12):
        recording = pair.record(1000)
        parts.append(Evidence.none(1, 2, 1))
        rule.add(parts[-1], recording, pair.neuron)
        dependences.append(naive(recording))
    jumps = torch.stack([rule.jumps(part)[0, 0] for part in parts])
    mean, error = jumps.mean(0), jumps.std(0) / len(jumps) ** 0.5
    assert mean[0] > 6 * error[0]  # there is an effect,
    assert abs(mean[1]) < 3.5 * error[1]  # and there is none
    assert abs(mean[1]) < 0.25 * mean[0]
    seeming = torch.stack(dependences)
    assert seeming[:, 1].mean() > 0.4 * seeming[:, 0].mean()
    assert seeming[:, 1].mean() > 20 * seeming[:, 1].std() / len(seeming) ** 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.0}, "window must be > 0"),
        ({"least": 2}, "least must be a whole number >= 3"),
        ({"block": 0.03}, "block must hold some windows"),
        ({"shrinkage": -1.0}, "shrinkage must be a finite number >= 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        RegressionDiscontinuity(**options)


def test_a_wrong_time_or_evidence_of_another_layer_is_refused_and_changes_nothing() -> None:
    rule, evidence = RegressionDiscontinuity(), Evidence.none(1, 5, 3)
    circuit = Circuit(weight(3, 6), generator=seeded(1))
    with pytest.raises(ShapeError, match="give each layer its own"):
        rule.watch(circuit, 1.0, evidence)
    assert not evidence.moments.any()
    for seconds in (0.0, -1.0, float("inf"), 1e-5):
        with pytest.raises(RuleError, match="seconds"):
            rule.watch(circuit, seconds)
    with pytest.raises(RuleError, match="two weights and a correlation"):
        Pair((1.0,), 0.5)
