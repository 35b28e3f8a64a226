"""Networks of several modules that are trained together: joint and multi-embedding.

Shapes: B rows, F fields, k modules, D embedding dimension of one module, W width of one module's
rows of the feature table: D and, where it has one, a first-order weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from modules.config import ConfigError
from modules.embedding import EmbeddingTable, Network
from modules.layers import MLP
from modules.models.dcn import CrossNetwork


class Columns(NamedTuple):
    """What one module has of a row of the feature table."""

    embedding_dim: int
    first_order: bool

    @property
    def width(self) -> int:
        return self.embedding_dim + self.first_order


def join_tables(networks: Sequence[Network]) -> tuple[EmbeddingTable, list[Columns]]:
    """One feature table that holds the rows of all networks' tables side by side, (N, sum W)."""
    tables = [network.table for network in networks]
    columns = [Columns(table.embedding_dim, table.first_order) for table in tables]
    weight = torch.cat([table.weight for table in tables], dim=1)
    joined = EmbeddingTable(
        1, weight.shape[1], first_order=False, generator=torch.Generator().manual_seed(0)
    )
    joined.weight = weight
    return joined, columns


def split_columns(vectors: Tensor, columns: Sequence[Columns]) -> list[tuple[Tensor, Tensor]]:
    """Vectors (B, F, sum W) -> the vectors (B, F, D) and weights (B, F) of each module."""
    pieces = vectors.split([own.width for own in columns], dim=2)
    return [
        (
            piece[..., : own.embedding_dim],
            piece[..., own.embedding_dim]
            if own.first_order
            else vectors.new_zeros(()).expand(vectors.shape[:2]),
        )
        for piece, own in zip(pieces, columns, strict=True)
    ]


class JointModel(nn.Module):
    """The official group training: k parallel modules, each with its own table, one loss.

    The loss is that of the mean logit, so that this is one wide model, not a merge of members.
    Shape: vectors (B, F, sum W), weights (B, F) unused -> logits (B,)
    """

    def __init__(self, models: Sequence[nn.Module], columns: Sequence[Columns]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.columns = list(columns)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        own = split_columns(vectors, self.columns)
        logits = [model(*inputs) for model, inputs in zip(self.models, own, strict=True)]
        return torch.stack(logits).mean(dim=0)


# What each embedding set has of its own, by the dimension that counts rows there, and the MLPs in
# whose first hidden layer the sets meet. What stands beside an MLP ends in a linear map to the
# logit, which is shared or a sum: its mean over the sets is that of its hidden vectors.
INTERACTIONS: dict[str, dict[str, int]] = {
    "deepfm": {},
    "fnn": {},
    "ipnn": {},
    "dcn": {"cross": 0},
    "dcnv2": {"cross": 0},
    "xdeepfm": {"cin": 0},
    "autoint": {"attention": 0},
    "finalmlp": {},
    "wukong": {"layers": 0},
    "rankmixer": {"widen": 0, "layers": 1},
}
MLPS = {"finalmlp": ("mlps.0", "mlps.1")}


class MultiEmbeddingModel(nn.Module):
    """Multi-embedding (Guo et al., ICML 2024, arXiv 2310.04400): k tables and interactions.

    Every set of embeddings has an interaction and a first hidden layer of its own. The hidden
    vectors are averaged over the sets, and the other layers exist once.
    The sets go through the model as one batch of k * B rows, set by set.
    Raises `ConfigError` for a model without hidden layers.
    Shape: vectors (B, F, k * W), weights (B, F) unused -> logits (B,)
    """

    def __init__(self, name: str, models: Sequence[nn.Module], columns: Sequence[Columns]) -> None:
        super().__init__()
        check_has_hidden_layer(name)
        self.columns = list(columns)
        for place, dim in INTERACTIONS[name].items():
            own = [model.get_submodule(place) for model in models]
            models[0].set_submodule(place, PerSet(own, dim))
        for place in MLPS.get(name, ("mlp",)):
            mlps = [mlp for model in models for path, mlp in model.named_modules() if path == place]
            if mlps:  # AutoInt's is an option
                models[0].set_submodule(place, MergingMLP(mlps))
        self.model = models[0]

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        own = split_columns(vectors, self.columns)
        stacked = (torch.cat(inputs) for inputs in zip(*own, strict=True))
        logits: Tensor = self.model(*stacked)  # (k * B,)
        return torch.unflatten(logits, 0, (len(own), -1)).mean(dim=0)


def check_has_hidden_layer(name: str) -> None:
    """Raise `ConfigError` for a model in which sets of embeddings cannot meet before the logit."""
    if name not in INTERACTIONS:
        raise ConfigError(
            f"multi: model '{name}' has no hidden layer in which embedding sets could be merged; "
            f"use joint, or leave it out with --models"
        )


class PerSet(nn.Module):
    """k modules of one shape, each for its k-th of the rows, which `dim` counts."""

    def __init__(self, modules: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.sets = nn.ModuleList(modules)
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        parts = inputs.chunk(len(self.sets), dim=self.dim)
        return torch.cat(
            [module(part) for module, part in zip(self.sets, parts, strict=True)], dim=self.dim
        )

    def along(self, direction: Tensor, inputs: Tensor) -> Tensor:
        """`CrossNetwork.along` of every set."""
        parts = inputs.chunk(len(self.sets))
        return torch.cat(
            [
                cast(CrossNetwork, cross).along(direction, part)
                for cross, part in zip(self.sets, parts, strict=True)
            ]
        )


class MergingMLP(nn.Module):
    """An MLP whose first hidden layer is each set's own; its outputs are averaged over the sets.

    Shape: (k * B, width) -> (k * B, output_dim), the same for every set
    """

    def __init__(self, mlps: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [list(mlp.children()) for mlp in mlps]
        first = next(i + 1 for i, layer in enumerate(layers[0]) if isinstance(layer, nn.ReLU))
        self.first = nn.ModuleList(_mlp_of(own[:first]) for own in layers)
        self.rest = _mlp_of(layers[0][first:])

    def forward(self, inputs: Tensor) -> Tensor:
        own = inputs.chunk(len(self.first))
        hidden = [first(part) for first, part in zip(self.first, own, strict=True)]
        outputs: Tensor = self.rest(torch.stack(hidden).mean(dim=0))  # (B, output_dim)
        return outputs.repeat(len(hidden), 1)


def _mlp_of(layers: Sequence[nn.Module]) -> MLP:
    return MLP(0, (), output_dim=None).extend(layers)
