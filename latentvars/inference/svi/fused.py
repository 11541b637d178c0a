"""Steps of Adam in one pass over memory, with little Python around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = import_module("torch.optim.optimizer")
KINDS: Mapping[type, str] = {torch.optim.Adam: "_fused_adam_", torch.optim.AdamW: "_fused_adamw_"}


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let Adam and AdamW on a CPU do one pass over memory a step, where no other way was asked for.

    The same step to rounding.
    """
    if type(optimizer) not in KINDS:
        return
    for group in optimizer.param_groups:
        asked = any(group.get(name) for name in ("foreach", "capturable", "differentiable"))
        plain = all(p.is_floating_point() and p.device.type == "cpu" for p in group["params"])
        if group.get("fused") is None and not asked and plain and not isinstance(group["lr"], Tensor):
            group["fused"] = True


def stepped(optimizer: torch.optim.Optimizer, ascents: Mapping[nn.Parameter, Tensor]) -> bool:
    """The step of a fused optimiser up these gradients, to the bit, without the round of its ``step``.

    Returns:
        False where nothing was done: the optimiser is another one, has hooks, or has not begun.
    """
    kind = KINDS.get(type(optimizer))
    kernel = getattr(torch, kind, None) if kind else None
    if kernel is None or "step" in vars(optimizer) or _hooked(optimizer):
        return False
    groups = [_Group.of(optimizer, group, ascents) for group in optimizer.param_groups]
    if any(group is None for group in groups):
        return False
    with torch.no_grad():
        for group in groups:
            if group is not None and group.parameters:
                group.step(kernel)
    return True


class _Group:
    """Parameters with one setting, as the kernel wants them."""

    def __init__(self, settings: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> None:
        self.settings, self.parameters = settings, parameters
        self.gradients: list[Tensor] = []
        self.states: list[dict[str, Tensor]] = []

    @staticmethod
    def of(
        optimizer: torch.optim.Optimizer, settings: Mapping[str, Any], ascents: Mapping[nn.Parameter, Tensor]
    ) -> _Group | None:
        """None where the optimiser has to do it."""
        if not settings.get("fused") or isinstance(settings["lr"], Tensor):
            return None
        group = _Group(settings, [parameter for parameter in settings["params"] if parameter in ascents])
        for parameter in group.parameters:
            state = optimizer.state.get(parameter)
            if not state:
                return None
            group.gradients.append(ascents[parameter])
            group.states.append(state)
        return group

    def step(self, kernel: Any) -> None:
        settings = self.settings
        steps = self._all("step")
        if not _lie_together(steps):  # so that all are counted in one operation
            for state, own in zip(self.states, torch.stack(steps).unbind(), strict=True):
                state["step"] = own
            steps = self._all("step")
        together: Any = steps[0]._base
        together.add_(1)
        kernel(
            self.parameters,
            self.gradients,
            self._all("exp_avg"),
            self._all("exp_avg_sq"),
            self._all("max_exp_avg_sq") if settings["amsgrad"] else [],
            steps,
            lr=settings["lr"],
            beta1=settings["betas"][0],
            beta2=settings["betas"][1],
            weight_decay=settings["weight_decay"],
            eps=settings["eps"],
            amsgrad=settings["amsgrad"],
            maximize=not settings["maximize"],
        )

    def _all(self, name: str) -> list[Tensor]:
        return [state[name] for state in self.states]


def _lie_together(steps: Sequence[Tensor]) -> bool:
    """Whether these numbers, and no others, are parts of one tensor."""
    base: Any = steps[0]._base
    return base is not None and base.numel() == len(steps) and all(one._base is base for one in steps)


def _hooked(optimizer: torch.optim.Optimizer) -> bool:
    """Whether something else wants to know of steps."""
    own = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    shared = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
    found = [getattr(optimizer, name, None) for name in own]
    return any(found) or any(getattr(OPTIMIZERS, name, None) for name in shared)
