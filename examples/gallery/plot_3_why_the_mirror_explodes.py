"""
Why the mirror explodes
=======================

The weight mirror teaches :math:`B` by correlation: each step adds :math:`a\\, y x^\\top` and takes
:math:`d\\, B` off. With :math:`W` held it settles at

.. math:: B^* = \\frac{a}{d}\\, W C, \\qquad C = M[x x^\\top].

So :math:`|B|` grows with the power of the layer's input. In a deep network that power differs from
layer to layer and changes while :math:`W` learns: one pair of coefficients cannot fit all layers.
Where it is too large, larger errors come back, :math:`W` and with it the power grow, and so does
:math:`B`, without end.
"""

import matplotlib.pyplot as plt
import torch

import backroads as br

torch.set_num_threads(1)
torch.manual_seed(0)
WIDTH, BATCH = 30, 256
MIRROR = br.Alignment(amp=0.02, decay=0.02, reduction="mean")

# %%
# A small linear network
# ----------------------


def network(gain: float, rule: br.Alignment = MIRROR) -> torch.nn.Sequential:
    """Three linear layers, the weights of which have a standard deviation of gain / sqrt(width)."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3)))
    for layer in model:
        torch.nn.init.normal_(layer.weight, std=gain / WIDTH**0.5, generator=generator)
    return br.convert(model, rule, generator=1)


# %%
# With W held, B goes to W C
# --------------------------
#
# Only :math:`B` learns here. The gain of the layers is 1.5, so that the power of their inputs grows
# from layer to layer, by a factor of about 2.

model = network(gain=1.5)
optimizer = torch.optim.SGD(br.backward_parameters(model), lr=1.0)
inputs = torch.Generator().manual_seed(2)
for _ in range(400):
    optimizer.zero_grad()
    model(torch.randn(BATCH, WIDTH, generator=inputs)).sum().backward()
    optimizer.step()

C, held = torch.eye(WIDTH), []  # of the first layer's input: white noise
for layer in model:
    W = layer.weight.detach()
    held.append(((W @ C).flatten(), layer.backward_weight.detach().flatten()))
    C = W @ C @ W.T  # of the next layer's input
for number, (expected, found) in enumerate(held, 1):
    error = (found - expected).norm() / expected.norm()
    print(f"layer {number}: B is within {100 * error:.0f} % of W C; |B| / |W C| = {found.norm() / expected.norm():.2f}")

# %%
# With W learning, it settles or explodes
# ---------------------------------------
#
# The same coefficients, and inputs of four powers. :math:`W` learns to do what a random linear
# teacher does, by the errors that :math:`B` sends back. Backpropagation and the white-noise mirror,
# at the same rate, are there to compare with.


def course(power: float, rule: br.Alignment | br.FeedbackRule = MIRROR, steps: int = 600) -> list[float]:
    """The largest norm of a W relative to its start, step by step, until it is a thousand times as large."""
    model = network(1.0, rule)
    optimizer = torch.optim.SGD(br.param_groups(model, lr=0.03))
    generator = torch.Generator().manual_seed(2)
    teacher = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    norms: list[float] = []
    while len(norms) < steps and (not norms or norms[-1] < 1000 * norms[0]):
        norms.append(max(layer.weight.detach().norm().item() for layer in model))
        x = power**0.5 * torch.randn(BATCH, WIDTH, generator=generator)
        optimizer.zero_grad()
        (model(x) - x @ teacher.T).square().mean().backward()
        optimizer.step()
    return [norm / norms[0] for norm in norms]


powers = (1.0, 2.0, 4.0, 8.0)
courses = {f"mirror, power {power:g}": course(power) for power in powers}
courses["backprop, power 8"] = course(8.0, br.rules.backprop())
courses["white-noise mirror, power 8"] = course(8.0, br.rules.white_noise_mirror())
for what, norms in courses.items():
    print(f"{what}: after {len(norms)} steps |W| is {norms[-1]:.3g} times its start")

# %%
# The picture
# -----------

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for number, (expected, found) in reversed(list(enumerate(held, 1))):
    left.plot(expected, found, ".", markersize=2, label=f"layer {number}")
left.axline((0, 0), slope=1, color="black", linewidth=0.8)
left.set(xlabel="entry of W C", ylabel="entry of B", title="W held: B settles at W C")
left.legend(markerscale=5)
for what, norms in courses.items():
    right.loglog(range(1, len(norms) + 1), norms, linestyle="-" if what.startswith("mirror") else "--", label=what)
right.set(xlabel="step", ylabel="|W| / |W| at the start", title="W learning: the mirror explodes", ylim=(0.8, 100))
right.legend(fontsize="small", loc="upper left")
plt.show()

# %%
# The white-noise mirror replaces the input by noise of a known power while :math:`B` learns. Then
# :math:`C` is known, the fixed point is :math:`W` itself, and one coefficient fits all layers.
# :doc:`Where the rules lead </theory>` has the derivation, and what other sums do.
