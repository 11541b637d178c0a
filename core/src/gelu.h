// x P(x), with P the distribution function of the standard normal, and its slope P(x) + x p(x), from one exponential; in
// single precision.
#pragma once
#include "bernoulli.h"

namespace LATENTVARS_ISA {

// exp(z^2) erfc(z) / t for t = 1 / (1 + 0.4 z), z >= 0, from the lowest power of t on: a least-squares fit at Chebyshev
// points, of absolute error 7e-8.
constexpr float SCALED_TAIL[] = {0.225675889f, 0.225664899f, 0.207977429f, 0.167069889f, 0.149421393f, -0.0298004159f, 0.211869997f, -0.226788126f, 0.0744401566f, -0.00553106018f};

inline void gelu_of(const float* from, float* values, float* slopes) {
    using L = Lanes<float>;
    L::Vec x;
    std::memcpy(&x, from, sizeof x);
    const L::Vec z = (x < 0 ? -x : x) * 0.70710678118654752f, e = decay<float>(-0.5f * (x * x)), t = 1 / (1 + 0.4f * z);
    L::Vec tail = L::Vec{} + SCALED_TAIL[std::size(SCALED_TAIL) - 1];
    for (int k = static_cast<int>(std::size(SCALED_TAIL)) - 2; k >= 0; --k) tail = tail * t + SCALED_TAIL[k];
    tail = 0.5f * tail * t * e;
    const L::Vec below = x > 0 ? 1 - tail : tail, value = x * below, slope = below + x * e * 0.39894228040143268f;
    std::memcpy(values, &value, sizeof value);
    std::memcpy(slopes, &slope, sizeof slope);
}

inline void gelu(const float* x, std::int64_t size, int threads, float* values, float* slopes) {
    constexpr std::int64_t WIDE = Lanes<float>::WIDTH;
    each((size + NUMBERS_A_SHARE - 1) / NUMBERS_A_SHARE, threads, [&](std::int64_t item) {
        std::int64_t at = item * NUMBERS_A_SHARE;
        const std::int64_t end = std::min(size, at + NUMBERS_A_SHARE);
        for (; at + WIDE <= end; at += WIDE) gelu_of(x + at, values + at, slopes + at);
        if (at == end) return;
        float last[WIDE] = {}, value[WIDE], slope[WIDE];
        std::copy(x + at, x + end, last);
        gelu_of(last, value, slope);
        std::copy_n(value, end - at, values + at);
        std::copy_n(slope, end - at, slopes + at);
    });
}

}  // namespace LATENTVARS_ISA
