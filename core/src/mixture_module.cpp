// Mixtures in Python: checks of shapes, and the interpreter let go.
#include "mixture_module.h"

#include <nanobind/stl/pair.h>

#include <limits>
#include <utility>
#include <vector>

#include "normals.h"
#include "shapes.h"

using namespace latentvars;

namespace {

const MixtureKernels* kernels = nullptr;

void expected(int form, In<double> values, In<double> centre, In<double> weights, In<double> natural,
              Out<double> objective, Out<double> sums, int threads) {
    if (values.ndim() != 2 || natural.ndim() != 2 || form < 0 || form > 4)
        throw std::invalid_argument("needed: values [M, D] or [F, M], natural [S * K, F], a form from 0 to 4");
    const bool table = form == 0;
    const std::size_t count = values.shape(table ? 1 : 0), size = table ? 0 : values.shape(1);
    const std::size_t features = table ? values.shape(0) : features_of(static_cast<Form>(form), size);
    const std::size_t rows = natural.shape(0), groups = objective.size();
    needs(weights, "weights", {count});
    needs(natural, "natural", {rows, features});
    needs(sums, "sums", {rows, features});
    if (!table) needs(centre, "centre", {size});
    if (!groups || rows % groups) throw std::invalid_argument("objective is not that of whole mixtures");
    const Mixtures given{static_cast<Form>(form),
                         static_cast<std::int64_t>(count),
                         static_cast<std::int64_t>(size),
                         static_cast<std::int64_t>(features),
                         static_cast<std::int64_t>(groups),
                         static_cast<std::int64_t>(rows / groups),
                         values.data(),
                         centre.data(),
                         weights.data(),
                         natural.data(),
                         objective.data(),
                         sums.data(),
                         threads};
    nb::gil_scoped_release free;
    kernels->expected(given);
}

Normals normals_of(const In<double>& loc, const In<double>& spread) {
    if (loc.ndim() != 2 || spread.ndim() < 1 || spread.ndim() > 3)
        throw std::invalid_argument("needed: loc [B, D], and covariance [G, D, D] or scale [G, D] or [G]");
    const std::size_t count = loc.shape(0), size = loc.shape(1), spreads = spread.shape(0);
    if (spread.ndim() == 3) needs(spread, "covariance", {spreads, size, size});
    if (spread.ndim() == 2) needs(spread, "scale", {spreads, size});
    if (!spreads || count % spreads) throw std::invalid_argument("each spread is that of as many components");
    return {spread.ndim() == 3,
            spread.ndim() == 1,
            static_cast<std::int64_t>(count),
            static_cast<std::int64_t>(spreads),
            static_cast<std::int64_t>(size),
            loc.data(),
            spread.data()};
}

// What the E-step of S mixtures of normals works with.
struct NormalStep {
    Normals normals;
    std::int64_t count, groups;
    const double *values, *weights;  // [M, D], [M]
    double *objective, *sums;        // [S], [S * K, 1 + D + R]
    std::vector<double> factors, constant;
    int threads;

    std::int64_t rest() const { return normals.numbers(); }
    std::int64_t width() const { return 1 + normals.size + rest(); }
    bool apart() const { return normals.spreads != normals.count; }

    // By products of features about a centre, those of shared squares from `shared` [R], their sums over all points.
    void by_features(const double* centre, const double* shared) {
        const std::int64_t d = normals.size, rows = normals.count, own = apart() ? 1 + d : width();
        std::vector<double> natural(rows * own), squares(apart() ? normals.spreads * rest() : 0), found(apart() ? rows * own : 0);
        const Normals& n = normals;
        coefficients(n, factors.data(), constant.data(), centre, apart(), natural.data(), squares.data());
        const Form form = apart() ? Form::linear : n.matrix ? Form::full : n.one_scale ? Form::spherical : Form::diagonal;
        kernels->expected({form, count, d, own, groups, rows / groups, values, centre, weights, natural.data(), objective,
                           apart() ? found.data() : sums, threads});
        if (!apart()) return;
        for (std::int64_t s = 0; s < groups; ++s)
            for (std::int64_t r = 0; r < rest(); ++r) objective[s] += squares[s * rest() + r] * shared[r];
        for (std::int64_t b = 0; b < rows; ++b) {
            std::copy_n(found.data() + b * own, own, sums + b * width());
            for (std::int64_t r = 0; r < rest(); ++r) sums[b * width() + own + r] = shared[r] / (rows / groups);
        }
    }

