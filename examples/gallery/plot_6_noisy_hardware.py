"""
A network on noisy hardware
===========================

Analog memories are written imperfectly: here every update of :math:`W` comes with noise. Up to a
third of the rate, rules that teach :math:`B` lose no more than backpropagation, which would need a
transposed read of the same cells. At three times as much, where a step's noise is as large as an
initial weight, they fail, and both backpropagation and fixed random feedback lose less (n = 1).
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import backroads as br
from backroads.data import batches, load_digits

torch.set_num_threads(1)
digits, test = load_digits().divided("test")
x, y, test_x = digits.x.flatten(1), digits.y, test.x.flatten(1)

# %%
# Noisy updates
# -------------
#
# ``br.noisy`` adds noise to what an optimiser writes: of a standard deviation ``std``, times the
# rate of the weight. On the command line it is ``--update-noise``. Here it is for :math:`W` alone.


def train(rule: str, std: float) -> float:
    """Test accuracy in percent after 8 epochs."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU()]
    model = br.convert(torch.nn.Sequential(*layers, torch.nn.Linear(100, 10)), rule, generator=1)
    optimizer = torch.optim.SGD(br.param_groups(model, lr=0.05, weight_decay=1e-3))
    optimizer = br.noisy(optimizer, std, which="forward", model=model)
    for epoch in range(1, 9):
        for rows in batches(len(y), 32, 0, epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return 100 * (model(test_x).argmax(1) == test.y).double().mean().item()


# %%
# Four rules
# ----------

noise = (0.0, 0.03, 0.1, 0.3, 1.0)
rules = ("backprop", "symmetric_alignment", "mirrored_kolen_pollack", "feedback_alignment")
accuracy = {rule: [train(rule, std) for std in noise] for rule in rules}
for rule, row in accuracy.items():
    print(f"{rule:24}", "  ".join(f"{a:5.1f}" for a in row), "%")

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for rule, row in accuracy.items():
    axes.plot(row, marker="o", label=rule.replace("_", " "))
axes.set(xlabel="standard deviation of the noise / rate", ylabel="test accuracy, %")
axes.set_xticks(range(len(noise)), [f"{std:g}" for std in noise])
axes.legend()
plt.show()

# %%
# More in :doc:`One setting, many networks </local_rules>`, on CIFAR-10 and with noise of :math:`B`,
# too.
