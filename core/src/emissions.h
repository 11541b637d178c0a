// Emissions of an exponential family, worked out of the observations of a group of lanes where they are needed, and the
// expected statistics: no table of densities or of posterior probabilities is ever stored.
#pragma once
#include <type_traits>

#include "lane.h"

namespace LATENTVARS_ISA {

using latentvars::Form;
using latentvars::Observations;

class Emissions {
  public:
    Emissions(const Observations& o, int states) : o_(o), states_(states) {}

    // Room for the features of some steps.
    Vec* scratch(std::int64_t steps) const {
        static thread_local Scratch held;
        return reinterpret_cast<Vec*>(held.take(steps * stride() * LANES));
    }

    // Features [step][F][lane] of the observations; past the end of a lane those of the centre. Of codes, and for
    // residuals, the observations themselves.
    void features(const Lane* lanes, std::int64_t start, std::int64_t here, Vec* found) const {
        const std::int64_t d = o_.size, first = plain() ? 0 : 1, f = stride();
        double* to = reinterpret_cast<double*>(found);
        for (int l = 0; l < LANES; ++l) {
            const Lane& lane = lanes[l];
            const std::int64_t real = std::clamp<std::int64_t>(lane.count - start, 0, here);
            const double* from = o_.values + (lane.begin + start) * d;
            double* next = to + first * LANES + l;
            if (f == d) {
                for (std::int64_t x = 0; x < real * d; ++x) next[x * LANES] = from[x];
            } else {
                for (std::int64_t s = 0; s < real; ++s)
                    for (std::int64_t i = 0; i < d; ++i) next[(s * f + i) * LANES] = *from++;
            }
            for (std::int64_t s = real; s < here; ++s)
                for (std::int64_t i = 0; i < d; ++i) next[(s * f + i) * LANES] = o_.centre[i];
        }
        if (plain()) return;
        for (std::int64_t s = 0; s < here; ++s) complete(found + s * f * PARTS);
    }

    // Log densities [step][K][lane].
    void scores(const Vec* features, std::int64_t here, Vec* found) const {
        if (of_residuals(o_.form)) return residuals(features, here, found);
        if (o_.form != Form::codes) {
            for (std::int64_t s = 0; s < here; ++s)
                product<0>(o_.natural, features + s * o_.features * PARTS, found + s * states_ * PARTS, states_,
                           static_cast<int>(o_.features));
            return;
        }
        const double* codes = reinterpret_cast<const double*>(features);
        double* to = reinterpret_cast<double*>(found);
        for (std::int64_t s = 0; s < here; ++s)
            for (int l = 0; l < LANES; ++l) {
                const double* row = o_.natural + static_cast<std::int64_t>(codes[s * LANES + l]) * states_;
                for (std::int64_t k = 0; k < states_; ++k) to[(s * states_ + k) * LANES + l] = row[k];
            }
    }

    // Probabilities of codes over the largest of each step, whose logarithms are kept: looked up, as there are few.
    void scaled(const Vec* features, std::int64_t here, Vec* found, Vec* tops) const {
        const double* codes = reinterpret_cast<const double*>(features);
        double *to = reinterpret_cast<double*>(found), *top = reinterpret_cast<double*>(tops);
        for (std::int64_t s = 0; s < here; ++s, to += states_ * LANES)
            for (int l = 0; l < LANES; ++l) {
                const std::int64_t code = static_cast<std::int64_t>(codes[s * LANES + l]);
                const double* row = o_.scaled + code * states_;
                top[s * LANES + l] = o_.tops[code];
                for (std::int64_t k = 0; k < states_; ++k) to[k * LANES + l] = row[k];
            }
    }

    // sums += weighted probabilities times features: [K][F][lane]; of codes [C][K].
    void add(const Vec* probs, const Vec* features, std::int64_t here, Vec* sums) const {
        if (o_.form != Form::codes) return add_products<0>(probs, features, here, sums, states_, o_.features);
        const double *codes = reinterpret_cast<const double*>(features), *from = reinterpret_cast<const double*>(probs);
        double* to = reinterpret_cast<double*>(sums);
        for (std::int64_t s = 0; s < here; ++s)
            for (int l = 0; l < LANES; ++l) {
                double* row = to + static_cast<std::int64_t>(codes[s * LANES + l]) * states_;
                for (std::int64_t k = 0; k < states_; ++k) row[k] += from[(s * states_ + k) * LANES + l];
            }
    }

