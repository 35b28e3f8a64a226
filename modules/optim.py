"""Adam for the feature table: torch's own over every row, and one that visits only used rows.

Each optimiser offers `gather` (the up-to-date rows of distinct ids), `update` (one step of these
rows from their gradient) and `synchronize` (bring every row up to date, before the table is read
as a whole). `lr` may be changed between steps.
Shapes: N features, U distinct ids of a batch, W width of the table, J nodes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modules.memory import in_huge_pages

State = dict[str, Any]


class DenseAdam:
    """torch's own Adam over the whole table, as in the official code.

    Momentum moves the rows that a batch did not use, too, so every step costs the whole table.
    l2: decays the rows of the batch or, with `l2_of_table`, every row: Adam's coupled weight
    decay, which pulls the rows that a batch did not use to zero by about lr a step.
    """

    def __init__(
        self,
        table: Tensor,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        l2: float = 0.0,
        l2_of_table: bool = False,
    ) -> None:
        self._table = table
        self._l2 = 0.0 if l2_of_table else l2
        table.grad = torch.zeros_like(table)
        self._adam = torch.optim.Adam(
            [table], lr=lr, betas=betas, eps=eps, weight_decay=l2 - self._l2, fused=True
        )

    @property
    def lr(self) -> float:
        return float(self._adam.param_groups[0]["lr"])

    @lr.setter
    def lr(self, lr: float) -> None:
        self._adam.param_groups[0]["lr"] = lr

    def gather(self, ids: Tensor) -> Tensor:
        """The rows (U, W) of distinct ids (U,), as a leaf that collects their gradient."""
        return self._table.index_select(0, ids).requires_grad_()

    def update(self, ids: Tensor, rows: Tensor) -> None:
        """One step from the gradient of `rows` (U, W), gathered for distinct ids (U,)."""
        gradient = self._table.grad
        assert gradient is not None
        gradient.index_copy_(0, ids, _gradient(rows, self._l2))
        self._adam.step()
        gradient.index_fill_(0, ids, 0)

    def synchronize(self) -> None:
        """Every row is up to date after every step."""


class DeferredAdam:
    """The result of Adam over the whole table at the cost of the rows that a batch uses.

    A row with zero gradient still moves, by its decaying momentum. Last updated in step s with
    moments m and v, it has moved until step t by

        -m * sum_{n=s+1..t} c_n / (sqrt(v) / a_n + eps),
        c_n = lr_n beta1^(n-s) / (1 - beta1^n),  a_n = sqrt(1 - beta2^n) / beta2^((n-s)/2),

    so nothing is done to it until it is used next, and then this all at once (`_Drift`). No
    gradient, no moment and no temporary of the table's size is made in a step.

    l2: decays the rows of the batch: the coupled decay of every row has no such short cut.
    """

    def __init__(
        self,
        table: Tensor,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        l2: float = 0.0,
    ) -> None:
        self.lr = lr
        self._table = table
        self._betas = betas
        self._eps = eps
        self._l2 = l2
        # m and v, each row as of its last update
        self._first = in_huge_pages(table.shape, table.device).zero_()
        self._second = in_huge_pages(table.shape, table.device).fill_(_UNUSED)
        # In which step that was, counted from the last synchronisation.
        self._updated = torch.zeros(len(table), dtype=torch.int32, device=table.device)
        self._drift = _Drift(betas, eps, step=0, device=table.device)
        self._moments: tuple[Tensor, Tensor] | None = None  # of the gathered rows

    def gather(self, ids: Tensor) -> Tensor:
        """The rows (U, W) of distinct ids (U,), as a leaf that collects their gradient."""
        rows, *moments = self._current(ids)
        self._moments = (moments[0], moments[1])
        return rows.requires_grad_()

    def update(self, ids: Tensor, rows: Tensor) -> None:
        """One step from the gradient of `rows` (U, W), just gathered for distinct ids (U,)."""
        assert self._moments is not None, "update follows gather"
        first, second = self._moments
        self._moments = None
        beta1, beta2 = self._betas
        gradient = _gradient(rows, self._l2)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self._drift.advance(self.lr)
        step = self._drift.step
        correction = math.sqrt(1 - beta2**step)
        divisor = second.sqrt().add_(self._eps * correction)
        lr = self.lr * correction / (1 - beta1**step)
        moved = rows.detach().addcdiv_(first, divisor, value=-lr)
        self._table.index_copy_(0, ids, moved)
        self._first.index_copy_(0, ids, first)
        self._second.index_copy_(0, ids, second)
        self._updated.index_fill_(0, ids, self._drift.age)
        if self._drift.is_worth_coarsening():
            self.synchronize()

    def synchronize(self) -> None:
        """Bring every row up to date; costs the whole table, in chunks, if a step was made."""
        if not self._drift.age:
            return
        for start in range(0, len(self._table), _CHUNK):
            chunk = torch.arange(
                start, min(start + _CHUNK, len(self._table)), device=self._table.device
            )
            rows, first, second = self._current(chunk)
            part = slice(start, start + _CHUNK)
            self._table[part], self._first[part], self._second[part] = rows, first, second
        self._updated.zero_()
        self._drift = _Drift(
            self._betas, self._eps, step=self._drift.step, device=self._table.device
        )

    def state_dict(self) -> State:
        """The state of torch.optim.Adam at this point; every row is brought up to date first."""
        self.synchronize()
        return {"step": self._drift.step, "exp_avg": self._first, "exp_avg_sq": self._second}

    def load_state_dict(self, state: State) -> None:
        """Go on from `state_dict()`, the table being as it was then."""
        self._first.copy_(state["exp_avg"])
        self._second.copy_(state["exp_avg_sq"])
        self._updated.zero_()
        self._drift = _Drift(
            self._betas, self._eps, step=int(state["step"]), device=self._table.device
        )

    def _current(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and both moments (U, W) of ids (U,) as they are now, without writing them back."""
        rows, first, second = (
            state.index_select(0, ids) for state in (self._table, self._first, self._second)
        )
        updated = self._updated.index_select(0, ids)
        rows.addcmul_(first, self._drift.per_momentum(second.sqrt(), updated), value=-1)
        decay = self._drift.decay(updated)
        return rows, first.mul_(decay[:, :1]), second.mul_(decay[:, 1:])


