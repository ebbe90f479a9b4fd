"""
A rule of your own
==================

A rule is a sum of primitives, and rules add: half a mirror and half a pull towards :math:`W` is a
rule. Its :math:`B` settles where the sum's gradient is zero. Here is where, for all mixtures from a
pure mirror to a pure pull: measured on a layer, and from the closed form.
"""

import matplotlib.pyplot as plt
import torch

import backroads as br

torch.set_num_threads(1)
INPUTS, OUTPUTS, BATCH, STEPS, RATE = 40, 20, 256, 300, 0.05

# %%
# Two rules and their sums
# ------------------------
#
# ``amp`` correlates output and input, ``self_`` pulls :math:`B` to :math:`W`, ``decay`` holds both
# down. ``unit_power`` divides activity terms by the power of the input, so that the coefficients
# mean the same in every layer.

mirror = br.Alignment(amp=RATE, decay=RATE, reduction="unit_power")
pull = br.Alignment(self_=RATE, decay=RATE, reduction="unit_power")
half = 0.5 * mirror + 0.5 * pull
print(half)

# %%
# ``br.register_rule("half_and_half", lambda: half)`` gives it a name, to be used wherever a rule is
# named. As TOML it goes into a file of settings.

print(br.rules.to_toml(half))

# %%
# Where B settles
# ---------------
#
# The inputs have different strengths, from 0.2 to 2. A mirror sees strong inputs better, so its
# :math:`B` keeps away from :math:`W`.

strengths = torch.linspace(0.2, 2.0, INPUTS)


def settled(rule: br.Alignment) -> br.nn.Linear:
    """A layer whose B has learned by a rule while W stood still."""
    torch.manual_seed(0)
    layer = br.nn.Linear(INPUTS, OUTPUTS, bias=False, rule=rule)
    optimizer = torch.optim.SGD([layer.backward_weight], lr=1.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        layer(torch.randn(BATCH, INPUTS) * strengths).sum().backward()
        optimizer.step()
    return layer


def closed_form(W: torch.Tensor, part: float) -> torch.Tensor:
    """B* = (1 - part) W C / power + part W: the gradient of the sum is zero there."""
    C = strengths.square() / strengths.square().mean()
    return (1 - part) * W * C + part * W


parts = torch.linspace(0, 1, 9).tolist()
layers = [settled((1 - part) * mirror + part * pull) for part in parts]
measured = [br.metrics.angle(layer.backward_weight, layer.weight) for layer in layers]
W = layers[0].weight.detach()
fine = torch.linspace(0, 1, 101).tolist()
expected = [br.metrics.angle(closed_form(W, part), W) for part in fine]
print(f"mirror {measured[0]:.1f}, half and half {measured[4]:.1f}, pull {measured[-1]:.1f} degrees from W")

# %%
# The measured angles lie on the closed form.

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(fine, expected, color="black", linewidth=0.8, label="closed form")
axes.plot(parts, measured, "o", label=f"after {STEPS} steps")
axes.set(xlabel="part of the pull in the sum", ylabel="angle between B and W, degrees", ylim=(0, None))
axes.legend()
plt.show()

# %%
# :doc:`A rule of your own </own_rule>` has more: options, a class for what is no such sum, and a
# new primitive.
