// Lanes: stretches of chains that are worked on side by side.
//
// A *lane* is a whole sequence, or a chunk of a long one with a warm-up before and behind. LANES lanes with one transition
// matrix form a group, and every operation runs over the lanes of a group at once; what a lane gives depends on its own
// data alone, to the bit. Messages, emissions and features of a group lie as [step][state or feature][lane].
#pragma once
#include <algorithm>
#include <vector>

#include "tables.h"
#include "vectors.h"

namespace LATENTVARS_ISA {

using latentvars::Chains;
using latentvars::Kernels;
using latentvars::Posterior;

constexpr int PARTS = 2;              // vectors side by side
constexpr int LANES = PARTS * WIDTH;
constexpr std::int64_t CHUNK = 640, MOST_GROUPS = 256, WARM_UP = 64;
// Steps from which a chain is cut; and from which one may be where chains are few, or always is.
constexpr std::int64_t CUT = 1024, SHORTEST_CUT = 256, ALWAYS_CUT = LANES * CHUNK, NEVER_CUT = INT64_MAX;

struct Lane {
    std::int64_t chain = -1;  // none
    std::int64_t begin = 0;   // row of its first step
    std::int64_t count = 0;   // steps, warm-ups included
    std::int64_t from = 0;    // first step that counts
    std::int64_t to = 0;      // step after the last that counts
    bool head = false, cut = false;
    bool counts() const { return chain >= 0; }
    std::int64_t body() const { return begin + from; }
};

// Messages of a lane at the last step before its body and at the last of its body.
struct Seams {
    std::vector<double> before, end;  // [K]
};

// What a lane gives.
struct LaneResult {
    double total = 0.0;
    bool doubtful = false;
};

// A step at which the message of a lane is a seam.
struct Event {
    std::int64_t step;
    int lane;
    bool end;
};

// Chunks fill whole groups.
inline std::int64_t chunk_size(std::int64_t length) {
    const std::int64_t groups = std::clamp<std::int64_t>((length + LANES * CHUNK / 2) / (LANES * CHUNK), 1, MOST_GROUPS);
    return (length + groups * LANES - 1) / (groups * LANES);
}

// Steps from which chains are cut so that all of them are done soonest: few chains fill a group by their chunks, many do
// so without warm-ups. For sums over all chains; what one chain gives may depend on the others by rounding.
inline std::int64_t soonest_cut(const Chains& c, const std::vector<std::int64_t>& rows) {
    std::vector<std::int64_t> lengths;
    for (const std::int64_t row : rows) lengths.push_back(c.lengths[row]);
    std::sort(lengths.rbegin(), lengths.rend());
    std::int64_t best = ALWAYS_CUT, least = INT64_MAX;
    for (const std::int64_t from : {ALWAYS_CUT, CUT, SHORTEST_CUT}) {
        std::int64_t steps = 0, longest = 0, whole = 0;  // of groups
        for (const std::int64_t length : lengths) {
            const bool cut = length >= from;
            if (!cut && whole++ % LANES) continue;  // beside a longer one
            const std::int64_t size = cut ? chunk_size(length) : length;
            const std::int64_t here = cut ? (size + 2 * WARM_UP) * 3 / 2 : size;  // seams cost half as much again
            steps += cut ? (length + size * LANES - 1) / (size * LANES) * here : here;
            longest = std::max(longest, here);
        }
        const std::int64_t time = steps + longest;  // the longest group twice, as several threads would wait for it
        if (time < least) best = from, least = time;
    }
    return best;
}

// Lanes of chains, longest first, so that groups hold like lengths; chains of `cut` steps and more are cut.
inline std::vector<Lane> lanes_of(const Chains& c, const std::vector<std::int64_t>& rows, std::int64_t cut) {
    std::vector<Lane> found;
    for (const std::int64_t row : rows) {
        const std::int64_t length = c.lengths[row];
        if (length < cut) {
            found.push_back({row, c.begins[row], length, 0, length, true, false});
            continue;
        }
        const std::int64_t size = chunk_size(length);
        for (std::int64_t low = 0; low < length; low += size) {
            const std::int64_t high = std::min(low + size, length);
            const std::int64_t first = std::max<std::int64_t>(low - WARM_UP, 0), last = std::min(high + WARM_UP, length);
            found.push_back({row, c.begins[row] + first, last - first, low - first, high - first, low == 0, true});
        }
    }
    std::stable_sort(found.begin(), found.end(), [](const Lane& a, const Lane& b) { return a.count > b.count; });
    while (found.size() % LANES) found.push_back({});
    return found;
}

// after[j] = sum_i matrix[j, i] before[i], for all lanes; four rows at a time, to use what is loaded.
template <int FIXED>
inline void product(const double* matrix, const Vec* before, Vec* after, int rows, int columns) {
    const std::ptrdiff_t m = FIXED ? FIXED : rows, n = FIXED ? FIXED : columns;
    std::ptrdiff_t j = 0;
    if constexpr (FIXED == 0 || FIXED >= 4)
        for (; j + 4 <= m; j += 4) {
            const double* row = matrix + j * n;
            Vec found[4][PARTS];
            for (int p = 0; p < PARTS; ++p)
                for (int q = 0; q < 4; ++q) found[q][p] = row[q * n] * before[p];
            for (std::ptrdiff_t i = 1; i < n; ++i)
                for (int p = 0; p < PARTS; ++p)
                    for (int q = 0; q < 4; ++q) found[q][p] += row[q * n + i] * before[i * PARTS + p];
            for (int q = 0; q < 4; ++q)
                for (int p = 0; p < PARTS; ++p) after[(j + q) * PARTS + p] = found[q][p];
        }
    for (; j < m; ++j) {
        const double* row = matrix + j * n;
        for (int p = 0; p < PARTS; ++p) {
            Vec found = row[0] * before[p];
            for (std::ptrdiff_t i = 1; i < n; ++i) found += row[i] * before[i * PARTS + p];
            after[j * PARTS + p] = found;
        }
    }
}

// sums[i][j] += sum over the steps of left[i] right[j], for all lanes: [rows][lane], [columns][lane] at each of them.
inline void add_block(const Vec* left, const Vec* right, std::int64_t steps, Vec* sums, std::ptrdiff_t rows,
                      std::ptrdiff_t columns, std::ptrdiff_t i, std::ptrdiff_t j, std::ptrdiff_t tall, std::ptrdiff_t wide) {
    for (int p = 0; p < PARTS; ++p)
        for (std::ptrdiff_t r = i; r < i + tall; ++r)
            for (std::ptrdiff_t q = j; q < j + wide; ++q) {
                Vec found = sums[(r * columns + q) * PARTS + p];
                for (std::int64_t s = 0; s < steps; ++s)
                    found += left[(s * rows + r) * PARTS + p] * right[(s * columns + q) * PARTS + p];
                sums[(r * columns + q) * PARTS + p] = found;
            }
}

template <int FIXED>
inline void add_products(const Vec* left, const Vec* right, std::int64_t steps, Vec* sums, std::ptrdiff_t tall,
                         std::ptrdiff_t wide) {
    const std::ptrdiff_t rows = FIXED ? FIXED : tall, columns = FIXED ? FIXED : wide;
    constexpr int SIDE = 4;
    std::ptrdiff_t i = 0;
    for (; i + SIDE <= rows; i += SIDE) {
        std::ptrdiff_t j = 0;
        for (; j + SIDE <= columns; j += SIDE)
            for (int p = 0; p < PARTS; ++p) {
                Vec found[SIDE][SIDE] = {};
                for (std::int64_t s = 0; s < steps; ++s) {
                    const Vec* a = left + (s * rows + i) * PARTS + p;
                    const Vec* b = right + (s * columns + j) * PARTS + p;
                    for (int r = 0; r < SIDE; ++r)
                        for (int q = 0; q < SIDE; ++q) found[r][q] += a[r * PARTS] * b[q * PARTS];
                }
                for (int r = 0; r < SIDE; ++r)
                    for (int q = 0; q < SIDE; ++q) sums[((i + r) * columns + j + q) * PARTS + p] += found[r][q];
            }
        add_block(left, right, steps, sums, rows, columns, i, j, SIDE, columns - j);
    }
    add_block(left, right, steps, sums, rows, columns, i, 0, rows - i, columns);
}

}  // namespace LATENTVARS_ISA
