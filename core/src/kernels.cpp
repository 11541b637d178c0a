// The work of whole tables of chains: in lanes where that is exact, one after another where not, in log space where even
// that is not. Built once for each instruction set.
#include "bernoulli.h"
#include "centres.h"
#include "gelu.h"
#include "log_space.h"
#include "normal.h"
#include "scaled.h"
#include "threads.h"
#include "viterbi.h"

namespace LATENTVARS_ISA {

typedef std::vector<std::int64_t> Numbers;

constexpr double AGREE = 1e-13;         // relative, of messages where two chunks meet
constexpr std::size_t FEW = 8;          // chains with one of several matrices that are not worth a group of lanes
constexpr std::size_t SHARES = 16;      // in which chains with one matrix add up

// The states that a chain can be in at each step, [steps][K]; the last row stands for all later steps.
std::vector<char> reach_of(const Chains& c, const Numbers& rows, const double* matrix, bool positive) {
    const std::int64_t n = c.states;
    if (positive) return std::vector<char>(n, 1);
    std::vector<char> found(n, 0), next(n);
    for (const std::int64_t row : rows)
        for (std::int64_t k = 0; k < n; ++k) found[k] |= c.initial[c.initial_of[row] * n + k] > 0;
    for (std::int64_t step = 1; step <= 2 * n; ++step) {
        const char* last = found.data() + (step - 1) * n;
        std::fill(next.begin(), next.end(), 0);
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) next[j] |= last[i] && matrix[i * n + j] > 0;
        if (std::equal(next.begin(), next.end(), last)) return found;
        found.insert(found.end(), next.begin(), next.end());
    }
    found.insert(found.end(), n, 1);
    return found;
}

// The sizes of the state space that are compiled apart.
template <class Work>
void sized([[maybe_unused]] std::int64_t states, Work work) {
#ifndef LATENTVARS_GENERAL
    switch (states) {
        case 2: return work(std::integral_constant<int, 2>());
        case 3: return work(std::integral_constant<int, 3>());
        case 4: return work(std::integral_constant<int, 4>());
        case 5: return work(std::integral_constant<int, 5>());
        case 8: return work(std::integral_constant<int, 8>());
    }
#endif
    return work(std::integral_constant<int, 0>());
}

// Chains with one transition matrix, in groups of lanes.
class InLanes {
  public:
    InLanes(const Chains& c, const Numbers& rows, const double* matrix, std::int64_t cut)
        : c_(c), matrix_(matrix) {
        bool positive = true;
        for (std::int64_t x = 0; x < c.states * c.states; ++x) positive &= matrix[x] > 0;
        reach_ = reach_of(c, rows, matrix, positive);
        lanes_ = lanes_of(c, rows, positive ? cut : NEVER_CUT);
        results_.resize(lanes_.size());
        filters_.resize(lanes_.size()), behinds_.resize(lanes_.size());
    }

    std::int64_t groups() const { return static_cast<std::int64_t>(lanes_.size()) / LANES; }

    void evidence(std::int64_t number) {
        Group group = this->group(number);
        sized(c_.states, [&](auto size) {
            constexpr int FIXED = decltype(size)::value;
            static thread_local Scratch held;
            const std::size_t tile = std::max<std::size_t>(128, c_.states) * LANES;
            Vec* scaled = reinterpret_cast<Vec*>(held.take(tile));
            group.template forward<false, FIXED>(nullptr, scaled, &results_[number * LANES], &filters_[number * LANES]);
        });
    }

    // Slopes of lanes that are whole chains are added into `shared`, or into the chain's own; those of chunks are kept.
    // Expected statistics of chains that are observed go into `sums`, to be used only where no chain has to go another
    // way.
    void posterior(std::int64_t number, const Posterior& out, double* shared, double* sums) {
        Group group = this->group(number);
        static thread_local Scratch held[4];
        const std::int64_t n = c_.states;
        const std::size_t size = static_cast<std::size_t>(group.steps()) * n * LANES;
        Vec* alpha = reinterpret_cast<Vec*>(held[0].take(size));
        Vec* scaled = reinterpret_cast<Vec*>(held[1].take(size));
        double* slopes = held[2].take((n + 1) * n * LANES);
        double* initial = slopes + n * n * LANES;
        std::fill(slopes, initial, 0.0);
        double* statistics = nullptr;
        if (c_.observed) {
            const std::int64_t room = Emissions::room(*c_.observed, n);
            std::fill_n(statistics = held[3].take(room), room, 0.0);
        }
        const std::int64_t first = number * LANES;
        sized(n, [&](auto fixed) {
            constexpr int FIXED = decltype(fixed)::value;
            group.template forward<true, FIXED>(alpha, scaled, &results_[first], &filters_[first]);
            group.template backward<FIXED>(alpha, scaled, &results_[first], out, reinterpret_cast<Vec*>(slopes),
                                           reinterpret_cast<Vec*>(initial), reinterpret_cast<Vec*>(statistics),
                                           &behinds_[first]);
        });
        if (c_.observed) Emissions::gather(*c_.observed, n, statistics, sums);
        for (int l = 0; l < LANES; ++l) {
            const Lane& lane = lanes_[first + l];
            if (!lane.counts() || results_[first + l].doubtful) continue;
            const double weight = out.weights[lane.chain];
            if (lane.head)
                for (std::int64_t k = 0; k < n; ++k) out.initial_slopes[lane.chain * n + k] = weight * initial[k * LANES + l];
            double* to = out.by_chain ? out.slopes + lane.chain * n * n : shared;
            if (lane.cut) {
                pieces_of(first + l).resize(n * n);
                to = pieces_of(first + l).data();
            }
            for (std::int64_t x = 0; x < n * n; ++x) to[x] += weight * slopes[x * LANES + l];
        }
        for (Scratch& one : held) one.release();
    }

