"""`lsh` and `local` of the CPU backend."""

from reformer.ops.cpu import kernels
from reformer.ops.operators import Operators

operators = Operators("", kernels, "cpu")
lsh, local = operators.lsh, operators.local
