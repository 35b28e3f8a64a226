"""The contenders of the step benchmark: this project's step, torch's own, DeepCTR-Torch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.distinct import DistinctIds, find_distinct
from modules.embedding import EmbeddingTable
from modules.matrix_products import use_fast_matrix_products
from modules.memory import keep_freed_memory
from modules.models import build_model
from modules.optim import DeferredAdam
from modules.precision import Precision, autocast

EMBEDDING_DIM, LR = 16, 1e-3
BATCHES = 32
STEPS_BEFORE = 1000


@dataclass(frozen=True)
class Shape:
    """A data set by its fields: two huge ones, the others of equal size."""

    num_fields: int
    num_features: int

    def field_sizes(self) -> list[int]:
        small = self.num_features // (5 * (self.num_fields - 2))  # a fifth of all features
        huge = (self.num_features - small * (self.num_fields - 2)) // 2
        sizes = [huge, huge] + [small] * (self.num_fields - 2)
        sizes[0] += self.num_features - sum(sizes)
        return sizes

    def batches(self, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Seeded batches of local ids (B, F) and labels (B,); ids are Zipf-like in every field."""
        generator = np.random.default_rng(0)
        sizes = np.array(self.field_sizes())
        batches = []
        for _ in range(BATCHES):
            uniform = generator.random((batch_size, self.num_fields))
            ids = (sizes + 1.0) ** uniform - 1  # log-uniform: the frequency of rank r is about 1/r
            labels = (generator.random(batch_size) < 0.2).astype(np.float32)
            batches.append((torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(labels)))
        return batches


SHAPES = {"avazu": Shape(24, 4_400_000), "criteo": Shape(39, 1_100_000)}


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    model: str
    shape: Shape
    contender: str
    batch_size: int
    steps: int
    inference: bool
    threads: int
    precision: Precision = "float32"  # ours alone; a rival computes in float32
    compile: bool = False
    dropout: float = 0.0


class Contender:
    """A network and its optimisers; a step is these parts, one after the other."""

    precision: Precision = "float32"

    def prepare(self, ids: Tensor) -> Any:
        """What `gather` takes of a batch's ids, made by a thread during the step before."""
        return ids

    def gather(self, prepared: Any) -> tuple[Tensor, ...]:
        """What `forward` needs of the feature table."""
        raise NotImplementedError

    def forward(self, *gathered: Tensor) -> Tensor:
        """Logits (B,)."""
        raise NotImplementedError

    def optimise(self) -> None:
        """Move all parameters by their gradients, and forget these."""
        raise NotImplementedError

    def evaluate(self) -> None:
        """From now on only `gather` and `forward`, without gradients."""


