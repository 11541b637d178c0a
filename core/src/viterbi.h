// The most probable path of one chain (Viterbi 1967); ties go to the lower state.
#pragma once
#include "scaled.h"

namespace LATENTVARS_ISA {

constexpr double NEVER = -std::numeric_limits<double>::infinity();
constexpr std::int64_t REBASED = 32;  // steps after which the largest score is taken off, so that digits do not go to it

inline double emission_of(const Chains& c, std::int64_t at) { return c.wide ? c.wide[at] : c.narrow[at]; }

// One step for few states, which stay in registers.
template <int STATES, class Origin>
inline void advance_few(const double* move, const Chains& c, std::int64_t row, double* scores, Origin* origin) {
    double found[STATES];
    for (int j = 0; j < STATES; ++j) {
        double best = scores[0] + move[j];
        int from = 0;
        for (int i = 1; i < STATES; ++i) {
            const double score = scores[i] + move[i * WIDTH + j];
            from = score > best ? i : from;
            best = score > best ? score : best;
        }
        found[j] = best + emission_of(c, row + j);
        origin[j] = static_cast<Origin>(from);
    }
    for (int j = 0; j < STATES; ++j) scores[j] = found[j];
}

// One step for any number of states; `from` and `next` are [padded].
template <class Origin>
inline void advance_many(const double* move, const Chains& c, std::int64_t row, double* scores, Origin* origin,
                         double* next, double* from) {
    const std::int64_t states = c.states, width = padded(states);
    for (std::int64_t v = 0; v < width; v += WIDTH) {
        Vec best = scores[0] + load(move + v), chosen = {};
        for (std::int64_t i = 1; i < states; ++i) {
            const Vec score = scores[i] + load(move + i * width + v);
            chosen = score > best ? all(static_cast<double>(i)) : chosen;
            best = score > best ? score : best;
        }
        store(next + v, best), store(from + v, chosen);
    }
    for (std::int64_t j = 0; j < states; ++j) {
        scores[j] = next[j] + emission_of(c, row + j);
        origin[j] = static_cast<Origin>(from[j]);
    }
}

template <class Origin>
void most_likely(const Chains& c, std::int64_t chain, std::int64_t* path) {
    static thread_local Scratch held;
    static thread_local std::vector<Origin> origins;
    const std::int64_t states = c.states, width = padded(states), length = c.lengths[chain];
    const std::int64_t moves = c.moves == 1 ? 1 : std::max<std::int64_t>(length - 1, 0);
    const double* matrix = c.transition + c.transition_of[chain] * c.moves * states * states;
    double* logs = held.take((moves * states + 3) * width);
    double *scores = logs + moves * states * width, *next = scores + width, *from = next + width;
    for (std::int64_t x = 0; x < moves * states; ++x)
        for (std::int64_t j = 0; j < width; ++j) logs[x * width + j] = j < states ? std::log(matrix[x * states + j]) : NEVER;
    origins.resize(length * states);
    const double* initial = c.initial + c.initial_of[chain] * states;
    const std::int64_t begin = c.begins[chain] * states;
    for (std::int64_t k = 0; k < states; ++k) scores[k] = std::log(initial[k]) + emission_of(c, begin + k);
    for (std::int64_t t = 1; t < length; ++t) {
        const double* move = logs + (c.moves == 1 ? 0 : t - 1) * states * width;
        Origin* origin = origins.data() + t * states;
        const std::int64_t row = begin + t * states;
        switch (states) {
            case 2: advance_few<2>(move, c, row, scores, origin); break;
            case 3: advance_few<3>(move, c, row, scores, origin); break;
            case 4: advance_few<4>(move, c, row, scores, origin); break;
            default: advance_many(move, c, row, scores, origin, next, from);
        }
        if (t % REBASED) continue;
        double top = scores[0];
        for (std::int64_t k = 1; k < states; ++k) top = scores[k] > top ? scores[k] : top;
        if (top > NEVER)
            for (std::int64_t k = 0; k < states; ++k) scores[k] -= top;
    }
    std::int64_t state = 0;
    for (std::int64_t k = 1; k < states; ++k)
        if (scores[k] > scores[state]) state = k;
    for (std::int64_t t = length - 1; t >= 0; --t) {
        path[t] = state;
        if (t > 0) state = origins[t * states + state];
    }
    held.release();
    if (origins.size() > (std::size_t{1} << 24)) std::vector<Origin>().swap(origins);
}

}  // namespace LATENTVARS_ISA
