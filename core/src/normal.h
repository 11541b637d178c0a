// Log densities of normal components at points, and weighted sums of what is standardised: residuals are taken before
// anything is squared, so that no digits are lost however far from one another the components lie. Points stand side by
// side; what a point gives depends on itself alone, to the bit.
#pragma once
#include <vector>

#include "tables.h"
#include "vectors.h"

namespace LATENTVARS_ISA {

using latentvars::Normals;

constexpr int MOST_VECTORS = 8;                // of points in a block
constexpr std::int64_t POINTS_A_SHARE = 4096;  // whose sums are added up before shares are, whatever the threads

// A block of points, transposed: [D][vectors].
class Block {
  public:
    explicit Block(const Normals& n) : n_(n) {
        vectors_ = static_cast<int>(std::clamp<std::int64_t>(2048 / (n.features * WIDTH), 1, MOST_VECTORS));
        held_.take(2 * n.features * vectors_ * WIDTH);
        x_ = reinterpret_cast<Vec*>(held_.take(0));
        y_ = x_ + n.features * vectors_;
    }

    int vectors() const { return vectors_; }
    std::int64_t points() const { return static_cast<std::int64_t>(vectors_) * WIDTH; }
    const Vec* standardised() const { return y_; }

    // Points from `begin` on; those past `end` repeat the last.
    void load_points(std::int64_t begin, std::int64_t end) {
        double* to = reinterpret_cast<double*>(x_);
        for (std::int64_t p = 0; p < points(); ++p) {
            const double* from = n_.points + std::min(begin + p, end - 1) * n_.features;
            for (std::int64_t d = 0; d < n_.features; ++d) to[d * points() + p] = from[d];
        }
    }

    // y = W (x - loc) of one component, and sum y^2.
    template <bool FULL>
    void standardise(std::int64_t k, Vec* squares) {
        const double* loc = n_.loc + k * n_.features;
        const double* root = n_.root + k * n_.features * (FULL ? n_.features : 1);
        for (int v = 0; v < vectors_; ++v) squares[v] = Vec{};
        if constexpr (FULL) {
            for (std::int64_t i = 0; i < n_.features; ++i) {
                Vec found[MOST_VECTORS];
                const double* row = root + i * n_.features;
                for (int v = 0; v < vectors_; ++v) found[v] = row[0] * (x_[v] - loc[0]);
                for (std::int64_t j = 1; j <= i; ++j)
                    for (int v = 0; v < vectors_; ++v) found[v] += row[j] * (x_[j * vectors_ + v] - loc[j]);
                for (int v = 0; v < vectors_; ++v) {
                    y_[i * vectors_ + v] = found[v];
                    squares[v] += found[v] * found[v];
                }
            }
        } else {
            for (std::int64_t d = 0; d < n_.features; ++d)
                for (int v = 0; v < vectors_; ++v) {
                    const Vec y = root[d] * (x_[d * vectors_ + v] - loc[d]);
                    y_[d * vectors_ + v] = y;
                    squares[v] += y * y;
                }
        }
    }

  private:
    const Normals& n_;
    Scratch held_;
    Vec *x_, *y_;
    int vectors_;
};

// log N of the points begin .. end, [M, K].
template <bool FULL>
void normal_scores_of(const Normals& n, const double* constants, std::int64_t begin, std::int64_t end, double* scores) {
    Block block(n);
    std::vector<double> found(block.points() * n.components);
    for (std::int64_t low = begin; low < end; low += block.points()) {
        const std::int64_t here = std::min(block.points(), end - low);
        block.load_points(low, end);
        for (std::int64_t k = 0; k < n.components; ++k) {
            Vec squares[MOST_VECTORS];
            block.standardise<FULL>(k, squares);
            for (int v = 0; v < block.vectors(); ++v)
                store(&found[k * block.points() + v * WIDTH], constants[k] - 0.5 * squares[v]);
        }
        for (std::int64_t p = 0; p < here; ++p)
            for (std::int64_t k = 0; k < n.components; ++k)
                scores[(low + p) * n.components + k] = found[k * block.points() + p];
    }
}

// Numbers in the sums of a component: weight, y, and y y' (its lower half, or its diagonal).
inline std::int64_t sums_of(const Normals& n) {
    return 1 + n.features + (n.full ? n.features * (n.features + 1) / 2 : n.features);
}

// Sums over the points begin .. end with weights [M, K], added to [K][sums][WIDTH].
template <bool FULL>
void normal_sums_of(const Normals& n, const double* weights, std::int64_t begin, std::int64_t end, Vec* sums) {
    Block block(n);
    const std::int64_t size = sums_of(n), d = n.features;
    const int vectors = block.vectors();
    for (std::int64_t low = begin; low < end; low += block.points()) {
        const std::int64_t here = std::min(block.points(), end - low);
        block.load_points(low, end);
        for (std::int64_t k = 0; k < n.components; ++k) {
            Vec squares[MOST_VECTORS], weight[MOST_VECTORS], weighted[MOST_VECTORS];
            double held[MOST_VECTORS * WIDTH] = {};
            for (std::int64_t p = 0; p < here; ++p) held[p] = weights[(low + p) * n.components + k];
            for (int v = 0; v < vectors; ++v) weight[v] = load(held + v * WIDTH);
            block.standardise<FULL>(k, squares);
            const Vec* y = block.standardised();
            Vec* to = sums + k * size;
            for (int v = 0; v < vectors; ++v) to[0] += weight[v];
            std::int64_t at = 1 + d;
            for (std::int64_t i = 0; i < d; ++i) {
                Vec first = {};
                for (int v = 0; v < vectors; ++v) first += weighted[v] = weight[v] * y[i * vectors + v];
                to[1 + i] += first;
                for (std::int64_t j = FULL ? 0 : i; j <= i; ++j) {
                    Vec second = {};
                    for (int v = 0; v < vectors; ++v) second += weighted[v] * y[j * vectors + v];
                    to[at++] += second;
                }
            }
        }
    }
}

}  // namespace LATENTVARS_ISA
