// Groups around centres: the nearest of them, k-means steps, and distances for k-means++ seeds.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace latentvars {

// S points [S, P], row by row.
struct Points {
    std::int64_t count, size;
    const double *at, *weights;  // weights [S], or null
};

// The index of the nearest of K centres [K, P] for each point; ties go to the first.
inline void nearest(const Points& points, const double* centres, std::int64_t groups, std::int64_t* labels) {
    const std::int64_t size = points.size;
    std::vector<double> squares(groups);
    for (std::int64_t k = 0; k < groups; ++k)
        for (std::int64_t p = 0; p < size; ++p) squares[k] += centres[k * size + p] * centres[k * size + p];
    for (std::int64_t s = 0; s < points.count; ++s) {
        const double* x = points.at + s * size;
        double least = std::numeric_limits<double>::infinity();
        labels[s] = 0;
        for (std::int64_t k = 0; k < groups; ++k) {
            double product = 0.0;
            for (std::int64_t p = 0; p < size; ++p) product += centres[k * size + p] * x[p];
            const double distance = squares[k] - 2 * product;
            if (distance < least) least = distance, labels[s] = k;
        }
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

// Squared distances [S] to the nearest centre so far, with one more; `chances` are these times the weights. Whether any
// chance is left.
inline bool approach(const Points& points, const double* centre, double* distances, double* chances) {
    bool any = false;
    for (std::int64_t s = 0; s < points.count; ++s) {
        double distance = 0.0;
        for (std::int64_t p = 0; p < points.size; ++p) {
            const double apart = points.at[s * points.size + p] - centre[p];
            distance += apart * apart;
        }
        distances[s] = std::min(distances[s], distance);
        chances[s] = points.weights[s] * distances[s];
        any = any || chances[s] != 0;
    }
    return any;
}

}  // namespace latentvars
