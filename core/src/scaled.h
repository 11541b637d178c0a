// One chain after another, states side by side: for chains with matrices of their own, and for those whose chunks do not
// meet. Scaled and watched as lanes are; a chain where precision may have been lost is left to log space.
#pragma once
#include "lanes.h"

namespace LATENTVARS_ISA {

// States rounded up to whole vectors.
inline std::int64_t padded(std::int64_t states) { return (states + WIDTH - 1) / WIDTH * WIDTH; }

// Transition matrices [S][K][padded], rows from, or transposed.
inline void pad_matrices(const double* from, std::int64_t moves, std::int64_t states, bool transposed, double* to) {
    const std::int64_t width = padded(states);
    for (std::int64_t s = 0; s < moves; ++s)
        for (std::int64_t i = 0; i < states; ++i)
            for (std::int64_t j = 0; j < width; ++j)
                to[(s * states + i) * width + j] =
                    j >= states ? 0.0 : from[(s * states + (transposed ? j : i)) * states + (transposed ? i : j)];
}

// to = sum_i by[i] * matrix[i, :].
inline void combine(const double* by, const double* matrix, std::int64_t states, std::int64_t width, double* to) {
    for (std::int64_t v = 0; v < width; v += WIDTH) {
        Vec even = {}, odd = {};
        std::int64_t i = 0;
        for (; i + 2 <= states; i += 2) {
            even += by[i] * load(matrix + i * width + v);
            odd += by[i + 1] * load(matrix + (i + 1) * width + v);
        }
        if (i < states) even += by[i] * load(matrix + i * width + v);
        store(to + v, even + odd);
    }
}

class Scaled {
  public:
    Scaled(const Chains& c, std::int64_t chain) : c_(c), chain_(chain), states_(c.states), width_(padded(c.states)) {
        length_ = c.lengths[chain];
        matrix_ = c.transition + c.transition_of[chain] * c.moves * states_ * states_;
        initial_ = c.initial + c.initial_of[chain] * states_;
        positive_ = true;
        for (std::int64_t x = 0; x < used_moves() * states_ * states_; ++x) positive_ &= matrix_[x] > 0;
    }

    // log p(x), nats; false where precision may have been lost. Messages are kept for `backward` if wanted.
    bool forward(bool keep, double* total) {
        const std::int64_t rows = keep ? length_ : 1;
        alpha_ = buffer(0).take(rows * width_);
        emitted_ = buffer(1).take(rows * width_);
        double* moves = buffer(2).take((used_moves() * states_ + 1) * width_);
        double* now = moves + used_moves() * states_ * width_;
        pad_matrices(matrix_, used_moves(), states_, false, moves);
        std::vector<char> reached(states_), next(states_);
        double mantissa = 1.0, exponent = 0.0, shifts = 0.0;
        const double* before = alpha_;
        for (std::int64_t t = 0; t < length_; ++t) {
            double *a = alpha_ + (keep ? t * width_ : 0), *e = emitted_ + (keep ? t * width_ : 0);
            const double top = load_emission(t, e);
            const std::int64_t at = c_.moves == 1 ? 0 : t - 1;
            if (t == 0)
                for (std::int64_t k = 0; k < width_; ++k) now[k] = k < states_ ? initial_[k] : 0.0;
            else
                combine(before, moves + at * states_ * width_, states_, width_, now);
            double lowest = 1.0;
            if (positive_) {
                for (std::int64_t k = 0; t > 0 && k < states_; ++k) lowest = now[k] < lowest ? now[k] : lowest;
            } else {
                reach(t, matrix_ + at * states_ * states_, reached, next);
                for (std::int64_t k = 0; t > 0 && k < states_; ++k)
                    if (reached[k]) lowest = now[k] < lowest ? now[k] : lowest;
            }
            Vec sums = {};
            for (std::int64_t v = 0; v < width_; v += WIDTH) {
                const Vec joint = load(now + v) * load(e + v);
                store(now + v, joint);
                sums += joint;
            }
            const double norm = sum(sums);
            if (!(norm >= SMALLEST && lowest >= FLOOR)) return false;
            const double inverse = 1.0 / norm;
            for (std::int64_t v = 0; v < width_; v += WIDTH) {
                store(a + v, load(now + v) * inverse);
                if (keep) store(e + v, load(e + v) * inverse);
            }
            before = a;
            mantissa *= norm, shifts += top;
            if (t % RENORMALISED == RENORMALISED - 1) {
                int power;
                mantissa = std::frexp(mantissa, &power), exponent += power;
            }
        }
        *total = shifts + (exponent * 0.6931471805599453 + std::log(mantissa));
        return true;
    }

