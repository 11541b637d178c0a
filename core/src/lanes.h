// Scaled forward-backward of a group of lanes.
//
// Precision: emissions are scaled by their largest at each step, and the filter by its sum c_t. A factor below e^-600
// counts as zero. This loses nothing as long as every state keeps a predicted probability above FLOOR (errors of single
// entries are not amplified by a positive recursion), which is watched: a lane where it fails is *doubtful*.
#pragma once
#include <optional>

#include "emissions.h"
#include "lane.h"

namespace LATENTVARS_ISA {

constexpr std::int64_t TILE = 128;     // states at all steps that are worked on at a time
constexpr double FLOOR = 1e-150, SMALLEST = 1e-30;
constexpr int RENORMALISED = 8;       // steps after which the exponent of a product of norms is put aside

// One group of lanes with one transition matrix.
class Group {
  public:
    Group(const Chains& c, const Lane* lanes, const double* matrix, const std::vector<char>& reach)
        : c_(c), lanes_(lanes), matrix_(matrix), reach_(reach), states_(static_cast<int>(c.states)) {
        low_ = 0, high_ = std::numeric_limits<std::int64_t>::max(), steps_ = 0, shortest_ = high_;
        for (int l = 0; l < LANES; ++l) {
            const Lane& lane = lanes[l];
            from_[l / WIDTH][l % WIDTH] = lane.from;
            to_[l / WIDTH][l % WIDTH] = lane.to;
            count_[l / WIDTH][l % WIDTH] = lane.count;
            if (!lane.counts()) continue;
            low_ = std::max(low_, lane.from), high_ = std::min(high_, lane.to);
            steps_ = std::max(steps_, lane.count), shortest_ = std::min(shortest_, lane.count);
            if (!lane.cut) continue;
            if (lane.from > 0) events_.push_back({lane.from - 1, l, false});
            events_.push_back({lane.to - 1, l, true});
        }
        std::sort(events_.begin(), events_.end(), [](const Event& a, const Event& b) { return a.step < b.step; });
    }

    std::int64_t steps() const { return steps_; }

    // Filters the lanes. Filtered probabilities and emissions over c_t are kept for `backward` where KEEP, else they are
    // one tile of scratch.
    template <bool KEEP, int FIXED>
    void forward(Vec* alpha, Vec* scaled, LaneResult* results, Seams* seams) {
        const int n = FIXED ? FIXED : states_;
        const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(n) * PARTS;
        const std::int64_t tile = tile_steps();
        std::vector<double> into(static_cast<std::size_t>(n) * n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) into[j * n + i] = matrix_[i * n + j];
        Scratch& scratch = scratch_small();
        Vec* now = reinterpret_cast<Vec*>(scratch.take((2 * block + tile * PARTS) * WIDTH));
        Vec *before = now + block, *tops = before + block;
        Vec total[PARTS] = {}, mantissa[PARTS], exponent[PARTS] = {}, doubtful[PARTS] = {};
        for (int p = 0; p < PARTS; ++p) mantissa[p] = all(1.0);
        auto event = events_.begin();
        for (std::int64_t start = 0; start < steps_; start += tile) {
            const std::int64_t here = std::min(tile, steps_ - start);
            Vec* emitted = scaled + (KEEP ? start * block : 0);
            if (c_.observed && c_.observed->form == Form::codes) {
                look_up(start, here, emitted, tops);
            } else {
                load_tile(start, here, emitted);
                scale<FIXED>(emitted, here, tops);
            }
            for (std::int64_t s = 0; s < here; ++s) {
                const std::int64_t t = start + s;
                Vec* e = emitted + s * block;
                if (t == 0)
                    begin(now);
                else
                    product<FIXED>(into.data(), before, now, n, n);
                Vec* a = KEEP ? alpha + t * block : before;
                const char* reached = reach_.data() + std::min<std::int64_t>(t, reach_.size() / n - 1) * n;
                for (int p = 0; p < PARTS; ++p) {
                    Vec lowest = all(1.0), norm = {};
                    if (t > 0)
                        for (int k = 0; k < n; ++k)
                            if (reached[k]) lowest = now[k * PARTS + p] < lowest ? now[k * PARTS + p] : lowest;
                    for (int k = 0; k < n; ++k) norm += now[k * PARTS + p] *= e[k * PARTS + p];
                    const Int fine = (norm >= SMALLEST) & (lowest >= FLOOR);
                    const Int real = t < count_[p];
                    doubtful[p] = (~fine & real) ? all(1.0) : doubtful[p];
                    if (low_ <= t && t < high_) {
                        mantissa[p] *= norm;
                        total[p] += tops[s * PARTS + p];
                    } else {
                        const Int inside = (from_[p] <= t) & (t < to_[p]);
                        mantissa[p] *= inside ? norm : all(1.0);
                        total[p] += inside ? tops[s * PARTS + p] : Vec{};
                    }
                    const Vec inverse = 1.0 / norm;
                    for (int k = 0; k < n; ++k) a[k * PARTS + p] = now[k * PARTS + p] * inverse;
                    if (KEEP)
                        for (int k = 0; k < n; ++k) e[k * PARTS + p] *= inverse;
                }
                before = a;
                if (t % RENORMALISED == RENORMALISED - 1) put_exponents_aside(mantissa, exponent);
                for (; event != events_.end() && event->step == t; ++event) {
                    Seams& seam = seams[event->lane];
                    keep_seam(event->end ? seam.end : seam.before, a, event->lane, n);
                }
            }
        }
        put_exponents_aside(mantissa, exponent);
        for (int l = 0; l < LANES; ++l) {
            const int p = l / WIDTH, x = l % WIDTH;
            results[l].total = total[p][x] + (exponent[p][x] * 0.6931471805599453 + std::log(mantissa[p][x]));
            results[l].doubtful = doubtful[p][x] != 0.0;
        }
    }