_CHUNK = 1 << 16
# v of a row before its first use, hidden by eps: a CPU takes 20 times longer for the root of 0.
_UNUSED = 1e-30
# Terms of the drift below this share of the first are left out: after 0.9^197.
_NEGLIGIBLE = 1e-9
# Nodes by how far log a spreads at most over a row's rest, for a drift right to 2e-7. At first bias
# correction makes it spread; with Adam's usual betas 5 nodes do from step 256 on, 4 from 1,000.
_NODES = {12: math.inf, 5: 0.336, 4: 0.148}


class _Drift:
    """How far a row moves on its momentum, for every step in which it may have rested.

    The sum over n of c_n f(a_n), f(a) = a / (sqrt(v) + eps a), differs from element to element
    by v alone, and f is smooth in log a: so it equals sum_j weight_sj f(node_sj) with a few
    Chebyshev nodes in log a, whatever v is. The weights depend on s and t, not on rows: one small
    table, whose last entries get one more term in every step. float64.
    """

    def __init__(
        self, betas: tuple[float, float], eps: float, step: int, device: torch.device
    ) -> None:
        self.step = step  # t
        self._eps = eps
        self._start = step
        self._betas = betas
        self._log_beta1, self._log_beta2 = (math.log(max(beta, 1e-300)) for beta in betas)
        self._window = max(2, math.ceil(math.log(_NEGLIGIBLE) / self._log_beta1))
        count = self._nodes_needed()
        self._degrees = torch.arange(count, dtype=torch.float64, device=device)
        angles = (2 * self._degrees + 1) * (math.pi / (2 * count))
        self._roots = angles.cos()
        # Lagrange's polynomials of these roots in Chebyshev's: L_j(z) = sum_k basis_kj T_k(z).
        self._basis = (self._degrees[:, None] * angles).cos() * (2 / count)
        self._basis[0] /= 2
        self._weights = torch.empty(0, count, dtype=torch.float64, device=device)
        self._reserve(1024)

    @property
    def age(self) -> int:
        """Steps since the table was synchronised."""
        return self.step - self._start

    def is_worth_coarsening(self) -> bool:
        """Whether fewer nodes will do from here on, after a synchronisation."""
        return self._nodes_needed() < len(self._roots)

    def _nodes_needed(self) -> int:
        first, last = (
            math.expm1((self.step + rested) * self._log_beta2) for rested in (1, self._window)
        )
        spread = (math.log(last / first) - (self._window - 1) * self._log_beta2) / 2
        return min(nodes for nodes, widest in _NODES.items() if spread <= widest)

    def per_momentum(self, root: Tensor, updated: Tensor) -> Tensor:
        """How far elements moved for a momentum of one, (U, W).

        root: (U, W), the square roots of v. updated: (U,), the age of each row's last update.
        """
        terms = self._terms.index_select(0, updated).split(1, dim=1)
        divisor = root + terms[1]
        moved: Tensor = terms[0] / divisor
        for numerator, offset in zip(terms[2::2], terms[3::2], strict=True):
            torch.add(root, offset, out=divisor)
            moved.addcdiv_(numerator, divisor)
        return moved

    def decay(self, updated: Tensor) -> Tensor:
        """What is left of the moments m and v of rows last updated at these ages, (U, 2)."""
        return self._decay.index_select(0, self.age - updated)

    def advance(self, lr: float) -> None:
        """One more step, at learning rate `lr`: every resting row moves on."""
        self.step += 1
        if self.age >= len(self._weights):
            self._reserve(2 * len(self._weights))
        oldest = max(0, self.age - self._window)
        recent = slice(oldest, self.age)
        rested = torch.arange(
            self.age - oldest, 0, -1, dtype=torch.float64, device=self._weights.device
        )
        log_a = self._log_a(torch.full_like(rested, self.step), rested)
        z = ((log_a - self._middle[recent]) / self._half[recent]).clamp(-1, 1)
        chebyshev = (z.arccos()[:, None] * self._degrees).cos()  # (window, J): T_k(z)
        c = (rested * self._log_beta1).exp() * (lr / -math.expm1(self.step * self._log_beta1))
        self._weights[recent] += c[:, None] * (chebyshev @ self._basis)
        self._terms[recent, 0::2] = (self._weights[recent] * self._nodes[recent]).float()

    def _reserve(self, size: int) -> None:
        """Make room for rows last updated at an age below `size`."""
        device = self._degrees.device
        steps = self._start + torch.arange(size, dtype=torch.float64, device=device)
        low = self._log_a(steps + 1, torch.ones_like(steps))
        high = self._log_a(steps + self._window, torch.full_like(steps, self._window))
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self._nodes = (self._middle[:, None] + self._half[:, None] * self._roots).exp()
        weights = torch.zeros_like(self._nodes)
        weights[: len(self._weights)] = self._weights
        self._weights = weights
        # What a step looks up by age, in float32: weight * node and eps * node of each node, in
        # turn; and the decay of both moments.
        terms = torch.stack([weights * self._nodes, self._eps * self._nodes], dim=2)
        self._terms = terms.flatten(start_dim=1).float()
        ages = steps - self._start
        self._decay = torch.stack([beta**ages for beta in self._betas], dim=1).float()

    def _log_a(self, step: Tensor, rested: Tensor) -> Tensor:
        """log a_n for n = `step`, after `rested` = n - s steps."""
        return 0.5 * ((-torch.expm1(step * self._log_beta2)).log() - rested * self._log_beta2)


def _gradient(rows: Tensor, l2: float) -> Tensor:
    """The gradient of gathered rows (U, W), with the decay of these rows."""
    assert rows.grad is not None, "update follows backward"
    return rows.grad.add_(rows.detach(), alpha=l2) if l2 else rows.grad