    // Marginals and initial slopes of the chain times its weight; slopes [S, K, K] are added to.
    void backward(const Posterior& out, double* slopes) {
        const double weight = out.weights[chain_];
        double* moves = buffer(2).take((used_moves() * states_ + 2) * width_);
        double *behind = moves + used_moves() * states_ * width_, *ahead = behind + width_;
        pad_matrices(matrix_, used_moves(), states_, true, moves);
        double* sums = buffer(3).take(states_ * width_);
        std::fill(sums, sums + states_ * width_, 0.0);
        std::fill(behind, behind + width_, 1.0);
        for (std::int64_t t = length_ - 1; t >= 0; --t) {
            const double *a = alpha_ + t * width_, *e = emitted_ + t * width_;
            const std::int64_t row = (c_.begins[chain_] + t) * states_;
            for (std::int64_t k = 0; k < states_; ++k) {
                const double prob = weight * (a[k] * behind[k]);
                if (out.wide)
                    out.wide[row + k] = prob;
                else
                    out.narrow[row + k] = static_cast<float>(prob);
            }
            for (std::int64_t v = 0; v < width_; v += WIDTH) store(ahead + v, load(e + v) * load(behind + v));
            if (t == 0) break;
            const std::int64_t at = c_.moves == 1 ? 0 : t - 1;
            const double* earlier = alpha_ + (t - 1) * width_;
            if (c_.moves == 1) {
                for (std::int64_t i = 0; i < states_; ++i)
                    for (std::int64_t v = 0; v < width_; v += WIDTH)
                        store(sums + i * width_ + v, load(sums + i * width_ + v) + earlier[i] * load(ahead + v));
            } else {
                for (std::int64_t i = 0; i < states_; ++i)
                    for (std::int64_t j = 0; j < states_; ++j)
                        slopes[(at * states_ + i) * states_ + j] += weight * (earlier[i] * ahead[j]);
            }
            combine(ahead, moves + at * states_ * width_, states_, width_, behind);
        }
        for (std::int64_t k = 0; k < states_; ++k) out.initial_slopes[chain_ * states_ + k] = weight * ahead[k];
        if (c_.moves == 1)
            for (std::int64_t i = 0; i < states_; ++i)
                for (std::int64_t j = 0; j < states_; ++j) slopes[i * states_ + j] += weight * sums[i * width_ + j];
    }

    static void release() {
        for (int k = 0; k < 4; ++k) buffer(k).release();
    }

  private:
    std::int64_t used_moves() const { return c_.moves == 1 ? 1 : std::max<std::int64_t>(length_ - 1, 0); }

    static Scratch& buffer(int number) {
        static thread_local Scratch held[4];
        return held[number];
    }

    // exp(emission - largest) into [padded]; gives the largest.
    double load_emission(std::int64_t t, double* to) const {
        const std::int64_t row = (c_.begins[chain_] + t) * states_;
        for (std::int64_t k = 0; k < states_; ++k) to[k] = c_.wide ? c_.wide[row + k] : c_.narrow[row + k];
        double top = to[0];
        for (std::int64_t k = 1; k < states_; ++k) top = to[k] > top ? to[k] : top;
        for (std::int64_t k = states_; k < width_; ++k) to[k] = -std::numeric_limits<double>::infinity();
        for (std::int64_t v = 0; v < width_; v += WIDTH) store(to + v, exponential(load(to + v) - top));
        for (std::int64_t k = states_; k < width_; ++k) to[k] = 0.0;
        return top;
    }

    // Which states the chain can be in at all.
    void reach(std::int64_t t, const double* matrix, std::vector<char>& reached, std::vector<char>& next) const {
        if (t == 0) {
            for (std::int64_t k = 0; k < states_; ++k) reached[k] = initial_[k] > 0;
            return;
        }
        std::fill(next.begin(), next.end(), 0);
        for (std::int64_t i = 0; i < states_; ++i)
            for (std::int64_t j = 0; reached[i] && j < states_; ++j) next[j] |= matrix[i * states_ + j] > 0;
        reached.swap(next);
    }

    const Chains& c_;
    std::int64_t chain_, states_, width_, length_;
    const double *matrix_, *initial_;
    bool positive_;
    double *alpha_ = nullptr, *emitted_ = nullptr;
};

}  // namespace LATENTVARS_ISA