    // Smooths the lanes after `forward`: marginals times the weights for the bodies of lanes that are not doubtful, or
    // where the chains are observed the expected statistics `sums` of these; slopes [K][K][lane] and initial slopes
    // [K][lane], not weighted.
    template <int FIXED>
    void backward(const Vec* alpha, const Vec* scaled, const LaneResult* results, const Posterior& out, Vec* slopes,
                  Vec* initial_slopes, Vec* sums, Seams* seams) {
        const int n = FIXED ? FIXED : states_;
        const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(n) * PARTS;
        const std::int64_t tile = tile_steps();
        Scratch& scratch = scratch_small();
        Vec* behind = reinterpret_cast<Vec*>(scratch.take((2 + 2 * tile) * block * WIDTH));
        Vec *ahead = behind + block, *pairs = ahead + block, *probs = pairs + tile * block;
        for (std::ptrdiff_t x = 0; x < block; ++x) behind[x] = all(1.0), ahead[x] = Vec{};
        std::optional<Emissions> emissions;
        Vec weights[PARTS] = {}, *features = nullptr;
        if (c_.observed) {
            features = emissions.emplace(*c_.observed, states_).scratch(tile);
            for (int l = 0; l < LANES; ++l)
                if (lanes_[l].counts() && !results[l].doubtful) weights[l / WIDTH][l % WIDTH] = out.weights[lanes_[l].chain];
        }
        auto event = events_.rbegin();
        const std::int64_t last_tile = (steps_ - 1) / tile;
        for (std::int64_t number = last_tile; number >= 0; --number) {
            const std::int64_t start = number * tile, here = std::min(tile, steps_ - start);
            for (std::int64_t s = here - 1; s >= 0; --s) {
                const std::int64_t t = start + s;
                if (t + 1 >= shortest_)
                    for (int p = 0; p < PARTS; ++p) {
                        const Int over = t + 1 >= count_[p];
                        for (int k = 0; k < n; ++k) behind[k * PARTS + p] = over ? all(1.0) : behind[k * PARTS + p];
                    }
                Vec* pair = pairs + s * block;
                if (low_ < t + 1 && t + 1 < high_) {
                    for (std::ptrdiff_t x = 0; x < block; ++x) pair[x] = ahead[x];
                } else {
                    for (int p = 0; p < PARTS; ++p) {
                        const Int inside = (from_[p] <= t + 1) & (t + 1 < to_[p]);
                        for (int k = 0; k < n; ++k) pair[k * PARTS + p] = inside ? ahead[k * PARTS + p] : Vec{};
                    }
                }
                for (; event != events_.rend() && event->step == t; ++event) {
                    Seams& seam = seams[event->lane];
                    keep_seam(event->end ? seam.end : seam.before, behind, event->lane, n);
                }
                const Vec *a = alpha + t * block, *e = scaled + t * block;
                Vec* prob = probs + s * block;
                for (std::ptrdiff_t x = 0; x < block; ++x) {
                    prob[x] = a[x] * behind[x];
                    ahead[x] = e[x] * behind[x];
                }
                if (t > 0)
                    product<FIXED>(matrix_, ahead, behind, n, n);
                else
                    for (std::ptrdiff_t x = 0; x < block; ++x) initial_slopes[x] = ahead[x];
            }
            add_products<FIXED>(alpha + start * block, pairs, here, slopes, n, n);
            if (emissions) {
                weigh(probs, start, here, weights);
                emissions->features(lanes_, start, here, features);
                emissions->add(probs, features, here, sums);
            } else {
                store_tile(start, here, reinterpret_cast<const double*>(probs), results, out);
            }
        }
    }

    static Scratch& scratch_small() {
        static thread_local Scratch held;
        return held;
    }

  private:
    std::int64_t tile_steps() const { return std::clamp<std::int64_t>(TILE / states_, 1, 16); }

    void begin(Vec* now) const {
        double* to = reinterpret_cast<double*>(now);
        for (int l = 0; l < LANES; ++l) {
            const Lane& lane = lanes_[l];
            const double* law = lane.counts() ? c_.initial + c_.initial_of[lane.chain] * states_ : nullptr;
            for (int k = 0; k < states_; ++k) to[k * LANES + l] = law && lane.head ? law[k] : 1.0 / states_;
        }
    }