    void keep_pieces() { pieces_.resize(lanes_.size()); }

    // Totals of chains, in the order of their lanes; chains that have to go another way, whose messages do not meet or
    // that lost precision. Where all chunks meet, the whole equals an uncut recursion, by induction over the chunks.
    Numbers finish(double* total, bool smoothed, const Posterior* out, double* shared) {
        std::vector<std::int64_t> order;
        for (std::size_t l = 0; l < lanes_.size(); ++l)
            if (lanes_[l].counts()) order.push_back(l);
        std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
            return std::make_pair(lanes_[a].chain, lanes_[a].body()) < std::make_pair(lanes_[b].chain, lanes_[b].body());
        });
        Numbers left;
        for (std::size_t x = 0; x < order.size();) {
            const std::int64_t chain = lanes_[order[x]].chain;
            std::size_t end = x;
            bool fine = true;
            double found = 0.0;
            for (; end < order.size() && lanes_[order[end]].chain == chain; ++end) {
                fine = fine && !results_[order[end]].doubtful;
                fine = fine && (end == x || meet(order[end - 1], order[end], smoothed));
                found += results_[order[end]].total;
            }
            total[chain] = found;
            if (!fine) left.push_back(chain);
            if (fine && out && lanes_[order[x]].cut)
                for (std::size_t piece = x; piece < end; ++piece) add_piece(order[piece], *out, shared);
            x = end;
        }
        return left;
    }

  private:
    Group group(std::int64_t number) const { return Group(c_, &lanes_[number * LANES], matrix_, reach_); }

    std::vector<double>& pieces_of(std::int64_t lane) { return pieces_[lane]; }

    void add_piece(std::int64_t lane, const Posterior& out, double* shared) {
        double* to = out.by_chain ? out.slopes + lanes_[lane].chain * c_.states * c_.states : shared;
        for (std::size_t x = 0; x < pieces_[lane].size(); ++x) to[x] += pieces_[lane][x];
    }

    bool meet(std::int64_t one, std::int64_t next, bool smoothed) const {
        return equal(filters_[one].end, filters_[next].before) &&
               (!smoothed || equal(behinds_[one].end, behinds_[next].before));
    }

    static bool equal(const std::vector<double>& a, const std::vector<double>& b) {
        if (a.size() != b.size()) return false;
        for (std::size_t k = 0; k < a.size(); ++k)
            if (!(std::fabs(a[k] - b[k]) <= AGREE * std::fabs(a[k]))) return false;
        return true;
    }

    const Chains& c_;
    const double* matrix_;
    std::vector<char> reach_;
    std::vector<Lane> lanes_;
    std::vector<LaneResult> results_;
    std::vector<Seams> filters_, behinds_;
    std::vector<std::vector<double>> pieces_;
};

// Chains by transition matrix.
std::vector<Numbers> by_matrix(const Chains& c) {
    std::vector<Numbers> found(c.matrices);
    for (std::int64_t row = 0; row < c.count; ++row) found[c.transition_of[row]].push_back(row);
    return found;
}

bool in_lanes(const Chains& c, const Numbers& rows) {
    return c.moves == 1 && !rows.empty() && (c.matrices == 1 || rows.size() >= FEW);
}

void evidence_one(const Chains& c, std::int64_t row, double* total) {
    if (Scaled(c, row).forward(false, &total[row])) return;
    std::vector<double> states(c.lengths[row] * c.states), steps(c.lengths[row]);
    total[row] = LogSpace(c, row).filter(states.data(), steps.data());
}

