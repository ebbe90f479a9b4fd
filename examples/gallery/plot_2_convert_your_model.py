"""
Convert your own model
======================

Any model of ``Linear`` and ``Conv`` layers trains without weight transport after one call. Here is
one with a shortcut and batch norm. In two epochs the angle between :math:`W` and :math:`B` falls
from 90 degrees to below 5 in every layer, and the update of all weights points where
backpropagation's would.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import backroads as br
from backroads.data import batches, load_digits

torch.set_num_threads(1)
torch.manual_seed(0)

# %%
# The model
# ---------
#
# Nothing in it knows of backroads.


class Block(torch.nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = torch.nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(h)))


model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, 3, padding=1), Block(16), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(256, 10)
)

# %%
# What would happen
# -----------------
#
# A plan changes nothing. It lists every module that has parameters, and says why one is not
# converted.

rule = br.rules.symmetric_alignment(decay=0.05, self_=0.05)  # each step closes 5 % of the distance to W
print(br.plan(model, rule))

# %%
# Convert and train
# -----------------
#
# ``convert`` changes the model in place: the same Parameters and the same outputs, and a
# ``backward_weight`` in every layer, drawn at random. ``strict`` refuses a model in which something
# would still transport weights.

model = br.convert(model, rule, strict=True, generator=1)
optimizer = torch.optim.SGD(br.param_groups(model, lr=0.02, momentum=0.9))
digits, _, test = load_digits().divided("test")

angles, updates = [], []
for epoch in range(1, 5):
    for rows in batches(len(digits.y), 64, 0, epoch):
        x, y = digits.x[rows], digits.y[rows]
        angles.append(br.metrics.weight_angles(model))
        if len(angles) % 5 == 1:
            found = br.metrics.readings(model, lambda x=x, y=y: F.cross_entropy(model(x), y))
            updates.append((len(angles) - 1, found["update_angle"][""]))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    accuracy = (model(test.x).argmax(1) == test.y).double().mean().item()
print(f"accuracy on {len(test.y)} images that it has not seen: {100 * accuracy:.1f} %")

# %%
# :math:`B` comes to :math:`W`
# ----------------------------

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for layer in angles[0]:
    axes.plot([angle[layer] for angle in angles], label=f"W and B of layer {layer}")
axes.plot(*zip(*updates, strict=True), color="black", linestyle="--", label="update and backpropagation's")
axes.set(xlabel="step", ylabel="angle, degrees", ylim=(0, 95))
axes.legend(fontsize="small")
plt.show()

# %%
# And back
# --------
#
# ``br.revert`` returns plain torch layers with the learned weights.

model = br.revert(model)
assert not any("backward_weight" in name for name in model.state_dict())
