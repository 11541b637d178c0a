// Features, products and posterior weights of a cache-sized chunk of observations, which lie side by side.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "mixture_tables.h"
#include "threads.h"
#include "vectors.h"

namespace LATENTVARS_ISA {

using latentvars::Form;
using latentvars::Mixtures;

#if defined(__AVX512F__)
constexpr int TALL = 6, WIDE = 4;  // accumulators of a tile fill the registers
#elif defined(__AVX2__)
constexpr int TALL = 3, WIDE = 2;
#else
constexpr int TALL = 2, WIDE = 1;
#endif
constexpr std::int64_t BLOCK = WIDE * WIDTH;

// log(x) for x >= 1, NaN for NaN: x = m 2^e with m in [0.7, 1.41], log m = 2 artanh((m - 1) / (m + 1)).
inline Vec logarithm(Vec x) {
    constexpr double LN2_HIGH = 0.693147180369123816490, LN2_LOW = 1.90821492927058770002e-10, SQRT2 = 1.4142135623730951;
    Int bits;
    std::memcpy(&bits, &x, sizeof bits);
    const Int power = (bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffff) | 0x3ff0000000000000;
    Vec m;
    std::memcpy(&m, &bits, sizeof m);
    const Vec half = 0.5 * m;
    Vec e = __builtin_convertvector(power, Vec);
    e = m > SQRT2 ? e + 1.0 : e;
    m = m > SQRT2 ? half : m;
    const Vec f = (m - 1.0) / (m + 1.0), s = f * f;
    Vec series = all(1.0 / 21);
    for (int n = 19; n >= 3; n -= 2) series = series * s + 1.0 / n;
    const Vec value = 2.0 * (f + f * s * series) + e * LN2_LOW + e * LN2_HIGH;
    return x == x ? value : x;
}

// Distance of the rows of a chunk: an odd number of cache lines, or all rows would compete for the same few places.
inline std::int64_t stride_of(std::int64_t width) { return width + (width / WIDTH % 2 ? 2 * WIDTH : WIDTH); }

// Observations low .. low + here - 1 as features, rows of `width` numbers; beyond `here` stands the centre.
inline void fill_features(const Mixtures& m, std::int64_t low, std::int64_t here, std::int64_t width, double* to) {
    const std::int64_t stride = stride_of(width);
    const std::int64_t d = m.size;
    if (m.form == Form::table) {
        for (std::int64_t f = 0; f < m.features; ++f) {
            std::copy_n(m.values + f * m.count + low, here, to + f * stride);
            std::fill(to + f * stride + here, to + f * stride + width, f ? 0.0 : 1.0);
        }
        return;
    }
    std::fill_n(to, width, 1.0);
    double* x = to + stride;
    for (std::int64_t p = 0; p < here; ++p)
        for (std::int64_t i = 0; i < d; ++i) x[i * stride + p] = m.values[(low + p) * d + i] - m.centre[i];
    for (std::int64_t i = 0; i < d; ++i) std::fill(x + i * stride + here, x + i * stride + width, 0.0);
    double* next = x + d * stride;
    if (m.form == Form::diagonal)
        for (std::int64_t p = 0; p < d * stride; ++p) next[p] = x[p] * x[p];
    if (m.form == Form::spherical) {
        std::fill_n(next, width, 0.0);
        for (std::int64_t i = 0; i < d; ++i)
            for (std::int64_t p = 0; p < width; ++p) next[p] += x[i * stride + p] * x[i * stride + p];
    }
    if (m.form == Form::full)
        for (std::int64_t i = 0; i < d; ++i)
            for (std::int64_t j = i; j < d; ++j, next += stride)
                for (std::int64_t p = 0; p < width; ++p) next[p] = x[i * stride + p] * x[j * stride + p];
}

// Coefficients [rows, F] in panels [F][TALL], zeros below the last row.
inline std::vector<double> panels_of(const double* natural, std::int64_t rows, std::int64_t features) {
    const std::int64_t count = (rows + TALL - 1) / TALL;
    std::vector<double> found(count * features * TALL, 0.0);
    for (std::int64_t k = 0; k < rows; ++k)
        for (std::int64_t f = 0; f < features; ++f)
            found[((k / TALL) * features + f) * TALL + k % TALL] = natural[k * features + f];
    return found;
}

// joint[rows][width] = natural * features.
inline void multiply(const double* panels, const double* features, std::int64_t rows, std::int64_t size,
                     std::int64_t width, double* joint) {
    const std::int64_t stride = stride_of(width);
    for (std::int64_t at = 0; at < width; at += BLOCK)
        for (std::int64_t k = 0; k < rows; k += TALL) {
            Vec tile[TALL][WIDE] = {};
            const double* panel = panels + k * size;
            const double* column = features + at;
            for (std::int64_t f = 0; f < size; ++f, panel += TALL, column += stride) {
                Vec x[WIDE];
                for (int v = 0; v < WIDE; ++v) x[v] = load(column + v * WIDTH);
                for (int r = 0; r < TALL; ++r)
                    for (int v = 0; v < WIDE; ++v) tile[r][v] += panel[r] * x[v];
            }
            for (int r = 0; r < TALL && k + r < rows; ++r)
                for (int v = 0; v < WIDE; ++v) store(joint + (k + r) * stride + at + v * WIDTH, tile[r][v]);
        }
}

// Log joints [K][width] of one mixture become w r; gives sum of w log p(x).
inline double normalise(double* joint, const double* weights, std::int64_t components, std::int64_t width) {
    const std::int64_t stride = stride_of(width);
    Vec objective = {};
    for (std::int64_t at = 0; at < width; at += WIDTH) {
        double* column = joint + at;
        Vec top = load(column), total = {};
        for (std::int64_t k = 1; k < components; ++k) top = larger(top, load(column + k * stride));
        for (std::int64_t k = 0; k < components; ++k) {
            const Vec value = exponential(load(column + k * stride) - top);
            store(column + k * stride, value);
            total += value;
        }
        const Vec weight = load(weights + at), share = weight / total;
        objective += weight * (logarithm(total) + top);
        for (std::int64_t k = 0; k < components; ++k) store(column + k * stride, load(column + k * stride) * share);
    }
    return sum(objective);
}

constexpr int SQUARE = TALL >= 6 ? 5 : TALL >= 3 ? 3 : 2;

template <int ROWS, int COLUMNS>
void add_tile(const double* left, const double* right, std::int64_t width, double* to, std::int64_t columns) {
    const std::int64_t stride = stride_of(width);
    Vec tile[ROWS][COLUMNS] = {};
    for (std::int64_t at = 0; at < width; at += WIDTH) {
        Vec a[ROWS], b[COLUMNS];
        for (int r = 0; r < ROWS; ++r) a[r] = load(left + r * stride + at);
        for (int c = 0; c < COLUMNS; ++c) b[c] = load(right + c * stride + at);
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < COLUMNS; ++c) tile[r][c] += a[r] * b[c];
    }
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < COLUMNS; ++c) to[r * columns + c] += sum(tile[r][c]);
}