// False, and of no use, where some observed chain has to go another way, which needs a table of densities.
bool evidence(const Chains& c, double* total) {
    Numbers left;
    for (std::int64_t number = 0; const Numbers& rows : by_matrix(c)) {
        if (in_lanes(c, rows)) {
            InLanes lanes(c, rows, c.transition + number * c.states * c.states, CUT);
            each(lanes.groups(), c.threads, [&](std::int64_t group) { lanes.evidence(group); });
            for (const std::int64_t row : lanes.finish(total, false, nullptr, nullptr)) left.push_back(row);
        } else {
            left.insert(left.end(), rows.begin(), rows.end());
        }
        ++number;
    }
    if (c.observed) return left.empty();
    each(left.size(), c.threads, [&](std::int64_t x) { evidence_one(c, left[x], total); });
    return true;
}

void posterior_one(const Chains& c, std::int64_t row, const Posterior& out, double* slopes) {
    Scaled scaled(c, row);
    if (scaled.forward(true, &out.total[row])) return scaled.backward(out, slopes);
    std::vector<double> states(c.lengths[row] * c.states), steps(c.lengths[row]);
    const LogSpace chain(c, row);
    out.total[row] = chain.filter(states.data(), steps.data());
    const std::int64_t low = c.begins[row] * c.states, size = c.lengths[row] * c.states;
    if (out.wide) std::fill(out.wide + low, out.wide + low + size, 0.0);
    if (out.narrow) std::fill(out.narrow + low, out.narrow + low + size, 0.0F);
    chain.slopes(states.data(), steps.data(), out.total[row], out, slopes);
}

// Some of the chains with one matrix, whose slopes add up.
struct Share {
    std::int64_t matrix;
    Numbers rows;
    std::vector<double> slopes;  // [S, K, K]; none where the chains have their own or there is one share
};

// Of the chains with one matrix, those of `cut` steps and more in chunks; gives those that have to go another way.
Numbers posterior_in_lanes(const Chains& c, const Numbers& rows, std::int64_t number, const Posterior& out,
                           std::int64_t cut) {
    const std::int64_t square = c.states * c.states;
    const std::int64_t features = c.observed ? c.states * c.observed->features * c.observed->codes : 0;
    InLanes lanes(c, rows, c.transition + number * square, cut);
    lanes.keep_pieces();
    std::vector<double> slopes(out.by_chain ? 0 : lanes.groups() * square), sums(lanes.groups() * features);
    double* shared = out.by_chain ? nullptr : out.slopes + number * square;
    if (shared) std::fill_n(shared, square, 0.0);
    std::fill_n(out.sums, features, 0.0);
    each(lanes.groups(), c.threads, [&](std::int64_t group) {
        lanes.posterior(group, out, out.by_chain ? nullptr : &slopes[group * square], sums.data() + group * features);
    });
    for (std::size_t x = 0; x < slopes.size(); ++x) shared[x % square] += slopes[x];
    for (std::size_t x = 0; x < sums.size(); ++x) out.sums[x % features] += sums[x];
    return lanes.finish(out.total, true, &out, shared);
}

// The same: what one chain gives depends on its own length only, unless all that is asked for are sums.
Numbers posterior_in_lanes(const Chains& c, const Numbers& rows, std::int64_t number, const Posterior& out) {
    if (!c.observed) return posterior_in_lanes(c, rows, number, out, CUT);
    const std::int64_t cut = soonest_cut(c, rows);
    Numbers left = posterior_in_lanes(c, rows, number, out, cut);
    const auto cut_of_choice = [&](std::int64_t row) { return c.lengths[row] >= cut && c.lengths[row] < ALWAYS_CUT; };
    if (std::any_of(left.begin(), left.end(), cut_of_choice)) left = posterior_in_lanes(c, rows, number, out, ALWAYS_CUT);
    return left;
}

// False, and of no use, where some observed chain has to go another way, which needs a table of densities.
bool posterior(const Chains& c, const Posterior& out) {
    const std::int64_t square = c.states * c.states, size = c.moves * square;
    std::vector<Share> shares;
    for (std::int64_t number = 0; const Numbers& rows : by_matrix(c)) {
        Numbers left = rows;
        if (in_lanes(c, rows)) {
            left = posterior_in_lanes(c, rows, number, out);
        }
        if (c.observed && !left.empty()) return false;
        const std::size_t step = std::max<std::size_t>(1, (left.size() + SHARES - 1) / SHARES);
        for (std::size_t low = 0; low < left.size(); low += step)
            shares.push_back({number, Numbers(left.begin() + low, left.begin() + std::min(low + step, left.size())), {}});
        ++number;
    }
    each(shares.size(), c.threads, [&](std::int64_t x) {
        Share& share = shares[x];
        if (!out.by_chain) share.slopes.assign(size, 0.0);
        for (const std::int64_t row : share.rows)
            posterior_one(c, row, out, out.by_chain ? out.slopes + row * size : share.slopes.data());
        Scaled::release();
    });
    for (const Share& share : shares)
        for (std::size_t x = 0; x < share.slopes.size(); ++x) out.slopes[share.matrix * size + x] += share.slopes[x];
    return true;
}

