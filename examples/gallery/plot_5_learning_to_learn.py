"""
Learning to learn
=================

A network learns a sinusoid from 50 points by a local rule: every weight changes by what its two
units do, and feedback brings the error through weights of its own. Before meta-training that fails.
After 200 meta-steps, which train what a lifetime starts with (weights, feedback weights, and the
plasticity of every synapse), the error on new sinusoids is below a twentieth of their variance.
"""

import itertools
import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from backroads.plasticity.lifetime import Stream, lifetime, loss_of, predict
from backroads.plasticity.rule import LocalRule

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)

# %%
# Tasks
# -----
#
# A lifetime has ten steps of five points of one sinusoid, whose amplitude and phase are drawn. The
# query is what is asked at the end.


def sinusoids(lifetimes: int, query: Tensor) -> tuple[Stream, Tensor, Tensor]:
    """The stream of each lifetime, inputs (E, Q, 1) of the query, and their targets."""
    amplitude = torch.rand(lifetimes, 1, generator=generator) + 0.02
    phase = math.pi * torch.rand(lifetimes, 1, generator=generator)
    x = torch.cat([2 * torch.rand(lifetimes, 50, generator=generator) - 1, query.expand(lifetimes, -1)], 1)
    y = amplitude * torch.sin(5 * x + phase)
    stream = Stream(x[:, :50].reshape(-1, 10, 5, 1), y[:, :50].reshape(-1, 10, 5, 1))
    return stream, x[:, 50:, None], y[:, 50:, None]


query = torch.linspace(-1, 1, 40)

# %%
# What a lifetime starts with
# ---------------------------
#
# Four layers; the last two are plastic. ``W`` and ``b`` are weights and biases, ``B`` and ``c``
# those of the feedback to hidden layers, ``s`` its strength, and ``p`` the plasticity, a number for
# each synapse.

rule = LocalRule(
    rule="oja",
    signal="error",
    reduction="mean",
    output_shift="signal",
    linear_feedback=True,
    frozen_layers=2,
    hidden_multiplier=0.1,
)
units = [1, 64, 64, 64, 1]
meta = {}
for layer, (n_in, n_out) in enumerate(itertools.pairwise(units)):
    meta[f"W{layer}"] = math.sqrt(2 / n_in) * torch.randn(n_out, n_in, generator=generator)
    meta[f"b{layer}"] = torch.randn(n_out, generator=generator) * (layer == 0)
    meta[f"p{layer}"] = torch.full((n_out, n_in), 0.01)
    if n_out > 1:
        meta[f"B{layer}_0"] = torch.randn(n_out, 1, generator=generator)
        meta[f"c{layer}_0"], meta[f"s{layer}"] = torch.zeros(n_out), torch.ones(1)
for value in meta.values():
    value.requires_grad_()

# %%
# Between lifetimes
# -----------------
#
# ``lifetime`` runs the local rule over the stream. The loss at the end has a gradient for
# everything it started with.

new = sinusoids(100, query)  # to measure on; never trained on


def answers() -> Tensor:
    """What the network says to the queries of the new sinusoids, after learning each of them by the local rule."""
    with torch.no_grad():
        weights, _ = lifetime(meta, new[0], rule)
        return predict(meta, weights, new[1])


before = answers()
plasticity = [value for name, value in meta.items() if name.startswith("p")]
others = [value for name, value in meta.items() if not name.startswith("p")]
optimizer = torch.optim.Adam([{"params": others, "lr": 3e-3}, {"params": plasticity, "lr": 1e-3}])
losses = []
for _ in range(200):
    stream, x, y = sinusoids(16, query)
    weights, _ = lifetime(meta, stream, rule)
    loss = loss_of(predict(meta, weights, x), y).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(meta.values(), 10.0)
    optimizer.step()
    losses.append(loss.item())
after = answers()

target = new[2]
for when, found in (("before", before), ("after", after)):
    error = (found - target).square().mean() / target.var()
    print(f"{when} meta-training: squared error {error:.3f} of the variance, on 100 new sinusoids")

# %%
# The picture
# -----------

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.semilogy(losses)
left.set(xlabel="meta-step", ylabel="squared error", title="error after a lifetime, while meta-training")
right.plot(query, target[0, :, 0], color="black", linewidth=0.8, label="new sinusoid")
right.plot(new[0].x[0].flatten(), new[0].y[0].flatten(), "k.", label="its 50 points")
right.plot(query, before[0, :, 0], "--", label="learned before meta-training")
right.plot(query, after[0, :, 0], label="learned after meta-training")
right.set(xlabel="x", ylabel="y", title="the same local rule, the same points", ylim=(-1.2, 0.6))
right.legend(fontsize="small")
plt.show()

# %%
# :doc:`Learning to learn with local plasticity </plasticity>` has the commands, images, and
# continual learning.
