"""A rule of your own, as a sum of primitives: a local mirror and a weak pull toward W.

    python examples/own_rule.py

Both are given a layer with inputs that are far from white. The mirror alone settles at W C, the pull alone at W; the
sum of the two settles between them, where its gradient is 0.
"""

import torch

import backroads as br

STEPS, BATCH = 400, 256


def settle(rule: br.Alignment) -> br.nn.Linear:
    """A layer whose B has learned by ``rule`` while W stood still."""
    torch.manual_seed(0)
    layer = br.nn.Linear(40, 20, bias=False, rule=rule)
    optimizer = torch.optim.SGD([layer.backward_weight], lr=1.0)
    strengths = torch.linspace(0.2, 2.0, 40)  # of the inputs
    for _ in range(STEPS):
        optimizer.zero_grad()
        layer(torch.randn(BATCH, 40) * strengths).sum().backward()
        optimizer.step()
    return layer


def main() -> None:
    mirror = br.Alignment(amp=0.05, decay=0.05, reduction="unit_power")
    pull = br.Alignment(self_=0.05, decay=0.05, reduction="unit_power")
    rules = {"mirror": mirror, "pull": pull, "half and half": 0.5 * mirror + 0.5 * pull}

    br.register_rule("half_and_half", lambda: rules["half and half"])
    assert br.get_rule("half_and_half") == rules["half and half"]  # and br.convert(model, "half_and_half")

    for name, rule in rules.items():
        layer = settle(rule)
        degrees = br.metrics.angle(layer.backward_weight, layer.weight)
        ratio = br.metrics.norm_ratio(layer.backward_weight, layer.weight)
        print(f"{name:14} {degrees:5.1f} degrees from W  |B|/|W| {ratio:.2f}  {rule!r}")

    print("\nas TOML:", br.rules.to_toml(rules["half and half"]), sep="\n")


if __name__ == "__main__":
    main()
