// Mixtures in Python: checks of shapes, and the interpreter let go.
#include "mixture_module.h"

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

double whitened(In<double> loc, In<double> spread, Out<double> factors, Out<double> constant) {
    const Normals n = normals_of(loc, spread);
    needs(factors, "factors", {static_cast<std::size_t>(n.spreads), static_cast<std::size_t>(n.numbers())});
    needs(constant, "constant", {loc.shape(0)});
    return whiten(n, factors.data(), constant.data());
}

void natural(In<double> loc, In<double> spread, In<double> factors, In<double> constant, In<double> centre,
             Out<double> own, Out<double> squares) {
    const Normals n = normals_of(loc, spread);
    const std::size_t size = n.size, rest = n.numbers(), spreads = n.spreads;
    const bool apart = squares.size() > 0;
    needs(factors, "factors", {spreads, rest});
    needs(constant, "constant", {loc.shape(0)});
    needs(centre, "centre", {size});
    needs(own, "own", {loc.shape(0), 1 + size + (apart ? 0 : rest)});
    if (apart) needs(squares, "squares", {spreads, rest});
    coefficients(n, factors.data(), constant.data(), centre.data(), apart, own.data(), squares.data());
}

void residual(In<double> values, In<double> weights, In<double> loc, In<double> factors, In<double> constant,
              bool triangle, bool one_scale, Out<double> objective, Out<double> sums, int threads) {
    if (values.ndim() != 2 || factors.ndim() != 2) throw std::invalid_argument("needed: values [M, D], factors [G, W]");
    const std::size_t count = values.shape(0), size = values.shape(1), rows = loc.shape(0), groups = objective.size();
    const std::size_t numbers = triangle ? size * (size + 1) / 2 : one_scale ? 1 : size;
    const std::size_t spreads = factors.shape(0);
    needs(weights, "weights", {count});
    needs(loc, "loc", {rows, size});
    needs(factors, "factors", {spreads, numbers});
    needs(constant, "constant", {rows});
    if (!groups || rows % groups || (spreads != rows && spreads != groups))
        throw std::invalid_argument("needed: a spread for each component, or for each mixture");
    needs(sums, "sums", {rows, 1 + size + numbers});
    const Residuals given{one_scale ? Form::spherical : triangle ? Form::full : Form::diagonal,
                          static_cast<std::int64_t>(count),
                          static_cast<std::int64_t>(size),
                          static_cast<std::int64_t>(groups),
                          static_cast<std::int64_t>(rows / groups),
                          values.data(),
                          weights.data(),
                          loc.data(),
                          factors.data(),
                          constant.data(),
                          triangle,
                          spreads != rows,
                          objective.data(),
                          sums.data(),
                          threads};
    nb::gil_scoped_release free;
    kernels->residual(given);
}

double variance(In<double> loc, In<double> spread, In<double> sums, In<double> shared) {
    const Normals n = normals_of(loc, spread);
    const std::size_t size = n.size, rest = n.numbers(), apart = shared.size();
    if (apart) needs(shared, "shared", {rest});
    needs(sums, "sums", {loc.shape(0), 1 + size + (apart ? 0 : rest)});
    return least_variance(n, sums.data(), sums.shape(1), apart ? shared.data() : nullptr);
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
    if (centre.ndim() == 2)
        needs(centre, "centre", {count, size});
    else
        needs(centre, "centre", {size});
    if (least.size()) needs(least, "least", {size});
    needs(low, "low", {static_cast<std::size_t>(n.spreads)});
    maximise(n, {weight.data(), first.data(), second.data(), centre.data(), centre.ndim() == 2,
                 least.size() ? least.data() : nullptr, loc.data(), spread.data(), low.data()});
}

}  // namespace

void bind_mixtures(nb::module_& m, const MixtureKernels* best) {
    kernels = best;
    m.def("mixture_expected", &expected);
    m.def("mixture_residual", &residual);
    m.def("normal_whitened", &whitened);
    m.def("normal_natural", &natural);
    m.def("normal_variance", &variance);
    m.def("normal_maximum", &maximum);
}
