// Closed forms of normal components: coefficients of features from arguments, and arguments from statistics.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace latentvars {

constexpr double LOG_TWO_PI = 1.8378770664093454836;

// Lower factor of a matrix [D, D] in place, the rest left as it is; false where it is not positive definite.
inline bool cholesky(double* a, std::int64_t d) {
    for (std::int64_t i = 0; i < d; ++i)
        for (std::int64_t j = 0; j <= i; ++j) {
            double value = a[i * d + j];
            for (std::int64_t k = 0; k < j; ++k) value -= a[i * d + k] * a[j * d + k];
            if (i == j) {
                if (!(value > 0) || !std::isfinite(value)) return false;
                a[i * d + i] = std::sqrt(value);
            } else {
                a[i * d + j] = value / a[j * d + j];
            }
        }
    return true;
}

// Inverse of a lower factor, into the lower triangle of `to` [D, D].
inline void invert_lower(const double* l, std::int64_t d, double* to) {
    for (std::int64_t j = 0; j < d; ++j) {
        to[j * d + j] = 1.0 / l[j * d + j];
        for (std::int64_t i = j + 1; i < d; ++i) {
            double value = 0.0;
            for (std::int64_t k = j; k < i; ++k) value -= l[i * d + k] * to[k * d + j];
            to[i * d + j] = value / l[i * d + i];
        }
    }
}

// B components in groups that share a spread, G of them: a covariance [G, D, D], or scales [G, D] or [G].
struct Normals {
    bool matrix, one_scale;  // of [D, D]; or one number for all D
    std::int64_t count, spreads, size;
    const double* loc;     // [B, D]
    const double* spread;

    std::int64_t each() const { return count / spreads; }
    std::int64_t numbers() const { return matrix ? size * (size + 1) / 2 : one_scale ? 1 : size; }
};

// Whitening factors [G, triangle], scales inverted, or one; log densities at the means [B]. Gives the largest 1 /
// standard deviation, infinite where a spread is not positive definite.
inline double whiten(const Normals& n, double* factors, double* constant) {
    const std::int64_t d = n.size;
    std::vector<double> l(d * d), inverse(d * d);
    double largest = 0.0;
    for (std::int64_t g = 0; g < n.spreads; ++g) {
        double log_det = 0.0;
        double* to = factors + g * n.numbers();
        if (n.matrix) {
            std::copy_n(n.spread + g * d * d, d * d, l.begin());
            if (!cholesky(l.data(), d)) return std::numeric_limits<double>::infinity();
            invert_lower(l.data(), d, inverse.data());
            for (std::int64_t i = 0; i < d; ++i) {
                log_det += std::log(l[i * d + i]);
                double precision = 0.0;
                for (std::int64_t k = i; k < d; ++k) precision += inverse[k * d + i] * inverse[k * d + i];
                largest = std::max(largest, std::sqrt(precision));
                for (std::int64_t j = 0; j <= i; ++j) *to++ = inverse[i * d + j];
            }
        } else {
            for (std::int64_t i = 0; i < n.numbers(); ++i) {
                const double scale = n.spread[g * n.numbers() + i];
                if (!(scale > 0) || !std::isfinite(scale)) return std::numeric_limits<double>::infinity();
                log_det += std::log(scale) * (n.one_scale ? d : 1);
                to[i] = 1.0 / scale;
                largest = std::max(largest, to[i]);
            }
        }
        std::fill_n(constant + g * n.each(), n.each(), -0.5 * d * LOG_TWO_PI - log_det);
    }
    return largest;
}

// Coefficients [B, F] of 1, x - c and, behind them, of the squares: [B, F] all, or [G, R] apart where they are shared.
inline void coefficients(const Normals& n, const double* factors, const double* constant, const double* centre,
                         bool apart, double* own, double* squares) {
    const std::int64_t d = n.size, rest = n.numbers(), width = 1 + d + (apart ? 0 : rest);
    std::vector<double> precision(d * d), shifted(d), w(d * d);
    for (std::int64_t g = 0; g < n.spreads; ++g) {
        const double* from = factors + g * rest;
        if (n.matrix) {
            std::fill(w.begin(), w.end(), 0.0);
            for (std::int64_t i = 0; i < d; ++i)
                for (std::int64_t j = 0; j <= i; ++j) w[i * d + j] = *from++;
            for (std::int64_t i = 0; i < d; ++i)
                for (std::int64_t j = i; j < d; ++j) {
                    double value = 0.0;
                    for (std::int64_t k = j; k < d; ++k) value += w[k * d + i] * w[k * d + j];
                    precision[i * d + j] = precision[j * d + i] = value;
                }
        }
        const auto put = [&](double* to) {
            if (n.matrix)
                for (std::int64_t i = 0; i < d; ++i)
                    for (std::int64_t j = i; j < d; ++j) *to++ = (i == j ? -0.5 : -1.0) * precision[i * d + j];
            else
                for (std::int64_t i = 0; i < rest; ++i) to[i] = -0.5 * from[i] * from[i];
        };
        if (apart) put(squares + g * rest);
        for (std::int64_t b = g * n.each(); b < (g + 1) * n.each(); ++b) {
            double* to = own + b * width;
            double distance = 0.0;
            for (std::int64_t i = 0; i < d; ++i) shifted[i] = n.loc[b * d + i] - centre[i];
            for (std::int64_t i = 0; i < d; ++i) {
                double value = 0.0;
                if (n.matrix)
                    for (std::int64_t j = 0; j < d; ++j) value += precision[i * d + j] * shifted[j];
                else
                    value = shifted[i] * from[n.one_scale ? 0 : i] * from[n.one_scale ? 0 : i];
                to[1 + i] = value;
                distance += value * shifted[i];
            }
            to[0] = constant[b] - 0.5 * distance;
            if (!apart) put(to + 1 + d);
        }
    }
}

