"""The policy's parameters, `--policy_kwargs`: what may be given, and classes from their names.

`activation_fn` is the name of an activation of `torch.nn`, `optimizer_class` that of an optimizer
of `torch.optim`, in any case, each with or without `torch.nn.` or `torch.optim.` before it.
Nothing else is ever looked up or imported.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from sinergym_trainer.errors import InvalidOptions


def check_policy_kwargs(
    policy_kwargs: Mapping[str, Any], *, takes: Sequence[str], critic: str, name: str
) -> None:
    """Refuse what a policy does not take; imports nothing big.

    Args:
        policy_kwargs: what was given.
        takes: the names of what the policy's constructor takes.
        critic: the name of the second half of its `net_arch`, or nothing.
        name: the algorithm's, for people.

    Raises:
        InvalidOptions: naming what the policy takes.
    """
    for key in policy_kwargs:
        if key not in takes:
            raise InvalidOptions(
                f"--policy_kwargs: the policy of {name} does not take {key!r}; it takes"
                f" {', '.join(takes)}"
            )
    if "net_arch" in policy_kwargs:
        _check_layers(policy_kwargs["net_arch"], critic, name)


def with_classes(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Put PyTorch's classes in the place of their names.

    Raises:
        InvalidOptions: a name that is not there; the message has those that are.
    """
    return {
        key: _torch_class(key, value) if key in {"activation_fn", "optimizer_class"} else value
        for key, value in policy_kwargs.items()
    }


def _check_layers(layers: Any, critic: str, name: str) -> None:
    parts = {"": layers}
    if isinstance(layers, Mapping) and critic:
        parts = {str(half): part for half, part in layers.items()}
    wanted = {"pi", critic} if critic else {""}
    sizes = all(
        isinstance(part, Sequence)
        and not isinstance(part, str)
        and all(type(size) is int and size > 0 for size in part)
        for part in parts.values()
    )
    if not sizes or set(parts) not in ({""}, wanted):
        halves = f", or {{pi: [64, 64], {critic}: [64, 64]}}" if critic else ""
        raise InvalidOptions(
            f"--policy_kwargs: net_arch of {name} is a list of layers' sizes, [64,"
            f" 64]{halves}; not {layers!r}"
        )


def _torch_class(key: str, name: Any) -> Any:
    import torch

    if key == "activation_fn":
        where, needy = "torch.nn", {"MultiheadAttention", "Threshold"}
        known = [
            (each, found)
            for each, found in vars(torch.nn).items()
            if getattr(found, "__module__", "") == "torch.nn.modules.activation"
        ]
    else:
        # Stable-Baselines3 cannot step with these.
        where, needy = "torch.optim", {"LBFGS", "SparseAdam"}
        known = list(vars(torch.optim).items())
    root: type = torch.nn.Module if where == "torch.nn" else torch.optim.Optimizer
    able = {
        each.lower(): found
        for each, found in known
        if isinstance(found, type)
        and issubclass(found, root)
        and found is not root
        and each not in needy
    }
    short = str(name).lower().removeprefix("torch.").removeprefix(where[6:] + ".")
    if short in able:
        return able[short]
    close = difflib.get_close_matches(short, able, n=3) or list(able)
    raise InvalidOptions(
        f"--policy_kwargs: {key} {name!r} is not in {where}; there are"
        f" {', '.join(able[each].__name__ for each in close)}"
    )
