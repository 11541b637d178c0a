// The most probable paths of chains (Viterbi 1967); ties go to the lower state.
#pragma once
#include "scaled.h"

namespace LATENTVARS_ISA {

constexpr double NEVER = -std::numeric_limits<double>::infinity();
constexpr std::int64_t REBASED = 32;  // steps after which the largest score is taken off, so that digits do not go to it

constexpr int ABREAST = 4;           // chains that go side by side: the steps of one hide the waits of the others
constexpr std::size_t KEPT = std::size_t{1} << 24;  // numbers of origins that a thread keeps for its next chains

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

// A chain under way.
template <class Origin>
struct Walk {
    std::int64_t chain, length;
    std::int64_t row;  // where the emissions of its first step lie
    double* scores;    // [padded]
    Origin* origins;   // [length][padded]
};

inline void keep(std::uint8_t* to, Int from) {
    typedef std::uint8_t Narrow __attribute__((vector_size(WIDTH)));
    const Narrow found = __builtin_convertvector(from, Narrow);
    std::memcpy(to, &found, sizeof found);
}

inline void keep(std::int32_t* to, Int from) {
    typedef std::int32_t Narrow __attribute__((vector_size(4 * WIDTH)));
    const Narrow found = __builtin_convertvector(from, Narrow);
    std::memcpy(to, &found, sizeof found);
}

// Emissions of states `from` on at a row; zeros past the last state.
inline Vec emissions_at(const Chains& c, std::int64_t row, std::int64_t from) {
    if (c.wide && from + WIDTH <= c.states) return load(c.wide + row + from);
    Vec found = {};
    for (std::int64_t k = from; k < std::min<std::int64_t>(from + WIDTH, c.states); ++k) found[k - from] = emission_of(c, row + k);
    return found;
}

// Step t of the first WAYS walks into VECTORS vectors of states; `next` is [WAYS][padded].
template <int WAYS, int VECTORS, class Origin>
inline void advance_some(const double* move, const Chains& c, const Walk<Origin>* walks, std::int64_t t, std::int64_t from,
                         double* next) {
    const std::int64_t states = c.states, width = padded(states);
    Vec best[WAYS][VECTORS];
    Int chosen[WAYS][VECTORS] = {};
    for (int w = 0; w < WAYS; ++w)
        for (int v = 0; v < VECTORS; ++v) best[w][v] = walks[w].scores[0] + load(move + from + v * WIDTH);
    for (std::int64_t i = 1; i < states; ++i) {
        const Int number = all(i);
        for (int v = 0; v < VECTORS; ++v) {
            const Vec into = load(move + i * width + from + v * WIDTH);
            for (int w = 0; w < WAYS; ++w) {
                const Vec score = walks[w].scores[i] + into;
                chosen[w][v] = score > best[w][v] ? number : chosen[w][v];
                best[w][v] = score > best[w][v] ? score : best[w][v];
            }
        }
    }
    for (int w = 0; w < WAYS; ++w)
        for (int v = 0; v < VECTORS; ++v) {
            const std::int64_t to = from + v * WIDTH;
            store(next + w * width + to, best[w][v] + emissions_at(c, walks[w].row + t * states, to));
            keep(walks[w].origins + t * width + to, chosen[w][v]);
        }
}

// The same into all states from one on, VECTORS vectors at a time.
template <int WAYS, int VECTORS, class Origin>
inline void advance_from(const double* move, const Chains& c, const Walk<Origin>* walks, std::int64_t t, std::int64_t from,
                         double* next) {
    for (; from + VECTORS * WIDTH <= padded(c.states); from += VECTORS * WIDTH)
        advance_some<WAYS, VECTORS>(move, c, walks, t, from, next);
    if constexpr (VECTORS > 1) advance_from<WAYS, VECTORS / 2>(move, c, walks, t, from, next);
}

// Step t of the first WAYS walks, for any number of states.
template <int WAYS, class Origin>
inline void advance_many(const double* move, const Chains& c, const Walk<Origin>* walks, std::int64_t t, double* next) {
    const std::int64_t width = padded(c.states);
    advance_from<WAYS, ABREAST / WAYS>(move, c, walks, t, 0, next);
    for (int w = 0; w < WAYS; ++w)
        for (std::int64_t v = 0; v < width; v += WIDTH) store(walks[w].scores + v, load(next + w * width + v));
}

template <class Origin>
inline void advance(const double* move, const Chains& c, const Walk<Origin>* walks, int ways, std::int64_t t, double* next) {
    if (c.states <= 4) {
        for (const Walk<Origin>* walk = walks; walk < walks + ways; ++walk) {
            const std::int64_t row = walk->row + t * c.states;
            Origin* origin = walk->origins + t * padded(c.states);
            switch (c.states) {
                case 1: advance_few<1>(move, c, row, walk->scores, origin); break;
                case 2: advance_few<2>(move, c, row, walk->scores, origin); break;
                case 3: advance_few<3>(move, c, row, walk->scores, origin); break;
                default: advance_few<4>(move, c, row, walk->scores, origin);
            }
        }
        return;
    }
    switch (ways) {
        case 1: return advance_many<1>(move, c, walks, t, next);
        case 2: return advance_many<2>(move, c, walks, t, next);
        case 3: return advance_many<3>(move, c, walks, t, next);
        default: return advance_many<ABREAST>(move, c, walks, t, next);
    }
}

// The largest score is taken off, so that digits do not go to it.
inline void rebase(double* scores, std::int64_t states) {
    double top = scores[0];
    for (std::int64_t k = 1; k < states; ++k) top = scores[k] > top ? scores[k] : top;
    if (top > NEVER)
        for (std::int64_t k = 0; k < states; ++k) scores[k] -= top;
}

// At most ABREAST chains with one matrix, or one chain whose moves have matrices of their own.
template <class Origin>
void most_likely(const Chains& c, std::vector<std::int64_t> chains, std::int64_t* paths) {
    static thread_local Scratch held;
    static thread_local std::vector<Origin> origins;
    std::stable_sort(chains.begin(), chains.end(), [&](auto a, auto b) { return c.lengths[a] > c.lengths[b]; });
    const std::int64_t states = c.states, width = padded(states), longest = c.lengths[chains[0]];
    const std::int64_t moves = c.moves == 1 ? 1 : std::max<std::int64_t>(longest - 1, 0);
    const double* matrix = c.transition + c.transition_of[chains[0]] * c.moves * states * states;
    double* logs = held.take((moves * states + 2 * ABREAST) * width);
    double *scores = logs + moves * states * width, *next = scores + ABREAST * width;
    for (std::int64_t x = 0; x < moves * states; ++x)
        for (std::int64_t j = 0; j < width; ++j) logs[x * width + j] = j < states ? std::log(matrix[x * states + j]) : NEVER;
    std::int64_t steps = 0;
    for (const std::int64_t chain : chains) steps += c.lengths[chain];
    origins.resize(steps * width);
    Walk<Origin> walks[ABREAST];
    int ways = 0;
    for (Origin* from = origins.data(); const std::int64_t chain : chains) {
        const double* initial = c.initial + c.initial_of[chain] * states;
        walks[ways] = {chain, c.lengths[chain], c.begins[chain] * states, scores + ways * width, from};
        for (std::int64_t k = 0; k < states; ++k)
            walks[ways].scores[k] = std::log(initial[k]) + emission_of(c, walks[ways].row + k);
        from += c.lengths[chain] * width;
        ++ways;
    }
    int going = ways;
    for (std::int64_t t = 1; t < longest; ++t) {
        while (walks[going - 1].length <= t) --going;
        advance(logs + (c.moves == 1 ? 0 : t - 1) * states * width, c, walks, going, t, next);
        if (t % REBASED == 0)
            for (int w = 0; w < going; ++w) rebase(walks[w].scores, states);
    }
    for (int w = 0; w < ways; ++w) {
        const Walk<Origin>& walk = walks[w];
        std::int64_t state = 0, *path = paths + c.begins[walk.chain];
        for (std::int64_t k = 1; k < states; ++k)
            if (walk.scores[k] > walk.scores[state]) state = k;
        for (std::int64_t t = walk.length - 1; t >= 0; --t) {
            path[t] = state;
            if (t > 0) state = walk.origins[t * width + state];
        }
    }
    held.release();
    if (origins.size() > KEPT) std::vector<Origin>().swap(origins);
}

}  // namespace LATENTVARS_ISA