// The smallest variance that sums of features [B, F] about a centre lead to; a sum of squares that G components have in
// common stands once, in `shared` [R]. NaN leads to 0.
inline double least_variance(const Normals& n, const double* sums, std::int64_t features, const double* shared) {
    const std::int64_t d = n.size;
    double least = std::numeric_limits<double>::infinity();
    for (std::int64_t g = 0; g < n.spreads; ++g) {
        double total = 0.0;
        for (std::int64_t b = g * n.each(); b < (g + 1) * n.each(); ++b) total += sums[b * features];
        if (!(total > 0)) continue;
        double all = 0.0;
        for (std::int64_t i = 0, at = 0; i < d; at += n.matrix ? d - i : 1, ++i) {
            double squares = shared ? shared[at] : 0.0;
            for (std::int64_t b = g * n.each(); b < (g + 1) * n.each(); ++b) {
                const double *own = sums + b * features, first = own[1 + i];
                if (!shared && (!n.one_scale || i == 0)) squares += own[1 + d + (n.one_scale ? 0 : at)];
                if (own[0] > 0) squares -= first * (first / own[0]);
            }
            all += squares;
            if (!n.one_scale) least = squares / total < least || squares != squares ? squares / total : least;
        }
        if (n.one_scale) least = std::min(least, all / (total * d));
    }
    return least == least ? least : 0.0;
}

// Where the maximum is put; what holds no weight stays as it is.
struct Maximum {
    const double *weight, *first, *second;  // [B], [B, D], and [B, D, D] or [B, D]
    const double* centre;                   // [D], or [B, D]
    bool centre_each;
    const double* least;  // [D], least variances, or null
    double *loc, *spread;
    unsigned char* low;  // [G]: whether a covariance, which is put as it is, lies below the least variances
};

inline void maximise(const Normals& n, const Maximum& m) {
    const std::int64_t d = n.size, numbers = n.matrix ? d * d : d;
    std::vector<double> squares(numbers), trial(numbers);
    for (std::int64_t g = 0; g < n.spreads; ++g) {
        double total = 0.0;
        std::fill(squares.begin(), squares.end(), 0.0);
        for (std::int64_t b = g * n.each(); b < (g + 1) * n.each(); ++b) {
            const double weight = m.weight[b], *first = m.first + b * d, *second = m.second + b * numbers;
            const double* centre = m.centre + (m.centre_each ? b * d : 0);
            total += weight;
            for (std::int64_t x = 0; x < numbers; ++x) squares[x] += second[x];
            if (!(weight > 0)) continue;
            for (std::int64_t i = 0; i < d; ++i) {
                m.loc[b * d + i] = centre[i] + first[i] / weight;
                if (!n.matrix) squares[i] -= first[i] * (first[i] / weight);
                for (std::int64_t j = 0; n.matrix && j < d; ++j) squares[i * d + j] -= first[i] * (first[j] / weight);
            }
        }
        m.low[g] = 0;
        if (!(total > 0)) continue;
        if (n.matrix) {
            double* to = m.spread + g * d * d;
            for (std::int64_t i = 0; i < d; ++i)
                for (std::int64_t j = 0; j <= i; ++j)
                    to[i * d + j] = to[j * d + i] = 0.5 * (squares[i * d + j] + squares[j * d + i]) / total;
            if (m.least) {
                std::copy_n(to, d * d, trial.begin());
                for (std::int64_t i = 0; i < d; ++i) trial[i * d + i] -= m.least[i];
                m.low[g] = !cholesky(trial.data(), d);
            }
            continue;
        }
        double sum = 0.0, floor = 0.0;
        for (std::int64_t i = 0; i < d; ++i) {
            const double bound = m.least ? total * m.least[i] : 0.0;
            sum += squares[i], floor += bound;
            if (!n.one_scale) m.spread[g * d + i] = std::sqrt(std::max(squares[i], bound) / total);
        }
        if (n.one_scale) m.spread[g] = std::sqrt(std::max(sum, floor) / (total * d));
    }
}

}  // namespace latentvars
