"""Multi-head attention whose projections have their own way back."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from backroads.errors import ShapeError, UsageError
from backroads.feedback.nn.layers import Linear
from backroads.feedback.nn.projection import Projection, WithProjections


class OutputProjection(Linear):
    """The output projection of attention, which torch makes of a class of its own."""

    torch_class = NonDynamicallyQuantizableLinear


class MultiheadAttention(WithProjections, torch.nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` whose four projections have backward weights of their own.

    W stays where torch has it (``in_proj_weight``, or ``q_proj_weight`` and so on, and ``out_proj``), so that plain
    state dicts load. ``q``, ``k`` and ``v`` hold the backward weights, each the rule's own: the null and amp terms of a
    stacked weight would mix the three. The products of activities (scores, softmax, weighted values) transport no
    weights and keep their exact derivatives. Made by :func:`backroads.convert`.
    """

    torch_class = torch.nn.MultiheadAttention
    q: Projection
    k: Projection
    v: Projection

    def projections(self) -> dict[str, Projection]:
        """Those of query, key and value; ``out_proj`` is a layer of its own."""
        E, made = self.embed_dim, {}
        for place, name in enumerate("qkv"):
            own = slice(place * E, (place + 1) * E)
            if self._qkv_same_embed_dim:
                made[name] = Projection(self, "in_proj_weight", "in_proj_bias", own, own)
            else:
                made[name] = Projection(self, f"{name}_proj_weight", "in_proj_bias", bias_rows=own)
        return made

    def _reset_parameters(self) -> None:
        """torch's own, and a new draw of each B, to fit its W."""
        super()._reset_parameters()
        self.redraw()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Arguments and results of ``torch.nn.MultiheadAttention``.

        ``softmax(q k^T / sqrt(D) + mask) v`` for each of H heads of D features, then the output projection (Vaswani et
        al., NeurIPS 2017).

        Raises:
            ShapeError: inputs that do not fit, or a mask of whole numbers.
            UsageError: ``is_causal`` without a mask, as in torch.
        """
        if not torch.is_grad_enabled():  # nothing goes back: torch's own, with its fast path
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if is_causal and attn_mask is None:
            raise UsageError("MultiheadAttention: expected attn_mask with is_causal=True, got None; give the mask")
        batched = query.dim() == 3
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            # The batch comes first, for rules that mean over it.
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        if query.dim() != 3 or key.dim() != 3 or len(key) != len(query) or value.shape[:2] != key.shape[:2]:
            raise ShapeError(
                f"MultiheadAttention: expected query, key and value of shapes (N, L, E), (N, S, E) and (N, S, E), got "
                f"{', '.join(str(tuple(t.shape)) for t in (query, key, value))}, the batch first"
            )
        q, k, v = self.q(query), self.k(key), self.v(value)
        mask = _merged(attn_mask, key_padding_mask, q, k.shape[1], self.num_heads)
        N = q.shape[0]
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.to(k.dtype).expand(N, -1, -1)], 1)
            v = torch.cat([v, self.bias_v.to(v.dtype).expand(N, -1, -1)], 1)
            mask = None if mask is None else F.pad(mask, (0, 1))
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
            mask = None if mask is None else F.pad(mask, (0, 1))
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))  # (N, H, L, D)
        drop = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), drop)
            z = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            z = F.scaled_dot_product_attention(q, k, v, mask, drop)
        y = self.out_proj(z.transpose(1, 2).flatten(2))
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights


def _merged(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, S: int, heads: int) -> Tensor | None:
    """Both masks as one that is added to the scores, broadcast to (N, H, L, S); None for none.

    Args:
        attn_mask: (L, S) or (N H, L, S).
        key_padding_mask: (N, S). Bool (True is left out) or to be added.
    """
    N, L = q.shape[:2]
    mask = None
    if attn_mask is not None:
        if attn_mask.shape not in ((L, S), (N * heads, L, S)):
            raise ShapeError(
                f"MultiheadAttention: expected attn_mask of shape ({L}, {S}) or ({N * heads}, {L}, {S}), "
                f"got {tuple(attn_mask.shape)}"
            )
        mask = _added(attn_mask, q)
        mask = mask.unflatten(0, (N, heads)) if mask.dim() == 3 else mask
    if key_padding_mask is not None:
        if key_padding_mask.shape != (N, S):
            raise ShapeError(
                f"MultiheadAttention: expected key_padding_mask of shape ({N}, {S}), "
                f"got {tuple(key_padding_mask.shape)}"
            )
        padding = _added(key_padding_mask, q)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to be added: bool True becomes minus infinity."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise ShapeError(
            f"MultiheadAttention: expected masks of bool (True: left out) or of floats to be added, got {mask.dtype}; "
            f"give mask == 0 where 1 means that a place counts, and mask.bool() where it means that it is left out"
        )
    return mask.to(like.dtype)
