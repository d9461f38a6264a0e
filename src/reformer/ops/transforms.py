"""What `torch.func` makes of a computation (vmap, grad, jvp), which our kernels and reversible layers cannot follow."""

import torch
from torch import Tensor

from reformer.errors import InputError

WAY_OUT = (
    "take gradients with .backward() or torch.autograd.grad, those of each row in a loop over rows, and batches as rows"
)


def inside_transform() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_batched(x: Tensor) -> bool:
    """Whether autograd has made one of several gradients (`is_grads_batched`)."""
    return torch._C._functorch.is_legacy_batchedtensor(x)


def refuse_transforms(what: str) -> None:
    """InputError inside of a transform of `torch.func`."""
    if torch.compiler.is_compiling():  # which traces transforms, and asks for itself
        return
    if inside_transform():
        raise InputError(f"{what} cannot run inside torch.func (vmap, grad, jvp): {WAY_OUT}")
