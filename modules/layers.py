"""What two models share. Shapes: B rows, F fields, D embedding dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from modules.precision import apply_in_float32


class MLP(nn.Sequential):
    """Hidden layers of Linear, BatchNorm (optional), ReLU, Dropout (optional), then a Linear.

    Shape: (B, input_dim) -> (B, output_dim), or (B, hidden_units[-1]) where output_dim is None.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        output_dim: int | None = 1,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        width = input_dim
        for units in hidden_units:
            layers.append(nn.Linear(width, units))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(nn.ReLU(inplace=True))  # no layer before it needs its own output
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            width = units
        if output_dim is not None:
            layers.append(nn.Linear(width, output_dim))
            width = output_dim
        super().__init__(*layers)
        self.output_dim = width

    def forward(self, inputs: Tensor) -> Tensor:
        layers = [layer for layer in self if isinstance(layer, nn.Linear)]
        others = [layer for layer in self if not isinstance(layer, nn.Linear | nn.ReLU)]
        outputs: Tensor
        if others or not layers or torch.is_autocast_enabled(inputs.device.type):
            outputs = super().forward(inputs)  # type: ignore[no-untyped-call]
        else:
            parameters = (tensor for layer in layers for tensor in (layer.weight, layer.bias))
            ends_in_relu = isinstance(self[-1], nn.ReLU)
            outputs = _LinearChain.apply(inputs, ends_in_relu, *parameters)  # type: ignore[no-untyped-call]
        return outputs


class _LinearChain(torch.autograd.Function):
    """Linears with a ReLU between them, and behind the last one if `ends_in_relu`.

    As one function it knows that no one else needs the gradients between its layers, so that they
    can be overwritten, and that each Linear can be one call with its ReLU.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, ends_in_relu: bool, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[0::2], parameters[1::2]
        hidden = [inputs]
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True), start=1):
            relu = ends_in_relu or number < len(weights)
            hidden.append(_linear(hidden[-1], weight, bias, relu=relu))
        ctx.ends_in_relu = ends_in_relu
        ctx.save_for_backward(*hidden, *weights)
        return hidden[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        num_layers = len(ctx.saved_tensors) // 2
        hidden, weights = ctx.saved_tensors[: num_layers + 1], ctx.saved_tensors[num_layers + 1 :]
        of_parameters: list[Tensor] = []
        (grad,) = grads
        if ctx.ends_in_relu:
            grad = torch.ops.aten.threshold_backward(grad, hidden[-1], 0)
        for number in reversed(range(num_layers)):
            of_parameters[:0] = [grad.T @ hidden[number], grad.sum(dim=0)]
            if number > 0:
                grad = grad @ weights[number]
                torch.ops.aten.threshold_backward(grad, hidden[number], 0, grad_input=grad)
        of_inputs = grad @ weights[0] if ctx.needs_input_grad[0] else None
        return of_inputs, None, *of_parameters


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """A Linear and perhaps a ReLU: on a CPU one call of oneDNN."""
    if inputs.device.type == "cpu" and inputs.dtype == torch.float32:
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, weight, bias, "relu" if relu else "none", [], ""
        )
        return fused
    outputs = torch.addmm(bias, inputs, weight.T)
    return outputs.relu_() if relu else outputs


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _linear_flops(
    input_shape: tuple[int, ...], weight_shape: tuple[int, ...], *_args: Any, **_kwargs: Any
) -> int:
    """For torch's counter, which knows its other matrix products."""
    return 2 * input_shape[0] * weight_shape[0] * weight_shape[1]


def pairwise_sum(vectors: Tensor) -> Tensor:
    """Sum over all pairs of fields of the inner products of their vectors.

    sum_{i<j} <e_i, e_j> = 1/2 sum_d [(sum_f e_fd)^2 - sum_f e_fd^2] (Rendle, ICDM 2010).
    Shape: (B, F, D) -> (B,)
    """
    products: Tensor = apply_in_float32(_PairwiseSum, vectors)
    return products


class _PairwiseSum(torch.autograd.Function):
    """`pairwise_sum` with its gradient in closed form: that of e_i is sum_f e_f - e_i."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(dim=1)  # (B, D)
        ctx.save_for_backward(vectors, total)
        norm = torch.linalg.vector_norm(vectors.flatten(start_dim=1), dim=1)
        products: Tensor = 0.5 * (total.square().sum(dim=1) - norm.square())  # (B,)
        return products

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        grad: Tensor = (total[:, None] - vectors).mul_(grads[0][:, None, None])
        return grad
