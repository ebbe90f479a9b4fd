"""
A network on noisy hardware
===========================

Analog memories are written in steps, and a step up is seldom as large as a step down. Here
:math:`W` and :math:`B` are two arrays of such cells. Where steps up are a tenth larger and steps
down a tenth smaller, rules that teach :math:`B` learn as well as backpropagation, which would need
a transposed read of the array. At 0.3 they lose one to two points and fixed random feedback more
than ten. At 0.6 all lose eight points or more, backpropagation too (seed 0, n = 1).
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import backroads as br
from backroads.data import batches, load_digits

torch.set_num_threads(1)
digits, _, test = load_digits().divided("test")
x, y, test_x = digits.x.flatten(1), digits.y, test.x.flatten(1)

# %%
# Cells
# -----
#
# ``br.device_model`` keeps the weights in cells. Here a cell has steps of 10 bits, and steps up are
# larger than steps down by the asymmetry. Backpropagation has no :math:`B`, and is granted a
# transposed read.


def train(rule: str, asymmetry: float) -> float:
    """Test accuracy in percent after 8 epochs."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU()]
    model = br.convert(torch.nn.Sequential(*layers, torch.nn.Linear(100, 10)), rule, generator=1)
    optimizer = torch.optim.SGD(br.param_groups(model, lr=0.05, weight_decay=1e-3))
    device = br.Device(update_bits=10, asymmetry=asymmetry)
    cells = br.device_model(model, forward=device, backward=None if rule == "backprop" else device)
    step = 0
    for epoch in range(1, 9):
        for rows in batches(len(y), 32, 0, epoch):
            optimizer.zero_grad()
            with cells.read(step):
                F.cross_entropy(model(x[rows]), y[rows]).backward()
            with cells.write(step):
                optimizer.step()
            step += 1
    with torch.no_grad(), cells.read(step):
        return 100 * (model(test_x).argmax(1) == test.y).double().mean().item()


# %%
# Four rules
# ----------

asymmetries = (0.0, 0.1, 0.3, 0.6)
rules = ("backprop", "symmetric_alignment", "mirrored_kolen_pollack", "feedback_alignment")
accuracy = {rule: [train(rule, asymmetry) for asymmetry in asymmetries] for rule in rules}
for rule, row in accuracy.items():
    print(f"{rule:24}", "  ".join(f"{a:5.1f}" for a in row), "%")

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for rule, row in accuracy.items():
    axes.plot(asymmetries, row, marker="o", label=rule.replace("_", " "))
axes.set(xlabel="asymmetry of the cells", ylabel="test accuracy, %")
axes.legend()
plt.show()

# %%
# :doc:`Hardware without a transposed read </hardware>` has the other errors of cells, and how the
# rules bear each.