void filter(const Chains& c, double* states, double* steps, double* total) {
    each(c.count, c.threads, [&](std::int64_t row) {
        total[row] = LogSpace(c, row).filter(states + c.begins[row] * c.states, steps + c.begins[row]);
    });
}

void smooth(const Chains& c, const double* states, const double* steps, const double* total, double* probs,
            double* log_ahead) {
    each(c.count, c.threads, [&](std::int64_t row) {
        const std::int64_t low = c.begins[row] * c.states;
        if (total[row] != -INFINITE)
            LogSpace(c, row).smooth(states + low, steps + c.begins[row], probs + low, log_ahead + low);
    });
}

void paths(const Chains& c, std::int64_t* paths) {
    const std::size_t share = (c.count + c.threads - 1) / std::max(c.threads, 1);
    const std::size_t ways = c.moves == 1 ? std::clamp<std::size_t>(share, 1, ABREAST) : 1;
    std::vector<Numbers> groups;
    for (const Numbers& rows : by_matrix(c))
        for (std::size_t low = 0; low < rows.size(); low += ways)
            groups.emplace_back(rows.begin() + low, rows.begin() + std::min(low + ways, rows.size()));
    each(groups.size(), c.threads, [&](std::int64_t x) {
        (c.states <= 256 ? most_likely<std::uint8_t> : most_likely<std::int32_t>)(c, groups[x], paths);
    });
}

void draws(const Chains& c, const double* states, const double* uniforms, std::int64_t draws, std::int64_t steps,
           std::int64_t* paths) {
    each(c.count, c.threads, [&](std::int64_t row) {
        const LogSpace chain(c, row);
        const std::int64_t low = c.begins[row];
        for (std::int64_t draw = 0; draw < draws; ++draw)
            chain.draw(states + low * c.states, uniforms + draw * steps + low, paths + draw * steps + low);
    });
}

std::int64_t shares_of(const Normals& n) { return (n.count + POINTS_A_SHARE - 1) / POINTS_A_SHARE; }

// log N(x; loc, (W' W)^-1), [M, K].
void normal_scores(const Normals& n, double* scores) {
    const std::int64_t d = n.features;
    std::vector<double> constants(n.components);
    for (std::int64_t k = 0; k < n.components; ++k) {
        constants[k] = -0.5 * static_cast<double>(d) * 1.8378770664093454836;  // log 2 pi
        for (std::int64_t i = 0; i < d; ++i) constants[k] += std::log(n.full ? n.root[(k * d + i) * d + i] : n.root[k * d + i]);
    }
    each(shares_of(n), n.threads, [&](std::int64_t share) {
        const std::int64_t low = share * POINTS_A_SHARE, high = std::min(low + POINTS_A_SHARE, n.count);
        (n.full ? normal_scores_of<true> : normal_scores_of<false>)(n, constants.data(), low, high, scores);
    });
}

// Weighted sums of 1, y and y y' for each component, [K, sums]; shares are added in their order.
void normal_sums(const Normals& n, const double* weights, double* sums) {
    const std::int64_t size = n.components * sums_of(n), shares = shares_of(n);
    std::vector<double> found(shares * size);
    each(shares, n.threads, [&](std::int64_t share) {
        static thread_local Scratch held;
        Vec* here = reinterpret_cast<Vec*>(held.take(size * WIDTH));
        std::fill(here, here + size, Vec{});
        const std::int64_t low = share * POINTS_A_SHARE, high = std::min(low + POINTS_A_SHARE, n.count);
        (n.full ? normal_sums_of<true> : normal_sums_of<false>)(n, weights, low, high, here);
        for (std::int64_t x = 0; x < size; ++x) found[share * size + x] = sum(here[x]);
    });
    std::fill(sums, sums + size, 0.0);
    for (std::int64_t share = 0; share < shares; ++share)
        for (std::int64_t x = 0; x < size; ++x) sums[x] += found[share * size + x];
}

void exponentials(double* x, std::int64_t size) {
    for (std::int64_t at = 0; at < size; at += WIDTH) {
        double held[WIDTH] = {};
        const std::int64_t here = std::min<std::int64_t>(WIDTH, size - at);
        std::copy(x + at, x + at + here, held);
        store(held, exponential(load(held)));
        std::copy(held, held + here, x + at);
    }
}

extern const Kernels kernels;
const Kernels kernels = {evidence,
                         posterior,
                         filter,
                         smooth,
                         paths,
                         draws,
                         normal_scores,
                         normal_sums,
                         exponentials,
                         bernoulli_rows<double>,
                         bernoulli_rows<float>,
                         gelu,
                         nearest,
                         lloyd,
                         seeds};

}  // namespace LATENTVARS_ISA
