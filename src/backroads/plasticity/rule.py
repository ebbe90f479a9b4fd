"""What happens in one step of a lifetime, as frozen data. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backroads.runs.groups import Group

Finite = Annotated[float, Field(allow_inf_nan=False)]


class LocalRule(Group):
    """The local rule.

    How the plastic weights of a network change in a lifetime; each field has its meaning below it.

    Raises:
        pydantic.ValidationError: for an option that is not among the choices, or a number that makes no sense.

    Source: Lindsey and Litwin-Kumar, "Learning to Learn with Feedback and Local Plasticity", NeurIPS 2020;
    "gradient" is the inner loop of Javed and White, "Meta-Learning Representations for Continual Learning", 2019.
    """

    rule: Literal["oja", "hebb", "polynomial", "gradient"] = "oja"
    """How weights change in a lifetime: by Oja's rule or Hebb's, by a polynomial of both activities, feedback and
    weight whose coefficients are meta-learned, which are local, or by gradient descent on the loss of each step, with
    backpropagation."""
    signal: Literal["target", "error", "error_detached"] = "error"
    """What feedback carries: the target (y, or the one-hot of a label), the error (y - yhat; for labels
    (one-hot - softmax) / batch size), or the error as a constant for the meta-gradient. Default for images: target."""
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    """Linear layers, counted from the input, that do not change in a lifetime."""
    plastic_layers: Literal["all", "output", "none"] = "all"
    """Which of the other layers change in a lifetime."""
    hidden_shift: Literal["feedback", "none"] = "feedback"
    """What shifts the activity of hidden layers before their weights change: feedback, or nothing."""
    output_shift: Literal["feedback", "signal", "none"] = "feedback"
    """What shifts the activity of the output layer: feedback, the signal itself, or nothing. Default for images:
    signal."""
    linear_feedback: bool = False
    """Leave out the rectifier after each feedback layer."""
    absolute_signal: bool = False
    """Send the absolute value of the signal through feedback."""
    gate: Literal["none", "relu", "sign"] = "none"
    """Multiply what feedback brings by the rectifier's derivative in hidden layers (relu), or by the sign of the
    activity in all layers (sign), as an option of the reference does."""
    hidden_multiplier: Finite = 1.0
    """Factor on the changes of all layers but the last. Default for images: 100.0."""
    reduction: Literal["sum", "mean", "power"] = "sum"
    """How the changes of a step's examples are put together: their sum, as in the reference; their mean, so that rates
    compare across batch sizes; or their sum over the squares of all activities before and after the synapses (power),
    so that no weight moves by more than its plasticity times 1/2 + |W|, whatever the width of the network."""
    inner_lr: Finite = 0.003
    """Step size of rule 'gradient' in a lifetime, where step sizes are not meta-learned. Default for images: 0.01."""
    second_order: bool = True
    """Let the meta-gradient go through the inner gradient of rule 'gradient'."""
    inner_clip: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Clip each entry of the inner gradient of rule 'gradient' to this absolute value."""

    @property
    def is_gradient(self) -> bool:
        """Whether the rule is the comparator, which is not local."""
        return self.rule == "gradient"

    def is_plastic(self, layer: int, layers: int) -> bool:
        """Whether the weights of linear layer number ``layer`` of ``layers`` change in a lifetime."""
        if layer < self.frozen_layers or self.plastic_layers == "none":
            return False
        return self.plastic_layers == "all" or layer == layers - 1

    def shift(self, layer: int, layers: int) -> str:
        """What shifts the activity after a layer: "feedback", "signal" or "none"."""
        return self.output_shift if layer == layers - 1 else self.hidden_shift