    template <class Real>
    void load_lanes(const Real* table, std::int64_t start, std::int64_t here, double* to) const {
        for (int l = 0; l < LANES; ++l) {
            const Lane& lane = lanes_[l];
            const std::int64_t real = std::clamp<std::int64_t>(lane.count - start, 0, here);
            const Real* from = table + (lane.begin + start) * states_;
            std::int64_t x = 0;
            for (; x < real * states_; ++x) to[x * LANES + l] = from[x];
            for (; x < here * states_; ++x) to[x * LANES + l] = 0.0;
        }
    }

    void load_tile(std::int64_t start, std::int64_t here, Vec* to) const {
        if (c_.observed) {
            const Emissions emissions(*c_.observed, states_);
            Vec* features = emissions.scratch(tile_steps());
            emissions.features(lanes_, start, here, features);
            emissions.scores(features, here, to);
        } else if (c_.wide) {
            load_lanes(c_.wide, start, here, reinterpret_cast<double*>(to));
        } else {
            load_lanes(c_.narrow, start, here, reinterpret_cast<double*>(to));
        }
    }

    void look_up(std::int64_t start, std::int64_t here, Vec* to, Vec* tops) const {
        const Emissions emissions(*c_.observed, states_);
        Vec* codes = emissions.scratch(tile_steps());
        emissions.features(lanes_, start, here, codes);
        emissions.scaled(codes, here, to, tops);
    }

    // Probabilities times the weights of their lanes, zero outside of the bodies of lanes and in doubtful ones.
    void weigh(Vec* probs, std::int64_t start, std::int64_t here, const Vec* weights) const {
        for (std::int64_t s = 0; s < here; ++s) {
            const std::int64_t t = start + s;
            for (int p = 0; p < PARTS; ++p) {
                const Int inside = (from_[p] <= t) & (t < to_[p]);
                const Vec weight = low_ <= t && t < high_ ? weights[p] : inside ? weights[p] : Vec{};
                for (int k = 0; k < states_; ++k) probs[(s * states_ + k) * PARTS + p] *= weight;
            }
        }
    }

    // Emissions over the largest of each step, whose logs are kept.
    template <int FIXED>
    void scale(Vec* emitted, std::int64_t here, Vec* tops) const {
        const int n = FIXED ? FIXED : states_;
        for (std::int64_t s = 0; s < here; ++s) {
            Vec* e = emitted + s * n * PARTS;
            for (int p = 0; p < PARTS; ++p) {
                Vec top = e[p];
                for (int k = 1; k < n; ++k) top = larger(top, e[k * PARTS + p]);
                tops[s * PARTS + p] = top;
                for (int k = 0; k < n; ++k) e[k * PARTS + p] = exponential(e[k * PARTS + p] - top);
            }
        }
    }

    static void put_exponents_aside(Vec* mantissa, Vec* exponent) {
        for (int p = 0; p < PARTS; ++p) {
            Int bits;
            std::memcpy(&bits, &mantissa[p], sizeof bits);
            exponent[p] += __builtin_convertvector(((bits >> 52) & 2047) - 1023, Vec);
            bits = (bits & 0x000FFFFFFFFFFFFF) | (std::int64_t{1023} << 52);
            std::memcpy(&mantissa[p], &bits, sizeof bits);
        }
    }

    static void keep_seam(std::vector<double>& seam, const Vec* message, int lane, int n) {
        seam.resize(n);
        for (int k = 0; k < n; ++k) seam[k] = message[k * PARTS + lane / WIDTH][lane % WIDTH];
    }

    template <class Real>
    void store_lanes(Real* table, std::int64_t start, std::int64_t here, const double* probs, const LaneResult* results,
                     const double* weights) const {
        for (int l = 0; l < LANES; ++l) {
            const Lane& lane = lanes_[l];
            if (!lane.counts() || results[l].doubtful) continue;
            const std::int64_t low = std::clamp<std::int64_t>(lane.from - start, 0, here);
            const std::int64_t high = std::clamp<std::int64_t>(lane.to - start, 0, here);
            const double weight = weights[lane.chain];
            Real* to = table + (lane.begin + start) * states_;
            for (std::int64_t x = low * states_; x < high * states_; ++x)
                to[x] = static_cast<Real>(weight * probs[x * LANES + l]);
        }
    }

    void store_tile(std::int64_t start, std::int64_t here, const double* probs, const LaneResult* results,
                    const Posterior& out) const {
        if (out.wide)
            store_lanes(out.wide, start, here, probs, results, out.weights);
        else
            store_lanes(out.narrow, start, here, probs, results, out.weights);
    }

    const Chains& c_;
    const Lane* lanes_;
    const double* matrix_;
    const std::vector<char>& reach_;
    int states_;
    Int from_[PARTS], to_[PARTS], count_[PARTS];
    std::int64_t low_, high_, steps_, shortest_;  // between low and high no lane begins or ends
    std::vector<Event> events_;
};

}  // namespace LATENTVARS_ISA
