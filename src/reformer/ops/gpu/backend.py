"""`lsh` and `local` of the GPU backend."""

from reformer.ops.gpu import kernels
from reformer.ops.operators import Operators

operators = Operators("gpu_", kernels, None, kernels.sort_rows)
lsh, local = operators.lsh, operators.local