// to[rows, columns] += left[rows][width] * right[columns][width]^T; the last rows and columns one by one.
inline void add_products(const double* left, const double* right, std::int64_t rows, std::int64_t columns,
                         std::int64_t width, double* to) {
    const std::int64_t stride = stride_of(width);
    std::int64_t c = 0;
    for (; c + SQUARE <= columns; c += SQUARE) {
        std::int64_t r = 0;
        for (; r + SQUARE <= rows; r += SQUARE)
            add_tile<SQUARE, SQUARE>(left + r * stride, right + c * stride, width, to + r * columns + c, columns);
        for (; r < rows; ++r) add_tile<1, SQUARE>(left + r * stride, right + c * stride, width, to + r * columns + c, columns);
    }
    for (; c < columns; ++c) {
        std::int64_t r = 0;
        for (; r + SQUARE <= rows; r += SQUARE)
            add_tile<SQUARE, 1>(left + r * stride, right + c * stride, width, to + r * columns + c, columns);
        for (; r < rows; ++r) add_tile<1, 1>(left + r * stride, right + c * stride, width, to + r * columns + c, columns);
    }
}

// How the observations are cut, which does not depend on the threads: parts add up by themselves, in chunks that a
// cache holds.
struct Cut {
    std::int64_t chunk, parts, per_part;

    // `numbers` of a point while it is worked on; `sums`: what each part adds up.
    Cut(std::int64_t count, std::int64_t numbers, std::int64_t sums) {
        constexpr std::int64_t CACHE = 3 << 14, SHORT = 2 * BLOCK, LONG = 512, FEWEST = 8, MOST = 64, HELD = 1 << 22;
        const std::int64_t even = (count / FEWEST + BLOCK - 1) / BLOCK * BLOCK;
        chunk = std::clamp(std::min(CACHE / numbers / BLOCK * BLOCK, even), SHORT, LONG);
        const std::int64_t chunks = (count + chunk - 1) / chunk;
        parts = std::clamp<std::int64_t>(std::min(chunks, HELD / sums), 1, MOST);
        per_part = (chunks + parts - 1) / parts * chunk;
    }
};

}  // namespace LATENTVARS_ISA
