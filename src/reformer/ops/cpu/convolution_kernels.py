"""A block of tokens of a depthwise convolution, and its gradients. Arrays are flat."""

import numpy as np

from reformer.ops.cpu.jit import entry_kernel, kernel
from reformer.ops.cpu.simd import lanes, load, number, store, times_plus, zeros


@kernel
def _find(slots, document, n, offsets, sign, base, width, places, taps):
    """Where the tokens stand that taps of token number n reach in its document, and which taps those are."""
    count, mine = np.int64(0), document[slots[n]]
    for tap in range(offsets.size):
        other = n + sign * offsets[tap]
        if 0 <= other < slots.size and document[slots[other]] == mine:
            places[count], taps[count] = (base + slots[other]) * width, tap * width
            count += 1
    return count


@kernel
def _sum(x, factors, places, taps, count, out, at, width):
    """Out = the sum over taps, in their order, of x times the factors of a channel."""
    n = lanes(out)
    whole = width // n * n
    for c in range(0, whole, n):
        total = zeros(out)
        for j in range(count):
            total = times_plus(load(x, places[j] + c), load(factors, taps[j] + c), total)
        store(total, out, at + c)
    for c in range(whole, width):
        rest = out.dtype.type(0)
        for j in range(count):
            rest += number(x, places[j] + c) * factors[taps[j] + c]
        out[at + c] = rest


@entry_kernel
def convolve_block(x, out, base, factors, offsets, slots, document, first, count, width):
    """Tokens number [first, first + count) of the batch row that begins at slot `base`."""
    places, taps = np.empty(offsets.size, np.int64), np.empty(offsets.size, np.int64)
    for n in range(first, min(first + count, slots.size)):
        terms = _find(slots, document, n, offsets, np.int64(1), base, width, places, taps)
        _sum(x, factors, places, taps, terms, out, (base + slots[n]) * width, width)


@entry_kernel
def convolve_ring(ring, out, weight, offsets, rank, size, each, width):
    """Tokens of some ranks [b, k] from a ring [b, each, width]; `weight` is [width, taps], in time order."""
    places, taps, most = np.empty(offsets.size, np.int64), np.empty(offsets.size, np.int64), offsets.size
    factors = np.empty(most * width, out.dtype)
    for tap in range(most):
        for c in range(width):
            factors[tap * width + c] = weight[c * most + most - 1 - tap]
    for row in range(rank.shape[0]):
        for t in range(rank.shape[1]):
            count = np.int64(0)
            for tap in range(most):
                other = rank[row, t] + offsets[tap]
                if other >= 0:
                    places[count], taps[count] = (row * each + other % size) * width, tap * width
                    count += 1
            _sum(ring, factors, places, taps, count, out, (row * rank.shape[1] + t) * width, width)


@entry_kernel
def differentiate_block(x, grad, dx, base, factors, dfactors, offsets, slots, document, first, count, width, kind):
    """Gradients of x, and what this block's tokens add to those of the factors."""
    places, taps = np.empty(offsets.size, np.int64), np.empty(offsets.size, np.int64)
    step = lanes(kind)
    whole = width // step * step
    for n in range(first, min(first + count, slots.size)):
        at = (base + slots[n]) * width
        terms = _find(slots, document, n, offsets, np.int64(-1), base, width, places, taps)
        _sum(grad, factors, places, taps, terms, dx, at, width)
        terms = _find(slots, document, n, offsets, np.int64(1), base, width, places, taps)
        for j in range(terms):
            for c in range(0, whole, step):
                total = load(dfactors, taps[j] + c)
                store(times_plus(load(x, places[j] + c), load(grad, at + c), total), dfactors, taps[j] + c)
            for c in range(whole, width):
                dfactors[taps[j] + c] += number(x, places[j] + c) * number(grad, at + c)