    // Numbers of `sums`.
    static std::int64_t room(const Observations& o, std::int64_t states) {
        return o.form == Form::codes ? o.codes * states : o.features * states * LANES;
    }

    // Sums of all lanes are added to [K, F], those of codes to [C, K].
    static void gather(const Observations& o, std::int64_t states, const double* sums, double* to) {
        if (o.form == Form::codes)
            for (std::int64_t x = 0; x < o.codes * states; ++x) to[x] += sums[x];
        else
            for (std::int64_t x = 0; x < o.features * states; ++x)
                for (int p = 0; p < PARTS; ++p) to[x] += sum(load(sums + x * LANES + p * WIDTH));
    }

  private:
    bool plain() const { return o_.form == Form::codes || of_residuals(o_.form); }

    // Numbers of an observation that are kept.
    std::int64_t stride() const { return of_residuals(o_.form) ? o_.size : o_.features; }

    // Log densities [K][lane] of normals at x [D][lane].
    template <int SIZE>
    static void residuals(const double* normals, int states, int size, bool apart, const Vec* x, Vec* found) {
        const int d = SIZE ? SIZE : size, each = 1 + d + (apart ? d : d * (d + 1) / 2);
        for (int k = 0; k < states; ++k, normals += each)
            for (int p = 0; p < PARTS; ++p) {
                const double *loc = normals + 1, *root = loc + d;
                Vec squares = {};
                for (int i = 0; i < d; ++i) {
                    Vec y = {};
                    if (apart) {
                        y = root[i] * (x[i * PARTS + p] - loc[i]);
                    } else {
                        for (int j = 0; j <= i; ++j) y += root[j] * (x[j * PARTS + p] - loc[j]);
                        root += i + 1;
                    }
                    squares += y * y;
                }
                found[k * PARTS + p] = *normals - 0.5 * squares;
            }
    }

    void residuals(const Vec* x, std::int64_t here, Vec* found) const {
        const int d = static_cast<int>(o_.size), n = states_;
        const bool apart = o_.form == Form::apart;
        const double* normals = o_.natural;
        const auto all_steps = [&](auto size) {
            constexpr int SIZE = decltype(size)::value;
            for (std::int64_t s = 0; s < here; ++s) {
                if (apart)
                    residuals<SIZE>(normals, n, d, true, x + s * d * PARTS, found + s * n * PARTS);
                else
                    residuals<SIZE>(normals, n, d, false, x + s * d * PARTS, found + s * n * PARTS);
            }
        };
        switch (d) {
            case 1: return all_steps(std::integral_constant<int, 1>());
            case 2: return all_steps(std::integral_constant<int, 2>());
            default: return all_steps(std::integral_constant<int, 0>());
        }
    }

    // The features of one step, of which those of first order stand there about zero.
    void complete(Vec* f) const {
        const std::int64_t d = o_.size;
        for (int p = 0; p < PARTS; ++p) {
            Vec *x = f + PARTS + p, *next = x + d * PARTS;
            f[p] = all(1.0);
            for (std::int64_t i = 0; i < d; ++i) x[i * PARTS] -= o_.centre[i];
            if (o_.form == Form::diagonal)
                for (std::int64_t i = 0; i < d; ++i) next[i * PARTS] = x[i * PARTS] * x[i * PARTS];
            if (o_.form == Form::spherical) {
                *next = Vec{};
                for (std::int64_t i = 0; i < d; ++i) *next += x[i * PARTS] * x[i * PARTS];
            }
            if (o_.form == Form::full)
                for (std::int64_t i = 0; i < d; ++i)
                    for (std::int64_t j = i; j < d; ++j, next += PARTS) *next = x[i * PARTS] * x[j * PARTS];
        }
    }

    const Observations& o_;
    int states_;
};

}  // namespace LATENTVARS_ISA