class Ours(Contender):
    """As `modules.training` steps."""

    def __init__(self, job: Job) -> None:
        keep_freed_memory()
        use_fast_matrix_products()
        self.offsets = _offsets(job.shape)
        self.model = build(job)
        self.compiled = torch.compile(self.model) if job.compile else self.model
        self.precision = job.precision
        self.table = EmbeddingTable(
            job.shape.num_features,
            EMBEDDING_DIM if self.model.uses_vectors else 0,
            first_order=bool(self.model.uses_weights),
            generator=torch.Generator().manual_seed(0),
        )
        self.parameters = list(self.model.parameters())
        self.training = not job.inference
        if self.training:
            self.table_optimizer = DeferredAdam(self.table.weight, lr=LR)
            # As later in a training: the first 256 steps take twice the time for resting rows.
            state = self.table_optimizer.state_dict() | {"step": STEPS_BEFORE}
            self.table_optimizer.load_state_dict(state)
            self.optimizer = torch.optim.Adam(self.parameters, lr=LR, fused=True)

    def prepare(self, ids: Tensor) -> Tensor | DistinctIds:
        ids = torch.from_numpy(ids.numpy() + self.offsets.numpy())
        return find_distinct(ids, len(self.table.weight)) if self.training else ids

    def gather(self, prepared: Any) -> tuple[Tensor, ...]:
        if not self.training:
            embedded: tuple[Tensor, Tensor] = self.table(prepared)
            return embedded
        self.batch = prepared
        self.rows = self.table_optimizer.gather(self.batch.ids)
        return self.table.embed(self.rows, self.batch)

    def forward(self, *gathered: Tensor) -> Tensor:
        with autocast(self.precision, gathered[0].device):
            logits: Tensor = self.compiled(*gathered)
        return logits.float()

    def optimise(self) -> None:
        self.table_optimizer.update(self.batch.ids, self.rows)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Torch(Contender):
    """The same network over nn.Embedding, with torch's dense Adam over everything."""

    def __init__(self, job: Job, *, fused: bool) -> None:
        self.offsets = _offsets(job.shape)
        self.model = build(job)
        self.vectors = nn.Embedding(job.shape.num_features, EMBEDDING_DIM)
        self.weights = nn.Embedding(job.shape.num_features, 1)
        # As ours: under nn.Embedding's N(0, 1) logits saturate and gradients become denormal
        # numbers, which slow a processor down several times.
        for embedding in (self.vectors, self.weights):
            nn.init.xavier_uniform_(embedding.weight)
        used = [self.model]
        used += [self.vectors] if self.model.uses_vectors else []
        used += [self.weights] if self.model.uses_weights else []
        parameters = [parameter for module in used for parameter in module.parameters()]
        if not job.inference:
            self.optimizer = torch.optim.Adam(parameters, lr=LR, fused=fused or None)

    def prepare(self, ids: Tensor) -> Tensor:
        return torch.from_numpy(ids.numpy() + self.offsets.numpy())

    def gather(self, prepared: Tensor) -> tuple[Tensor, ...]:
        zeros = torch.zeros(())
        return (
            self.vectors(prepared) if self.model.uses_vectors else zeros.expand(*prepared.shape, 0),
            self.weights(prepared).squeeze(2)
            if self.model.uses_weights
            else zeros.expand(prepared.shape),
        )

    def forward(self, *gathered: Tensor) -> Tensor:
        logits: Tensor = self.model(*gathered)
        return logits

    def optimise(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


# Our models by DeepCTR-Torch's class, and the settings that make it the same size.
DEEPCTR: dict[str, tuple[str, dict[str, Any]]] = {
    "deepfm": ("DeepFM", {}),
    "ipnn": ("PNN", {}),
    "dcn": ("DCN", {"cross_num": 3}),
    "dcnv2": ("DCN", {"cross_num": 3, "cross_parameterization": "matrix"}),
    "xdeepfm": ("xDeepFM", {"cin_layer_size": (128, 128, 128), "cin_split_half": False}),
    "autoint": ("AutoInt", {"att_layer_num": 3, "att_head_num": 2}),
}


class DeepCTR(Contender):
    """DeepCTR-Torch's own model of that name, without regularisation; it gathers in `forward`."""

    def __init__(self, job: Job) -> None:
        if job.model not in DEEPCTR:
            raise SystemExit(f"DeepCTR-Torch has {', '.join(DEEPCTR)}, not {job.model}")
        try:
            from deepctr_torch import models
            from deepctr_torch.inputs import SparseFeat
        except ImportError as error:
            raise SystemExit("DeepCTR-Torch: pip install -r requirements-bench.txt") from error
        name, settings = DEEPCTR[job.model]
        columns = [
            SparseFeat(f"field_{field}", size, embedding_dim=EMBEDDING_DIM)
            for field, size in enumerate(job.shape.field_sizes())
        ]
        settings = settings | {"dnn_hidden_units": (1024, 512, 256), "dnn_dropout": job.dropout}
        settings |= {"l2_reg_embedding": 0}
        if name == "PNN":
            self.network = models.PNN(columns, **settings)
        else:
            linear = {} if name == "AutoInt" else {"l2_reg_linear": 0}
            self.network = getattr(models, name)(columns, columns, **linear, **settings)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LR)

    def gather(self, prepared: Tensor) -> tuple[Tensor, ...]:
        return (prepared.float(),)

    def forward(self, *gathered: Tensor) -> Tensor:
        probabilities: Tensor = self.network(*gathered).squeeze(1)
        return probabilities.logit(eps=1e-7)

    def optimise(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def evaluate(self) -> None:
        self.network.eval()


def _offsets(shape: Shape) -> Tensor:
    """Where every field begins among the global ids (F,)."""
    sizes = torch.tensor(shape.field_sizes())
    return sizes.cumsum(0) - sizes


def build(job: Job) -> Any:
    """The model of a job, seeded, and in its mode."""
    torch.manual_seed(0)
    settings = {"dropout": job.dropout} if job.dropout else {}
    model = build_model(job.model, job.shape.num_fields, embedding_dim=EMBEDDING_DIM, **settings)
    return model.eval() if job.inference else model.train()


CONTENDERS: dict[str, Callable[[Job], Contender]] = {
    "ours": Ours,
    "torch": lambda job: Torch(job, fused=False),
    "torch-fused": lambda job: Torch(job, fused=True),
    "deepctr": DeepCTR,
}
