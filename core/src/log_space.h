// Recursions in log space: the slowest way, and right for any chain. Messages are normalised at each step but kept in
// logs, so that states which contradict one another by thousands of nats lose nothing (Cappe, Moulines & Ryden 2005,
// section 3.2.2). Where chains share a matrix, sums are products of probabilities as long as these lose nothing either.
#pragma once
#include "lanes.h"
#include "scaled.h"

namespace LATENTVARS_ISA {

constexpr double LOG_ZERO = -1e231;  // stands for log 0, so that differences stay numbers
constexpr double IMPOSSIBLE = 0.5 * LOG_ZERO;
constexpr double SLIGHT = 1e-150;   // a factor that is left out of products, which so never leave the range of doubles
constexpr double CERTAIN = 1e-130;  // a sum of products next to which all that were left out do not count
constexpr double STEEP = 300.0;     // log of a ratio beyond which a product with it may overflow
constexpr double INFINITE = std::numeric_limits<double>::infinity();

inline double log_of(double probability) { return std::max(std::log(probability), LOG_ZERO); }

// A little above log 1/p, which no exact slope exceeds; half the range of doubles where p is 0 or subnormal.
inline double slope_cap(double probability) {
    constexpr double TINY = std::numeric_limits<double>::min();
    return probability >= TINY ? 1.0 - std::log(probability) : 0.5 * std::log(std::numeric_limits<double>::max());
}

// log sum_i exp(message[i] + moves[i * stride]).
inline double log_sum(const double* message, const double* moves, std::int64_t stride, std::int64_t states) {
    double top = message[0] + moves[0], found = 0.0;
    for (std::int64_t i = 1; i < states; ++i) top = std::max(top, message[i] + moves[i * stride]);
    for (std::int64_t i = 0; i < states; ++i) found += std::exp(message[i] + moves[i * stride] - top);
    return top + std::log(found);
}

// log sum_i exp(message[i]) matrix[i, k] for all k: by products with the matrix [K][padded], and where these may have
// lost something by the logs of the matrix, whose entry of i and k lies at i * along + k * across.
class LogProduct {
  public:
    LogProduct(const double* matrix, const double* logs, std::int64_t states, bool transposed)
        : states_(states), width_(padded(states)), logs_(logs), along_(transposed ? 1 : states), across_(transposed ? states : 1),
          matrix_(states * width_), weights_(states), sums_(width_) {
        pad_matrices(matrix, 1, states, transposed, matrix_.data());
        for (double& entry : matrix_) entry = entry < SLIGHT ? 0.0 : entry;
    }

    void operator()(const double* message, double* to) {
        const double top = *std::max_element(message, message + states_);
        const bool possible = top > IMPOSSIBLE;
        if (possible) {
            for (std::int64_t i = 0; i < states_; ++i) {
                const double weight = std::exp(message[i] - top);
                weights_[i] = weight < SLIGHT ? 0.0 : weight;
            }
            combine(weights_.data(), matrix_.data(), states_, width_, sums_.data());
        }
        for (std::int64_t k = 0; k < states_; ++k)
            to[k] = possible && sums_[k] >= CERTAIN ? top + std::log(sums_[k])
                                                    : log_sum(message, logs_ + k * across_, along_, states_);
    }

  private:
    std::int64_t states_, width_;
    const double* logs_;
    std::int64_t along_, across_;
    std::vector<double> matrix_, weights_, sums_;
};

class LogSpace {
  public:
    LogSpace(const Chains& c, std::int64_t chain) : c_(c), chain_(chain), states_(c.states), length_(c.lengths[chain]) {
        const double* matrix = c.transition + c.transition_of[chain] * c.moves * states_ * states_;
        matrix_ = matrix;
        initial_ = c.initial + c.initial_of[chain] * states_;
        const std::int64_t moves = c.moves == 1 ? 1 : std::max<std::int64_t>(length_ - 1, 0);
        moves_.resize(moves * states_ * states_);
        for (std::size_t x = 0; x < moves_.size(); ++x) moves_[x] = log_of(matrix[x]);
    }

    // log p(z_t | x_1..t) into states [T, K], log p(x_t | x_1..t-1) into steps [T]; gives log p(x), nats.
    double filter(double* states, double* steps) const {
        double total = 0.0;
        LogProduct predicted(matrix_, moves_.data(), states_, false);
        for (std::int64_t t = 0; t < length_; ++t) {
            double* now = states + t * states_;
            if (t > 0 && c_.moves == 1) predicted(now - states_, now);
            for (std::int64_t k = 0; k < states_; ++k) {
                if (t == 0) now[k] = log_of(initial_[k]);
                if (t > 0 && c_.moves > 1) now[k] = log_sum(now - states_, into(t) + k, states_, states_);
                now[k] += emission(t, k);
            }
            double top = now[0], found = 0.0;
            for (std::int64_t k = 1; k < states_; ++k) top = now[k] > top ? now[k] : top;
            for (std::int64_t k = 0; k < states_; ++k) found += std::exp(now[k] - top);
            const double norm = top + std::log(found);
            for (std::int64_t k = 0; k < states_; ++k) now[k] -= norm;
            steps[t] = norm <= IMPOSSIBLE ? -INFINITE : norm;
            total += steps[t];
        }
        return total;
    }

