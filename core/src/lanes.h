// Scaled forward-backward of many chains side by side.
//
// A *lane* is a stretch of one chain: a whole sequence, or a chunk of a long one with a warm-up before and behind. LANES
// lanes with one transition matrix form a group, and every operation runs over the lanes of a group at once; what a lane
// gives depends on its own data alone, to the bit. Messages and emissions of a group lie as [step][state][lane].
//
// Precision: emissions are scaled by their largest at each step, and the filter by its sum c_t. A factor below e^-600
// counts as zero. This loses nothing as long as every state keeps a predicted probability above FLOOR (errors of single
// entries are not amplified by a positive recursion), which is watched: a lane where it fails is *doubtful*.
#pragma once
#include <algorithm>
#include <vector>

#include "tables.h"
#include "vectors.h"

namespace LATENTVARS_ISA {

using latentvars::Chains;
using latentvars::Kernels;
using latentvars::Posterior;

constexpr int PARTS = 2;              // vectors side by side
constexpr int LANES = PARTS * WIDTH;
constexpr double FLOOR = 1e-150, SMALLEST = 1e-30;
constexpr std::int64_t CUT = 1024;    // steps from which a chain is cut
constexpr std::int64_t CHUNK = 640, MOST_GROUPS = 256, WARM_UP = 64;
constexpr int RENORMALISED = 8;       // steps after which the exponent of a product of norms is put aside

struct Lane {
    std::int64_t chain = -1;  // none
    std::int64_t begin = 0;   // row of its first step
    std::int64_t count = 0;   // steps, warm-ups included
    std::int64_t from = 0;    // first step that counts
    std::int64_t to = 0;      // step after the last that counts
    bool head = false, cut = false;
    bool counts() const { return chain >= 0; }
};

// Messages of a lane at the last step before its body and at the last of its body.
struct Seams {
    std::vector<double> before, end;  // [K]
};

// What a lane gives.
struct LaneResult {
    double total = 0.0;
    bool doubtful = false;
};

// A step at which the message of a lane is a seam.
struct Event {
    std::int64_t step;
    int lane;
    bool end;
};

// Chunks fill whole groups.
inline std::int64_t chunk_size(std::int64_t length) {
    const std::int64_t groups = std::clamp<std::int64_t>((length + LANES * CHUNK / 2) / (LANES * CHUNK), 1, MOST_GROUPS);
    return (length + groups * LANES - 1) / (groups * LANES);
}

// Lanes of chains, longest first, so that groups hold like lengths. How a chain is cut depends on its own length only.
inline std::vector<Lane> lanes_of(const Chains& c, const std::vector<std::int64_t>& rows, bool may_cut) {
    std::vector<Lane> found;
    for (const std::int64_t row : rows) {
        const std::int64_t length = c.lengths[row];
        if (length < CUT || !may_cut) {
            found.push_back({row, c.begins[row], length, 0, length, true, false});
            continue;
        }
        const std::int64_t size = chunk_size(length);
        for (std::int64_t low = 0; low < length; low += size) {
            const std::int64_t high = std::min(low + size, length);
            const std::int64_t first = std::max<std::int64_t>(low - WARM_UP, 0), last = std::min(high + WARM_UP, length);
            found.push_back({row, c.begins[row] + first, last - first, low - first, high - first, low == 0, true});
        }
    }
    std::stable_sort(found.begin(), found.end(), [](const Lane& a, const Lane& b) { return a.count > b.count; });
    while (found.size() % LANES) found.push_back({});
    return found;
}

// after[j] = sum_i matrix[j, i] before[i], for all lanes; four rows at a time, to use what is loaded.
template <int FIXED>
inline void product(const double* matrix, const Vec* before, Vec* after, int states) {
    const std::ptrdiff_t n = FIXED ? FIXED : states;
    std::ptrdiff_t j = 0;
    if constexpr (FIXED == 0 || FIXED >= 4)
        for (; j + 4 <= n; j += 4) {
            const double* row = matrix + j * n;
            Vec found[4][PARTS];
            for (int p = 0; p < PARTS; ++p)
                for (int q = 0; q < 4; ++q) found[q][p] = row[q * n] * before[p];
            for (std::ptrdiff_t i = 1; i < n; ++i)
                for (int p = 0; p < PARTS; ++p)
                    for (int q = 0; q < 4; ++q) found[q][p] += row[q * n + i] * before[i * PARTS + p];
            for (int q = 0; q < 4; ++q)
                for (int p = 0; p < PARTS; ++p) after[(j + q) * PARTS + p] = found[q][p];
        }
    for (; j < n; ++j) {
        const double* row = matrix + j * n;
        for (int p = 0; p < PARTS; ++p) {
            Vec found = row[0] * before[p];
            for (std::ptrdiff_t i = 1; i < n; ++i) found += row[i] * before[i * PARTS + p];
            after[j * PARTS + p] = found;
        }
    }
}

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
            load_tile(start, here, reinterpret_cast<double*>(emitted));
            scale<FIXED>(emitted, here, tops);
            for (std::int64_t s = 0; s < here; ++s) {
                const std::int64_t t = start + s;
                Vec* e = emitted + s * block;
                if (t == 0)
                    begin(now);
                else
                    product<FIXED>(into.data(), before, now, n);
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

    // Smooths the lanes after `forward`: marginals times the weights for the bodies of lanes that are not doubtful;
    // slopes [K][K][lane] and initial slopes [K][lane], not weighted.
    template <int FIXED>
    void backward(const Vec* alpha, const Vec* scaled, const LaneResult* results, const Posterior& out, Vec* slopes,
                  Vec* initial_slopes, Seams* seams) {
        const int n = FIXED ? FIXED : states_;
        const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(n) * PARTS;
        const std::int64_t tile = tile_steps();
        Scratch& scratch = scratch_small();
        Vec* behind = reinterpret_cast<Vec*>(scratch.take((2 + 2 * tile) * block * WIDTH));
        Vec *ahead = behind + block, *pairs = ahead + block, *probs = pairs + tile * block;
        for (std::ptrdiff_t x = 0; x < block; ++x) behind[x] = all(1.0), ahead[x] = Vec{};
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
                    product<FIXED>(matrix_, ahead, behind, n);
                else
                    for (std::ptrdiff_t x = 0; x < block; ++x) initial_slopes[x] = ahead[x];
            }
            add_pairs<FIXED>(alpha + start * block, pairs, here, slopes);
            store_tile(start, here, reinterpret_cast<const double*>(probs), results, out);
        }
    }

    static Scratch& scratch_small() {
        static thread_local Scratch held;
        return held;
    }

  private:
    std::int64_t tile_steps() const { return std::clamp<std::int64_t>(128 / states_, 1, 16); }

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

    void load_tile(std::int64_t start, std::int64_t here, double* to) const {
        if (c_.wide)
            load_lanes(c_.wide, start, here, to);
        else
            load_lanes(c_.narrow, start, here, to);
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

    // slopes[i][j] += sum over the steps of alpha[i] * pairs[j].
    template <int FIXED>
    static void add_block(const Vec* alpha, const Vec* pairs, std::int64_t here, Vec* slopes, int n, int i, int j, int rows,
                          int columns) {
        const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(n) * PARTS;
        for (int p = 0; p < PARTS; ++p)
            for (int r = 0; r < rows; ++r)
                for (int q = 0; q < columns; ++q) {
                    Vec found = slopes[((i + r) * n + j + q) * PARTS + p];
                    for (std::int64_t s = 0; s < here; ++s)
                        found += alpha[s * block + (i + r) * PARTS + p] * pairs[s * block + (j + q) * PARTS + p];
                    slopes[((i + r) * n + j + q) * PARTS + p] = found;
                }
    }

    template <int FIXED>
    void add_pairs(const Vec* alpha, const Vec* pairs, std::int64_t here, Vec* slopes) const {
        const int n = FIXED ? FIXED : states_;
        const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(n) * PARTS;
        constexpr int SIDE = 4;
        int i = 0;
        for (; i + SIDE <= n; i += SIDE) {
            int j = 0;
            for (; j + SIDE <= n; j += SIDE)
                for (int p = 0; p < PARTS; ++p) {
                    Vec found[SIDE][SIDE] = {};
                    for (std::int64_t s = 0; s < here; ++s) {
                        const Vec *a = alpha + s * block + i * PARTS + p, *b = pairs + s * block + j * PARTS + p;
                        for (int r = 0; r < SIDE; ++r)
                            for (int q = 0; q < SIDE; ++q) found[r][q] += a[r * PARTS] * b[q * PARTS];
                    }
                    for (int r = 0; r < SIDE; ++r)
                        for (int q = 0; q < SIDE; ++q) slopes[((i + r) * n + j + q) * PARTS + p] += found[r][q];
                }
            add_block<FIXED>(alpha, pairs, here, slopes, n, i, j, SIDE, n - j);
        }
        add_block<FIXED>(alpha, pairs, here, slopes, n, i, 0, n - i, n);
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
