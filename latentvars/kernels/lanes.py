"""Scaled forward–backward of many chains side by side, as compiled code.

A *lane* is a stretch of one chain: a whole sequence, or a chunk of a long one with a warm-up before and behind.
``LANES`` lanes with one transition matrix form a block, and every operation runs over the lanes of a block at once.
What a lane gives depends on its own data alone, to the bit.

Layout of a block with S steps: tiles of ``TILE`` steps, ``[tiles, K, TILE, LANES]``, so that states are rows of
``WIDTH`` = TILE·LANES numbers; they begin ``PITCH`` apart, as rows a power of two apart evict one another. Indices are
unsigned throughout: the compiler vectorises no others.

Precision: emissions are scaled by their largest at each step, and the filter by its sum c_t. A factor below e^-600
counts as zero. This loses nothing as long as every state keeps a predicted probability above ``FLOOR`` (errors of
single entries are not amplified by a positive recursion), which is watched: a lane where it fails is *doubtful*, and is
to be redone in log space.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LANES, TILE = 64, 8
WIDTH = LANES * TILE
PITCH = WIDTH + 8
FLOOR, SMALLEST = 1e-150, 1e-30

_U = np.uintp
_L, _T, _W, _P, _0, _1, _2, _4, _8 = _U(LANES), _U(TILE), _U(WIDTH), _U(PITCH), _U(0), _U(1), _U(2), _U(4), _U(8)
_3, _5, _6, _7 = _U(3), _U(5), _U(6), _U(7)
_LOG2E, _LN2 = 1.4426950408889634, 0.6931471805599453
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 · 2^52: adding it leaves the nearest integer in the low bits
_LOWEST = -600.0
_MANTISSA, _ONE = np.int64(0x000FFFFFFFFFFFFF), np.int64(1023 << 52)
_BIAS, _SHIFT, _FIELD = np.int64(1023), np.int64(52), np.int64(2047)

_compiled = njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
_inlined = njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy", inline="always")


@_compiled
def exponentials(x, scratch, size):
    """exp in place for x ≤ 0, 0 below −600; a polynomial with relative error 2e-16 that vectorises (Cody & Waite)."""
    bits = scratch.view(np.int64)
    for p in range(size):
        scratch[p] = max(x[p], _LOWEST) * _LOG2E + _ROUND
    for p in range(size):
        n = scratch[p] - _ROUND
        v = max(x[p], _LOWEST)
        r = (v - n * _LN2_HIGH) - n * _LN2_LOW
        s = 1.0 / 6227020800.0
        s = s * r + 1.0 / 479001600.0
        s = s * r + 1.0 / 39916800.0
        s = s * r + 1.0 / 3628800.0
        s = s * r + 1.0 / 362880.0
        s = s * r + 1.0 / 40320.0
        s = s * r + 1.0 / 5040.0
        s = s * r + 1.0 / 720.0
        s = s * r + 1.0 / 120.0
        s = s * r + 1.0 / 24.0
        s = s * r + 1.0 / 6.0
        s = s * r + 0.5
        s = s * r + 1.0
        s = s * r + 1.0
        x[p] = s if x[p] >= _LOWEST else 0.0 * x[p] * 0.0 if x[p] != x[p] else 0.0
    for p in range(size):
        bits[p] = (bits[p] + _BIAS) << _SHIFT
    for p in range(size):
        x[p] *= scratch[p]


@_inlined
def _product(matrix, before, after, states, width):
    """after[j] = Σ_i matrix[j, i] before[i], vectors over the lanes."""
    for j in range(states):
        q, r = j * _L, j * states
        w0 = matrix[r]
        for lane in range(width):
            after[q + lane] = w0 * before[lane]
        i = _1
        while i + _8 <= states:
            w0, w1, w2, w3 = matrix[r + i], matrix[r + i + _1], matrix[r + i + _2], matrix[r + i + _3]
            w4, w5, w6, w7 = matrix[r + i + _4], matrix[r + i + _5], matrix[r + i + _6], matrix[r + i + _7]
            b = i * _L
            for lane in range(width):
                x = b + lane
                low = (w0 * before[x] + w1 * before[x + _L]) + (w2 * before[x + _2 * _L] + w3 * before[x + _3 * _L])
                x += _4 * _L
                high = (w4 * before[x] + w5 * before[x + _L]) + (w6 * before[x + _2 * _L] + w7 * before[x + _3 * _L])
                after[q + lane] += low + high
            i += _8
        if i + _4 <= states:
            w0, w1, w2, w3 = matrix[r + i], matrix[r + i + _1], matrix[r + i + _2], matrix[r + i + _3]
            b = i * _L
            for lane in range(width):
                x = b + lane
                after[q + lane] += (w0 * before[x] + w1 * before[x + _L]) + (
                    w2 * before[x + _2 * _L] + w3 * before[x + _3 * _L]
                )
            i += _4
        if i + _2 <= states:
            w0, w1 = matrix[r + i], matrix[r + i + _1]
            b = i * _L
            for lane in range(width):
                after[q + lane] += w0 * before[b + lane] + w1 * before[b + _L + lane]
            i += _2
        if i < states:
            w0 = matrix[r + i]
            b = i * _L
            for lane in range(width):
                after[q + lane] += w0 * before[b + lane]


@_inlined
def _load(log_emission, begins, counts, tile, states, into, at, width):
    """The rows of one tile into lanes, eight lanes at once; 0 past the end of a lane."""
    start = tile * _T
    for group in range(width // _8):
        o = group * _8
        full = True
        for lane in range(o, o + _8):
            full = full and start + _T <= counts[lane]
        if full:
            b0, b1 = (begins[o] + start) * states, (begins[o + _1] + start) * states
            b2, b3 = (begins[o + _2] + start) * states, (begins[o + _3] + start) * states
            b4, b5 = (begins[o + _4] + start) * states, (begins[o + _5] + start) * states
            b6, b7 = (begins[o + _6] + start) * states, (begins[o + _7] + start) * states
            r = _0
            for s in range(_T):
                for k in range(states):
                    x = at + k * _P + s * _L + o
                    into[x], into[x + _1] = log_emission[b0 + r], log_emission[b1 + r]
                    into[x + _2], into[x + _3] = log_emission[b2 + r], log_emission[b3 + r]
                    into[x + _4], into[x + _5] = log_emission[b4 + r], log_emission[b5 + r]
                    into[x + _6], into[x + _7] = log_emission[b6 + r], log_emission[b7 + r]
                    r += _1
        else:
            for lane in range(o, o + _8):
                for s in range(_T):
                    row = (begins[lane] + start + s) * states
                    for k in range(states):
                        x = at + k * _P + s * _L + lane
                        into[x] = log_emission[row + k] if start + s < counts[lane] else 0.0


@_inlined
def _scale(into, at, states, shift, width):
    """Subtracts the largest emission of each step."""
    for s in range(_T):
        p = s * _L
        for lane in range(width):
            shift[p + lane] = into[at + p + lane]
        for k in range(_1, states):
            q = at + k * _P + p
            for lane in range(width):
                shift[p + lane] = max(shift[p + lane], into[q + lane])
        for k in range(states):
            q = at + k * _P + p
            for lane in range(width):
                into[q + lane] -= shift[p + lane]


@_inlined
def _exponentials(into, at, states, scratch, width):
    """Of one tile: of all of it where all lanes hold a chain, else row by row."""
    if width == _L:
        exponentials(into[at : at + states * _P], scratch, states * _P)
    else:
        for k in range(states):
            for s in range(_T):
                q = at + k * _P + s * _L
                exponentials(into[q : q + width], scratch, width)


@_inlined
def _width(counts):
    """Lanes to work on: those that hold a chain, which are the first, rounded up to a vector."""
    found = _0
    for lane in range(_L):
        if counts[lane] > _0:
            found = lane + _1
    return (found + _7) // _8 * _8


@_inlined
def _inner(counts, body_from, body_to):
    """The steps ``from``, ``to`` between which nothing begins or ends in any lane that holds a chain."""
    low, high = _0, _U(np.iinfo(np.int64).max)
    for lane in range(_L):
        if counts[lane] > _0:
            low, high = max(low, body_from[lane]), min(high, body_to[lane] - _1)
    return low, high


@_compiled
def forward(
    log_emission,
    begins,
    counts,
    body_from,
    body_to,
    starts,
    into,
    reach,
    tiles,
    states,
    keep,
    alpha,
    scaled,
    total,
    seams,
    doubtful,
):
    """Filters the lanes of a block.

    Args:
        log_emission: ``[rows · K]``, nats.
        begins, counts: first row and number of rows of each lane.
        body_from, body_to: the steps of a lane that count; those outside warm up the recursion.
        starts: ``[K · LANES]``, probabilities of the state at the first step of each lane.
        into: transposed transition matrix ``[K · K]``, to, from.
        reach: ``[steps, K]`` bytes, whether a state can be reached at a step at all; the last row stands for the rest.
        keep: whether ``alpha`` (filtered probabilities) and ``scaled`` (emission over c_t) are kept for
            :func:`backward`; else they are one tile of scratch.
        total: out, log-likelihood of the body of each lane, nats.
        seams: out, ``[2 · K · LANES]``, the filter at the last step before the body and at the last of the body.
        doubtful: out, 1.0 where precision may have been lost.
    """
    prev, following = np.empty(states * _L), np.empty(states * _L)
    scratch, shift = np.empty(states * _P), np.empty(_W)
    norm, lowest, mantissa, exponent = np.empty(_L), np.empty(_L), np.ones(_L), np.zeros(_L)
    bits = mantissa.view(np.int64)
    low, high = _inner(counts, body_from, body_to)
    width = _width(counts)
    for lane in range(_L):
        total[lane] = 0.0
        doubtful[lane] = 0.0
    for tile in range(tiles):
        at = tile * states * _P if keep else _0
        _load(log_emission, begins, counts, tile, states, scaled, at, width)
        _scale(scaled, at, states, shift, width)
        _exponentials(scaled, at, states, scratch, width)
        for s in range(_T):
            step = tile * _T + s
            if step == _0:
                for k in range(states):
                    for lane in range(width):
                        following[k * _L + lane] = starts[k * _L + lane]
            else:
                _product(into, prev, following, states, width)
            for lane in range(width):
                lowest[lane] = 1.0
                norm[lane] = 0.0
            reachable = min(step, _U(reach.shape[0]) - _1)
            for j in range(states):
                if reach[reachable, j] and step > _0:
                    for lane in range(width):
                        lowest[lane] = min(lowest[lane], following[j * _L + lane])
                q = at + j * _P + s * _L
                for lane in range(width):
                    v = following[j * _L + lane] * scaled[q + lane]
                    following[j * _L + lane] = v
                    norm[lane] += v
            for lane in range(width):
                lost = not (norm[lane] >= SMALLEST and lowest[lane] >= FLOOR)
                doubtful[lane] = 1.0 if lost and step < counts[lane] else doubtful[lane]
            if low <= step and step < high:
                for lane in range(width):
                    mantissa[lane] *= norm[lane]
                    total[lane] += shift[s * _L + lane]
            else:
                for lane in range(width):
                    inside = body_from[lane] <= step and step < body_to[lane]
                    mantissa[lane] *= norm[lane] if inside else 1.0
                    total[lane] += shift[s * _L + lane] if inside else 0.0
                for lane in range(width):
                    if step + _1 == body_from[lane]:
                        for k in range(states):
                            seams[k * _L + lane] = following[k * _L + lane] / norm[lane]
                    if step + _1 == body_to[lane]:
                        for k in range(states):
                            seams[(states + k) * _L + lane] = following[k * _L + lane] / norm[lane]
            for lane in range(width):
                norm[lane] = 1.0 / norm[lane]
            for j in range(states):
                q = at + j * _P + s * _L
                for lane in range(width):
                    prev[j * _L + lane] = following[j * _L + lane] * norm[lane]
                if keep:
                    for lane in range(width):
                        alpha[q + lane] = prev[j * _L + lane]
                        scaled[q + lane] *= norm[lane]
        for lane in range(width):
            exponent[lane] += float((bits[lane] >> _SHIFT) & _FIELD) - 1023.0
        for lane in range(width):
            bits[lane] = (bits[lane] & _MANTISSA) | _ONE
    for lane in range(width):
        total[lane] += exponent[lane] * _LN2 + np.log(mantissa[lane])


@_compiled
def clear(alpha, scaled, lane, tiles, states):
    """Takes a doubtful lane out of a block."""
    for row in range(tiles * states):
        for s in range(_T):
            x = row * _P + s * _L + lane
            alpha[x] = 0.0
            scaled[x] = 0.0


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")
def _add_pairs(alpha, at, ahead, states, slopes, width):
    """slopes[i, j] += Σ alpha[i] · ahead[j] over a tile."""
    runs, length = (_1, _W) if width == _L else (_T, width)
    for i in range(states):
        for j in range(states):
            found = 0.0
            for s in range(runs):
                p, q = at + i * _P + s * _L, j * _P + s * _L
                for x in range(length):
                    found += alpha[p + x] * ahead[q + x]
            slopes[i * states + j] += found


@_compiled
def _add_pairs_by_lane(alpha, at, ahead, states, slopes):
    """slopes[i, j, lane] += Σ alpha[i] · ahead[j] over the steps of a tile."""
    for i in range(states):
        for j in range(states):
            p, q, r = at + i * _P, j * _P, (i * states + j) * _L
            for s in range(_T):
                for lane in range(_L):
                    slopes[r + lane] += alpha[p + s * _L + lane] * ahead[q + s * _L + lane]


@_inlined
def _store(probs, begins, body_from, body_to, weights, tile, states, marginals, width):
    """The way back of :func:`_load`, for the bodies, times the weights."""
    start = tile * _T
    for group in range(width // _8):
        o = group * _8
        full = True
        for lane in range(o, o + _8):
            full = full and body_from[lane] <= start and start + _T <= body_to[lane]
        if full:
            b0, b1 = (begins[o] + start) * states, (begins[o + _1] + start) * states
            b2, b3 = (begins[o + _2] + start) * states, (begins[o + _3] + start) * states
            b4, b5 = (begins[o + _4] + start) * states, (begins[o + _5] + start) * states
            b6, b7 = (begins[o + _6] + start) * states, (begins[o + _7] + start) * states
            w0, w1, w2, w3 = weights[o], weights[o + _1], weights[o + _2], weights[o + _3]
            w4, w5, w6, w7 = weights[o + _4], weights[o + _5], weights[o + _6], weights[o + _7]
            r = _0
            for s in range(_T):
                for k in range(states):
                    x = k * _P + s * _L + o
                    marginals[b0 + r], marginals[b1 + r] = w0 * probs[x], w1 * probs[x + _1]
                    marginals[b2 + r], marginals[b3 + r] = w2 * probs[x + _2], w3 * probs[x + _3]
                    marginals[b4 + r], marginals[b5 + r] = w4 * probs[x + _4], w5 * probs[x + _5]
                    marginals[b6 + r], marginals[b7 + r] = w6 * probs[x + _6], w7 * probs[x + _7]
                    r += _1
        else:
            for lane in range(o, o + _8):
                for s in range(_T):
                    if body_from[lane] <= start + s and start + s < body_to[lane]:
                        row = (begins[lane] + start + s) * states
                        for k in range(states):
                            marginals[row + k] = weights[lane] * probs[k * _P + s * _L + lane]


@_compiled
def backward(
    alpha,
    scaled,
    begins,
    counts,
    body_from,
    body_to,
    weights,
    matrix,
    tiles,
    tile_from,
    states,
    by_lane,
    marginals,
    slopes,
    initial_slopes,
    seams,
):
    """Smooths the lanes of a block, after :func:`forward`.

    Args:
        weights: of the lanes; all results but ``seams`` are times these.
        matrix: transition ``[K · K]``, from, to.
        tile_from: first tile that counts.
        marginals: out, ``[rows · K]``, p(z_t | x), written for the bodies.
        slopes: added to, ∂ log p(x) / ∂A_ij, ``[K · K]`` of the block, or ``[K · K · LANES]`` where ``by_lane``.
        initial_slopes: out, ``[K · LANES]``, ∂ log p(x) / ∂π_i of lanes that begin a chain.
        seams: out, ``[2 · K · LANES]``, the backward message at the last step before the body and at the last of the
            body.
    """
    behind, ahead = np.ones(states * _L), np.zeros(states * _L)
    pairs, probs = np.zeros(states * _P), np.empty(states * _P)
    low, high = _inner(counts, body_from, body_to)
    width = _width(counts)
    shortest = _U(np.iinfo(np.int64).max)
    for lane in range(_L):
        shortest = min(shortest, counts[lane]) if counts[lane] > _0 else shortest
    for turn in range(tiles - tile_from):
        tile = tiles - _1 - turn
        at = tile * states * _P
        for back in range(_T):
            s = _T - _1 - back
            step = tile * _T + s
            if step + _1 >= shortest:
                for k in range(states):
                    for lane in range(width):
                        behind[k * _L + lane] = 1.0 if step + _1 >= counts[lane] else behind[k * _L + lane]
            if low < step + _1 and step + _1 <= high:
                for k in range(states):
                    for lane in range(width):
                        pairs[k * _P + s * _L + lane] = ahead[k * _L + lane] * weights[lane]
            else:
                for k in range(states):
                    for lane in range(width):
                        inside = body_from[lane] <= step + _1 and step + _1 < body_to[lane]
                        pairs[k * _P + s * _L + lane] = ahead[k * _L + lane] * weights[lane] if inside else 0.0
                for lane in range(width):
                    if step + _1 == body_from[lane]:
                        for k in range(states):
                            seams[k * _L + lane] = behind[k * _L + lane]
                    if step + _1 == body_to[lane]:
                        for k in range(states):
                            seams[(states + k) * _L + lane] = behind[k * _L + lane]
            for k in range(states):
                q = at + k * _P + s * _L
                for lane in range(width):
                    probs[k * _P + s * _L + lane] = alpha[q + lane] * behind[k * _L + lane]
                    ahead[k * _L + lane] = scaled[q + lane] * behind[k * _L + lane]
            if step > _0:
                _product(matrix, ahead, behind, states, width)
            else:
                for k in range(states):
                    for lane in range(width):
                        initial_slopes[k * _L + lane] = ahead[k * _L + lane] * weights[lane]
        if by_lane:
            _add_pairs_by_lane(alpha, at, pairs, states, slopes)
        else:
            _add_pairs(alpha, at, pairs, states, slopes, width)
        _store(probs, begins, body_from, body_to, weights, tile, states, marginals, width)