    // After `filter`: marginals and initial slopes times the weight; slopes [S, K, K] are added to.
    void slopes(const double* states, const double* steps, double total, const Posterior& out, double* slopes) const {
        if (total == -INFINITE) return;
        const double weight = out.weights[chain_];
        std::vector<double> behind(states_, 0.0), ahead(states_), chances(states_), ratios(states_);
        LogProduct explained(matrix_, moves_.data(), states_, true);
        for (std::int64_t t = length_ - 1; t >= 0; --t) {
            const std::int64_t row = (c_.begins[chain_] + t) * states_;
            for (std::int64_t k = 0; k < states_; ++k) {
                const double prob = weight * std::exp(states[t * states_ + k] + behind[k]);
                if (out.wide)
                    out.wide[row + k] = prob;
                else
                    out.narrow[row + k] = static_cast<float>(prob);
                ahead[k] = emission(t, k) - steps[t] + behind[k];
            }
            if (t == 0) break;
            const std::int64_t at = c_.moves == 1 ? 0 : t - 1;
            const double* earlier = states + (t - 1) * states_;
            if (*std::max_element(ahead.begin(), ahead.end()) < STEEP) {
                for (std::int64_t k = 0; k < states_; ++k)
                    chances[k] = weight * std::exp(earlier[k]), ratios[k] = std::exp(ahead[k]);
                for (std::int64_t i = 0; i < states_; ++i)
                    for (std::int64_t j = 0; j < states_; ++j) slopes[(at * states_ + i) * states_ + j] += chances[i] * ratios[j];
            } else {
                for (std::int64_t i = 0; i < states_; ++i)
                    for (std::int64_t j = 0; j < states_; ++j) {
                        const std::int64_t x = (at * states_ + i) * states_ + j;
                        slopes[x] += weight * std::exp(std::min(earlier[i] + ahead[j], slope_cap(matrix_[x])));
                    }
            }
            if (c_.moves == 1) {
                explained(ahead.data(), behind.data());
                continue;
            }
            for (std::int64_t k = 0; k < states_; ++k) behind[k] = log_sum(ahead.data(), into(t) + k * states_, 1, states_);
        }
        for (std::int64_t k = 0; k < states_; ++k)
            out.initial_slopes[chain_ * states_ + k] = weight * std::exp(std::min(ahead[k], slope_cap(initial_[k])));
    }

    // p(z_t | x) and log p(x_t..T | z_t) / p(x_t..T | x_1..t-1), both [T, K], given `filter`.
    void smooth(const double* states, const double* steps, double* probs, double* log_ahead) const {
        for (std::int64_t t = length_ - 1; t >= 0; --t) {
            const double shift = steps[t] == -INFINITE ? 0.0 : steps[t];
            for (std::int64_t k = 0; k < states_; ++k) {
                const std::int64_t x = t * states_ + k;
                const double behind =
                    t + 1 == length_ ? 0.0 : log_sum(log_ahead + x - k + states_, into(t + 1) + k * states_, 1, states_);
                log_ahead[x] = emission(t, k) - shift + behind;
                probs[x] = std::exp(states[x] + behind);
            }
        }
    }

    // A draw from p(z | x) by inversion of uniforms [T], from the filtered logs.
    void draw(const double* states, const double* uniforms, std::int64_t* path) const {
        std::vector<double> chances(states_);
        std::int64_t state = 0;
        for (std::int64_t t = length_ - 1; t >= 0; --t) {
            double top = -INFINITE, total = 0.0;
            for (std::int64_t k = 0; k < states_; ++k) {
                chances[k] = states[t * states_ + k] + (t + 1 < length_ ? into(t + 1)[k * states_ + state] : 0.0);
                top = std::max(top, chances[k]);
            }
            for (std::int64_t k = 0; k < states_; ++k) chances[k] = total += std::exp(chances[k] - top);
            for (state = 0; state < states_ - 1 && chances[state] <= uniforms[t] * total;) ++state;
            path[t] = state;
        }
    }

  private:
    // Log transitions of the move into step t.
    const double* into(std::int64_t t) const {
        return moves_.data() + (c_.moves == 1 ? 0 : (t - 1) * states_ * states_);
    }

    double emission(std::int64_t t, std::int64_t k) const {
        const std::int64_t x = (c_.begins[chain_] + t) * states_ + k;
        const double value = c_.wide ? c_.wide[x] : c_.narrow[x];
        return value < LOG_ZERO ? LOG_ZERO : value;
    }

    const Chains& c_;
    std::int64_t chain_, states_, length_;
    const double *initial_, *matrix_;
    std::vector<double> moves_;
};

}  // namespace LATENTVARS_ISA