    // By residuals, about the mean of each component: right however far apart the components are.
    void by_residuals() {
        const Normals& n = normals;
        const Form form = n.one_scale ? Form::spherical : n.matrix ? Form::full : Form::diagonal;
        kernels->residual({form, count, n.size, groups, n.count / groups, values, weights, n.loc, factors.data(),
                           constant.data(), n.matrix, apart(), objective, sums, threads});
    }
};

// Gives whether the sums are about the means, not about the centre, and the largest 1 / standard deviation.
std::pair<bool, double> normal_expected(In<double> values, In<double> weights, In<double> centre, In<double> shares,
                                        In<double> loc, In<double> spread, In<double> shared, double reach,
                                        double widest, Out<double> objective, Out<double> sums, int threads) {
    const Normals n = normals_of(loc, spread);
    const std::size_t size = n.size, rest = n.numbers(), rows = n.count, groups = objective.size();
    if (values.ndim() != 2) throw std::invalid_argument("needed: values [M, D]");
    needs(values, "values", {values.shape(0), size});
    needs(weights, "weights", {values.shape(0)});
    needs(centre, "centre", {size});
    if (!groups || rows % groups || (n.spreads != n.count && static_cast<std::size_t>(n.spreads) != groups))
        throw std::invalid_argument("needed: a spread for each component, or for each mixture");
    needs(shares, "shares", {groups, rows / groups});
    needs(sums, "sums", {rows, 1 + size + rest});
    NormalStep step{n, static_cast<std::int64_t>(values.shape(0)), static_cast<std::int64_t>(groups), values.data(),
                    weights.data(), objective.data(), sums.data(), std::vector<double>(n.spreads * rest),
                    std::vector<double>(rows), threads};
    if (step.apart() && shared.size()) needs(shared, "shared", {rest});
    nb::gil_scoped_release free;
    const double sharpest = whiten(n, step.factors.data(), step.constant.data());
    for (std::size_t b = 0; b < rows; ++b) step.constant[b] += std::log(shares.data()[b]);
    if (sharpest * reach < widest) {
        const bool apart = step.apart();
        step.by_features(centre.data(), apart ? shared.data() : nullptr);
        // the squares of a few rows say nothing of their spread
        const bool enough = values.shape(0) > size * (rows / groups);
        const double least = enough ? least_variance(n, sums.data(), 1 + size + rest, apart ? shared.data() : nullptr)
                                    : std::numeric_limits<double>::infinity();
        if (!(least * widest * widest < reach * reach)) return {false, sharpest};
    }
    step.by_residuals();
    return {true, sharpest};
}

// Coefficients [B, 1 + D + R] of features about a centre; gives the largest 1 / standard deviation, infinite where there
// are none to be given.
double normal_natural(In<double> loc, In<double> spread, In<double> centre, Out<double> natural) {
    const Normals n = normals_of(loc, spread);
    needs(centre, "centre", {static_cast<std::size_t>(n.size)});
    needs(natural, "natural", {loc.shape(0), static_cast<std::size_t>(1 + n.size + n.numbers())});
    std::vector<double> factors(n.spreads * n.numbers()), constant(n.count);
    const double sharpest = whiten(n, factors.data(), constant.data());
    if (std::isfinite(sharpest))
        coefficients(n, factors.data(), constant.data(), centre.data(), false, natural.data(), nullptr);
    return sharpest;
}

// Sums of features [B, 1 + D + R] with the products written out, [B, D, D] or [B, D].
struct Unpacked {
    std::vector<double> weight, first, second;

    Unpacked(const Normals& n, const double* sums) : weight(n.count), first(n.count * n.size) {
        const std::int64_t d = n.size, rest = n.numbers(), each = n.matrix ? d * d : d;
        second.resize(n.count * each);
        for (std::int64_t b = 0; b < n.count; ++b, sums += 1 + d + rest) {
            weight[b] = sums[0];
            std::copy_n(sums + 1, d, first.begin() + b * d);
            const double* from = sums + 1 + d;
            double* to = second.data() + b * each;
            for (std::int64_t i = 0; i < d; ++i) {
                if (!n.matrix) to[i] = n.one_scale ? from[0] / d : from[i];
                for (std::int64_t j = i; n.matrix && j < d; ++j) to[i * d + j] = to[j * d + i] = *from++;
            }
        }
    }
};

void check_places(const Normals& n, const In<double>& centre, const In<double>& least, const Out<std::uint8_t>& low) {
    const std::size_t count = n.count, size = n.size;
    if (centre.ndim() == 2)
        needs(centre, "centre", {count, size});
    else
        needs(centre, "centre", {size});
    if (least.size()) needs(least, "least", {size});
    needs(low, "low", {static_cast<std::size_t>(n.spreads)});
}

void maximum(In<double> weight, In<double> first, In<double> second, In<double> centre, In<double> least,
             Out<double> loc, Out<double> spread, Out<std::uint8_t> low) {
    const Normals n = normals_of(In<double>(loc), In<double>(spread));
    const std::size_t count = loc.shape(0), size = loc.shape(1);
    needs(weight, "weight", {count});
    needs(first, "first", {count, size});
    if (n.matrix)
        needs(second, "second", {count, size, size});
    else
        needs(second, "second", {count, size});
    check_places(n, centre, least, low);
    maximise(n, {weight.data(), first.data(), second.data(), centre.data(), centre.ndim() == 2,
                 least.size() ? least.data() : nullptr, loc.data(), spread.data(), low.data()});
}

void maximum_of_sums(In<double> sums, In<double> centre, In<double> least, Out<double> loc, Out<double> spread,
                     Out<std::uint8_t> low) {
    const Normals n = normals_of(In<double>(loc), In<double>(spread));
    needs(sums, "sums", {loc.shape(0), static_cast<std::size_t>(1 + n.size + n.numbers())});
    check_places(n, centre, least, low);
    const Unpacked found(n, sums.data());
    maximise(n, {found.weight.data(), found.first.data(), found.second.data(), centre.data(), centre.ndim() == 2,
                 least.size() ? least.data() : nullptr, loc.data(), spread.data(), low.data()});
}

}  // namespace

void bind_mixtures(nb::module_& m, const MixtureKernels* best) {
    kernels = best;
    m.def("mixture_expected", &expected);
    m.def("normal_expected", &normal_expected);
    m.def("normal_natural", &normal_natural);
    m.def("normal_maximum", &maximum);
    m.def("normal_maximum_of_sums", &maximum_of_sums);
}
