// Groups around centres: the nearest of them, k-means steps, and k-means++ seeds.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "tables.h"

namespace LATENTVARS_ISA {

using latentvars::Points;

constexpr std::int64_t POINTS_A_BLOCK = 64;  // whose distances to a centre are taken side by side

// The index of the nearest of K centres [K, P] for each point; ties go to the first.
inline void nearest(const Points& points, const double* centres, std::int64_t groups, std::int64_t* labels) {
    const std::int64_t size = points.size;
    std::vector<double> squares(groups), turned(size * POINTS_A_BLOCK);
    for (std::int64_t k = 0; k < groups; ++k)
        for (std::int64_t p = 0; p < size; ++p) squares[k] += centres[k * size + p] * centres[k * size + p];
    for (std::int64_t low = 0; low < points.count; low += POINTS_A_BLOCK) {
        const std::int64_t here = std::min(POINTS_A_BLOCK, points.count - low);
        for (std::int64_t s = 0; s < here; ++s)
            for (std::int64_t p = 0; p < size; ++p) turned[p * POINTS_A_BLOCK + s] = points.at[(low + s) * size + p];
        double least[POINTS_A_BLOCK], which[POINTS_A_BLOCK] = {}, distance[POINTS_A_BLOCK];
        std::fill_n(least, POINTS_A_BLOCK, std::numeric_limits<double>::infinity());
        for (std::int64_t k = 0; k < groups; ++k) {
            std::fill_n(distance, POINTS_A_BLOCK, squares[k]);
            for (std::int64_t p = 0; p < size; ++p) {
                const double twice = -2 * centres[k * size + p], *x = turned.data() + p * POINTS_A_BLOCK;
                for (std::int64_t s = 0; s < POINTS_A_BLOCK; ++s) distance[s] += twice * x[s];
            }
            const double number = static_cast<double>(k);
            for (std::int64_t s = 0; s < POINTS_A_BLOCK; ++s) {
                which[s] = distance[s] < least[s] ? number : which[s];
                least[s] = distance[s] < least[s] ? distance[s] : least[s];
            }
        }
        for (std::int64_t s = 0; s < here; ++s) labels[low + s] = static_cast<std::int64_t>(which[s]);
    }
}

// Steps of k-means, fewer where the groups stay; a centre whose points have no weight stays where it is.
inline void lloyd(const Points& points, double* centres, std::int64_t groups, int steps) {
    const std::int64_t size = points.size;
    std::vector<std::int64_t> before, labels(points.count);
    std::vector<double> totals(groups), sums(groups * size);
    for (int step = 0; step < steps; ++step) {
        nearest(points, centres, groups, labels.data());
        if (labels == before) return;
        std::fill(totals.begin(), totals.end(), 0.0);
        std::fill(sums.begin(), sums.end(), 0.0);
        for (std::int64_t s = 0; s < points.count; ++s) {
            const double weight = points.weights[s];
            double* to = sums.data() + labels[s] * size;
            totals[labels[s]] += weight;
            for (std::int64_t p = 0; p < size; ++p) to[p] += weight * points.at[s * size + p];
        }
        for (std::int64_t k = 0; k < groups; ++k)
            for (std::int64_t p = 0; p < size && totals[k] > 0; ++p) centres[k * size + p] = sums[k * size + p] / totals[k];
        before = labels;
    }
}

// The first index at which the running sum of the chances is above a share of their sum; one of no chance is never taken
// where another has some.
inline std::int64_t picked(const std::vector<double>& chances, double total, double share) {
    const double target = share * total;
    std::int64_t last = 0;
    double sum = 0.0;
    for (std::size_t s = 0; s < chances.size(); ++s) {
        if (!(chances[s] > 0)) continue;
        last = static_cast<std::int64_t>(s);
        sum += chances[s];
        if (sum > target) break;
    }
    return last;
}

// k-means++ seeding: positions of K points, each drawn by a uniform number in proportion to its weight and its squared
// distance to the nearest of those before; by weight alone where all stand on one of those.
inline void seeds(const Points& points, const double* uniforms, std::int64_t groups, std::int64_t* chosen) {
    std::vector<double> distances(points.count, std::numeric_limits<double>::infinity());
    std::vector<double> chances(points.weights, points.weights + points.count);
    for (std::int64_t k = 0; k < groups; ++k) {
        double total = 0.0;
        for (const double chance : chances) total += chance;
        if (!(total > 0)) {
            chances.assign(points.weights, points.weights + points.count);
            total = 0.0;
            for (const double chance : chances) total += chance;
        }
        chosen[k] = picked(chances, total, uniforms[k]);
        const double* centre = points.at + chosen[k] * points.size;
        for (std::int64_t s = 0; s < points.count; ++s) {
            double distance = 0.0;
            for (std::int64_t p = 0; p < points.size; ++p) {
                const double apart = points.at[s * points.size + p] - centre[p];
                distance += apart * apart;
            }
            distances[s] = std::min(distances[s], distance);
            chances[s] = points.weights[s] * distances[s];
        }
    }
}

}  // namespace LATENTVARS_ISA
