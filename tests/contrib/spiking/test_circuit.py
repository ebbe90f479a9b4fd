"""The neurons: their equations step by step, and what a circuit hands out."""

from __future__ import annotations

import math

import pytest
import torch

from backroads.contrib.spiking import Circuit, Drive, Neuron
from backroads.contrib.spiking.circuit import Cells, Filter
from backroads.errors import RuleError, ShapeError

CPU = torch.device("cpu")


def test_the_potential_relaxes_to_its_analytic_limit_at_the_rate_of_the_conductances() -> None:
    neuron = Neuron()
    assert neuron.carry == pytest.approx(0.3)  # 1 - 0.001 (100 + 600)
    _, v = Cells(neuron, (1,), CPU).run(torch.full((12, 1), 0.9))
    limit = 0.9 * 600 / 700
    expected = [limit + (-1 - limit) * 0.3**n for n in range(1, 13)]
    torch.testing.assert_close(v[:, 0], torch.tensor(expected))


@pytest.mark.parametrize(("b", "refractory"), [(1.2, 0.003), (1.3, 0.012), (50.0, 0.003), (50.0, 0.001), (50.0, 0.0)])
def test_spikes_follow_one_another_after_the_time_that_the_equation_takes(b: float, refractory: float) -> None:
    neuron = Neuron(refractory=refractory)
    limit = b * 600 / 700
    rise = max(1, math.ceil(math.log((limit - 1) / (limit + 1)) / math.log(0.3)))  # from -1 to the threshold at 1
    interval = max(rise, round(refractory / 0.001), 1)
    cells = Cells(neuron, (1,), CPU)
    # In two runs: the state goes on.
    spikes = torch.cat([cells.run(torch.full((steps, 1), b))[0] for steps in (17, 43)])[:, 0]
    times = spikes.nonzero()[:, 0]
    assert times[0] == rise - 1
    assert set(times.diff().tolist()) == {interval}


def test_the_filter_is_a_convolution_with_kappa_whatever_the_blocks() -> None:
    kernel = Neuron().kernel()
    x = torch.arange(1, 31).double()
    torch.testing.assert_close(kernel, ((-x / 10).exp() - (-x / 3).exp()) / 7)
    spikes = (torch.rand(70, 2, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    run = Filter(kernel, 40, (2,), CPU)
    found = torch.cat([run.run(part) for part in spikes.split([40, 7, 23])])
    for t in (0, 5, 41, 69):
        expected = sum(kernel[t - s] * spikes[s].double() for s in range(max(0, t - 29), t + 1))
        torch.testing.assert_close(found[t].double(), torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_circuit_goes_on_where_it_was_and_the_seed_says_all() -> None:
    W = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    whole, parts = (Circuit(W, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    one = whole.record(300)
    two = [parts.record(100) for _ in range(3)]
    assert torch.equal(one.spikes, torch.cat([part.spikes for part in two]))
    torch.testing.assert_close(one.signal, torch.cat([part.signal for part in two]))
    assert one.spikes.shape == one.potential.shape == one.drive.shape == (300, 1, 5)
    assert one.signal.shape == (300, 1, 3)
    assert one.spikes.any()


def test_only_the_chosen_fraction_is_driven_and_the_choice_changes() -> None:
    circuit = Circuit(torch.randn(2, 50), drive=Drive(fraction=0.2, redraw=0.1, rate=1000.0))
    driven = [frozenset(circuit.record(100).drive[30:].amax(0)[0].gt(1e-3).nonzero()[:, 0].tolist()) for _ in range(6)]
    # After 30 steps nothing of an earlier drive is left.
    assert {len(chosen) for chosen in driven} == {10}
    assert len(set(driven)) > 1


def test_signal_comes_only_from_those_below_that_w_excites() -> None:
    W = torch.stack([torch.ones(20), -torch.ones(20)])
    signal = Circuit(W, generator=torch.Generator().manual_seed(0)).record(2000).signal
    assert signal[:, 0, 0].max() > 0.1
    assert signal[:, 0, 1].max() == 0


def test_groups_and_copies_are_circuits_of_their_own() -> None:
    W = torch.stack([torch.tensor([[1.0, 1.0, 0.9]]), torch.tensor([[-1.0, -1.0, -0.9]])])  # (2, 1, 3)
    recording = Circuit(W, copies=3, drive=Drive(fraction=1.0), generator=torch.Generator().manual_seed(0)).record(1500)
    assert recording.spikes.shape == (1500, 6, 3)
    active = recording.signal.amax(0)[:, 0] > 0
    assert active.tolist() == [True, False] * 3
    assert not torch.equal(recording.spikes[:, 0], recording.spikes[:, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Neuron(dt=0.01), "take a shorter step dt"),
        (lambda: Neuron(reset=1.0), "reset must be below threshold"),
        (lambda: Neuron(tau_synapse=0.01), "must differ"),
        (lambda: Neuron(dt=0), "dt must be > 0"),
        (lambda: Neuron(memory=0.0001), "memory must be at least a step"),
        (lambda: Drive(fraction=1.5), "fraction must be <= 1"),
        (lambda: Drive(rate=float("nan")), "rate must be a finite number"),
        (lambda: Circuit(torch.randn(2, 2), copies=0), "copies must be a whole number >= 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: object, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("W", [torch.randn(3), torch.ones(2, 3), torch.full((2, 2), float("inf")), torch.empty(0, 3)])
def test_a_weight_that_cannot_be_a_circuit_is_refused(W: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="expected"):
        Circuit(W)
