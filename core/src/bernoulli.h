// Rows of independent bits: log p(x | logits) and its slopes in one pass, in single and double precision.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "threads.h"

namespace LATENTVARS_ISA {

constexpr std::int64_t NUMBERS_A_SHARE = 16384;
constexpr std::int64_t VECTORS_A_BLOCK = 32;  // added up in their own precision before they go to a total in double

template <class T>
struct Lanes;

template <>
struct Lanes<double> {
    typedef double Vec __attribute__((vector_size(64)));
    typedef std::int64_t Int __attribute__((vector_size(64)));
    static constexpr int WIDTH = 8, MANTISSA = 52, EXPONENT = 1023, TERMS = 16;
    static constexpr double LOWEST = -700.0, ROUND = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double HIGH = 0.693147180369123816490, LOW = 1.90821492927058770002e-10;
    // 1 / n!, from n = 12 down to 2
    static constexpr double INVERSE[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                         1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
};

template <>
struct Lanes<float> {
    typedef float Vec __attribute__((vector_size(64)));
    typedef std::int32_t Int __attribute__((vector_size(64)));
    static constexpr int WIDTH = 16, MANTISSA = 23, EXPONENT = 127, TERMS = 7;
    static constexpr float LOWEST = -87.0f, ROUND = 12582912.0f;  // 1.5 * 2^23
    static constexpr float HIGH = 0.693359375f, LOW = -2.12194440e-4f;
    static constexpr float INVERSE[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f};
};

// exp(x) for x <= 0, 0 below the least exponent, NaN for NaN (Cody & Waite 1980).
template <class T>
inline typename Lanes<T>::Vec decay(typename Lanes<T>::Vec x) {
    using L = Lanes<T>;
    typename L::Vec v = x < L::LOWEST ? typename L::Vec{} + L::LOWEST : x;
    const typename L::Vec shifted = v * static_cast<T>(1.4426950408889634) + L::ROUND;
    const typename L::Vec n = shifted - L::ROUND;
    const typename L::Vec r = (v - n * L::HIGH) - n * L::LOW;
    typename L::Vec tail = typename L::Vec{} + L::INVERSE[0];
    for (std::size_t k = 1; k < sizeof(L::INVERSE) / sizeof(T); ++k) tail = tail * r + L::INVERSE[k];
    typename L::Int bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + L::EXPONENT) << L::MANTISSA;
    typename L::Vec power;
    std::memcpy(&power, &bits, sizeof power);
    return x < L::LOWEST ? typename L::Vec{} : (1 + (r + r * r * tail)) * power;
}

// log(1 + e) for e in [0, 1]: 2 artanh(e / (2 + e)), whose argument is at most 1/3.
template <class T>
inline typename Lanes<T>::Vec log_one_plus(typename Lanes<T>::Vec e) {
    const typename Lanes<T>::Vec s = e / (2 + e), z = s * s;
    typename Lanes<T>::Vec series = typename Lanes<T>::Vec{} + T(1) / (2 * Lanes<T>::TERMS + 1);
    for (int k = Lanes<T>::TERMS - 1; k >= 0; --k) series = series * z + T(1) / (2 * k + 1);
    return 2 * s * series;
}

// sum_d x_d l_d - log(1 + exp l_d) of each row, [M], and x - sigmoid(l), [M, D]; x in [0, 1], `logits` and `values` [M, D].
template <class T>
void bernoulli_rows(const T* logits, const T* values, std::int64_t rows, std::int64_t size, int threads, T* scores,
                    T* slopes) {
    using L = Lanes<T>;
    const std::int64_t share = std::max<std::int64_t>(1, NUMBERS_A_SHARE / std::max<std::int64_t>(size, 1));
    each((rows + share - 1) / share, threads, [&](std::int64_t item) {
        for (std::int64_t row = item * share; row < std::min(rows, (item + 1) * share); ++row) {
            const T *l_row = logits + row * size, *x_row = values + row * size;
            double total = 0.0;
            typename L::Vec block{};
            std::int64_t at = 0;
            const auto added = [&](const T* l_from, const T* x_from, T* to) {
                typename L::Vec l, x;
                std::memcpy(&l, l_from, sizeof l);
                std::memcpy(&x, x_from, sizeof x);
                const auto above = l > 0;
                const typename L::Vec e = decay<T>(above ? -l : l), one = 1 / (1 + e);
                const typename L::Vec slope = x - (above ? one : e * one);
                std::memcpy(to, &slope, sizeof slope);
                const typename L::Vec away = x - (above ? typename L::Vec{} + 1 : typename L::Vec{});
                block += (away == 0 ? away : away * l) - log_one_plus<T>(e);
            };
            while (at < size) {
                const std::int64_t end = std::min(size, at + VECTORS_A_BLOCK * L::WIDTH);
                for (; at + L::WIDTH <= end; at += L::WIDTH) added(l_row + at, x_row + at, slopes + row * size + at);
                if (at < end) {  // what is past the end adds nothing
                    T l[L::WIDTH], x[L::WIDTH] = {}, slope[L::WIDTH];
                    std::fill_n(l, L::WIDTH, 4 * L::LOWEST);
                    std::copy(l_row + at, l_row + end, l);
                    std::copy(x_row + at, x_row + end, x);
                    added(l, x, slope);
                    std::copy_n(slope, end - at, slopes + row * size + at);
                    at = end;
                }
                for (int k = 0; k < L::WIDTH; ++k) total += block[k];
                block = typename L::Vec{};
            }
            scores[row] = static_cast<T>(total);
        }
    });
}

}  // namespace LATENTVARS_ISA
