// The kernels as a Python module: checks of shapes, the choice of the instruction set, and the interpreter let go.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "mixture_module.h"
#include "seeds.h"
#include "shapes.h"
#include "tables.h"

using namespace nb::literals;

#define LATENTVARS_DECLARE(isa)                 \
    namespace isa {                             \
    extern const latentvars::Kernels kernels; \
    extern const latentvars::MixtureKernels mixture_kernels; \
    }
LATENTVARS_DECLARE(baseline)
#ifdef LATENTVARS_X86
LATENTVARS_DECLARE(x86_64_v3)
LATENTVARS_DECLARE(x86_64_v4)
#endif

namespace {

using latentvars::Chains;
using latentvars::Form;
using latentvars::Kernels;
using latentvars::Normals;
using latentvars::Observations;
using latentvars::Posterior;

template <class T, class Kernel>
void bernoulli_rows(Kernel kernel, const In<T>& logits, const In<T>& values, int threads, const Out<T>& scores,
                    const Out<T>& slopes) {
    if (logits.ndim() != 2) throw std::invalid_argument("logits: [M, D] is needed");
    const std::size_t rows = logits.shape(0), size = logits.shape(1);
    needs(values, "values", {rows, size});
    needs(scores, "scores", {rows});
    needs(slopes, "slopes", {rows, size});
    nb::gil_scoped_release free;
    kernel(logits.data(), values.data(), rows, size, threads, scores.data(), slopes.data());
}

latentvars::Points points_of(const In<double>& at, const double* weights) {
    if (at.ndim() != 2) throw std::invalid_argument("points: [S, P] is needed");
    return {static_cast<std::int64_t>(at.shape(0)), static_cast<std::int64_t>(at.shape(1)), at.data(), weights};
}

struct Build {
    const Kernels* kernels;
    const latentvars::MixtureKernels* mixtures;
    const char* name;
};

Build best() {
#ifdef LATENTVARS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        return {&x86_64_v4::kernels, &x86_64_v4::mixture_kernels, "x86-64-v4"};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {&x86_64_v3::kernels, &x86_64_v3::mixture_kernels, "x86-64-v3"};
#endif
    return {&baseline::kernels, &baseline::mixture_kernels, "baseline"};
}

const Build build = best();

using Table = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

void check_inside(const Chains& c, std::size_t steps, std::size_t laws) {
    for (std::int64_t row = 0; row < c.count; ++row) {
        const std::int64_t begin = c.begins[row], length = c.lengths[row];
        const bool inside = begin >= 0 && length >= 1 && static_cast<std::size_t>(begin + length) <= steps &&
                            static_cast<std::size_t>(c.initial_of[row]) < laws &&
                            c.transition_of[row] >= 0 && c.transition_of[row] < c.matrices &&
                            (c.moves == 1 || length - 1 <= c.moves);
        if (!inside) throw std::invalid_argument("chain " + std::to_string(row) + " lies outside its table");
    }
}

// Chains whose arrays stay alive as long as they do.
struct Given {
    In<double> initial, transition;
    In<std::int64_t> initial_of, transition_of, begins, lengths;
    Table emission;
    Chains chains{};
    std::size_t steps = 0;

    Given(In<double> initial, In<std::int64_t> initial_of, In<double> transition, In<std::int64_t> transition_of,
          Table emission, In<std::int64_t> begins, In<std::int64_t> lengths, int threads)
        : initial(initial), transition(transition), initial_of(initial_of), transition_of(transition_of),
          begins(begins), lengths(lengths), emission(emission) {
        if (emission.ndim() != 2 || initial.ndim() != 2 || transition.ndim() != 4)
            throw std::invalid_argument("needed: initial [I, K], transition [P, S, K, K], log emission [M, K]");
        const std::size_t states = initial.shape(1), count = lengths.size();
        steps = emission.shape(0);
        needs(emission, "log emission", {steps, states});
        needs(transition, "transition", {transition.shape(0), transition.shape(1), states, states});
        needs(initial_of, "initial_of", {count});
        needs(transition_of, "transition_of", {count});
        needs(begins, "begins", {count});
        chains.count = count, chains.states = states, chains.threads = threads;
        chains.matrices = transition.shape(0), chains.moves = transition.shape(1);
        chains.initial = initial.data(), chains.initial_of = initial_of.data();
        chains.transition = transition.data(), chains.transition_of = transition_of.data();
        chains.begins = begins.data(), chains.lengths = lengths.data();
        if (emission.dtype() == nb::dtype<double>())
            chains.wide = static_cast<const double*>(emission.data());
        else if (emission.dtype() == nb::dtype<float>())
            chains.narrow = static_cast<const float*>(emission.data());
        else
            throw std::invalid_argument("log emission: float64 or float32 is needed");
        check_inside(chains, steps, initial.shape(0));
    }
};

// The same with one law, whose emissions are worked out of what was observed.
struct Observed {
    In<double> values, centre, natural, initial, transition;
    In<std::int64_t> begins, lengths;
    std::vector<std::int64_t> first;   // all chains have the first law
    std::vector<double> scaled, tops;  // of codes
    Observations observations{};
    Chains chains{};

    Observed(int form, In<double> values, In<double> centre, In<double> natural, In<double> initial,
             In<double> transition, In<std::int64_t> begins, In<std::int64_t> lengths, int threads)
        : values(values), centre(centre), natural(natural), initial(initial), transition(transition), begins(begins),
          lengths(lengths), first(lengths.size(), 0) {
        if (values.ndim() != 2 || natural.ndim() != 2 || form < 1 || form > 7)
            throw std::invalid_argument("needed: values [M, D], natural [K, F], a form from 1 to 7");
        const bool codes = static_cast<Form>(form) == Form::codes;
        const std::size_t states = initial.size(), count = lengths.size(), size = values.shape(1);
        const std::size_t features = features_of(static_cast<Form>(form), size);
        if (codes)
            needs(natural, "natural", {natural.shape(0), states});
        else
            needs(natural, "natural", {states, features});
        needs(centre, "centre", {size});
        needs(transition, "transition", {states, states});
        needs(begins, "begins", {count});
        observations = {static_cast<Form>(form), static_cast<std::int64_t>(size), static_cast<std::int64_t>(features),
                        codes ? static_cast<std::int64_t>(natural.shape(0)) : 1,
                        values.data(), centre.data(), natural.data(), nullptr, nullptr};
        chains.count = count, chains.states = states, chains.matrices = chains.moves = 1, chains.threads = threads;
        chains.initial = initial.data(), chains.initial_of = first.data();
        chains.transition = transition.data(), chains.transition_of = first.data();
        chains.begins = begins.data(), chains.lengths = lengths.data();
        chains.observed = &observations;
        check_inside(chains, values.shape(0), 1);
        if (codes) check_codes(), scale_codes();
    }
    Observed(const Observed&) = delete;

  private:
    void scale_codes() {
        const std::int64_t states = chains.states;
        scaled.resize(observations.codes * states), tops.resize(observations.codes);
        for (std::int64_t c = 0; c < observations.codes; ++c) {
            const double* row = observations.natural + c * states;
            tops[c] = *std::max_element(row, row + states);
            for (std::int64_t k = 0; k < states; ++k) scaled[c * states + k] = std::exp(row[k] - tops[c]);
        }
        observations.scaled = scaled.data(), observations.tops = tops.data();
    }

    void check_codes() const {
        const double most = static_cast<double>(observations.codes);
        for (std::int64_t row = 0; row < chains.count; ++row) {
            const double* from = observations.values + chains.begins[row];
            bool fine = true;
            for (std::int64_t step = 0; step < chains.lengths[row]; ++step) {
                const bool inside = (from[step] >= 0) & (from[step] < most);
                const double code = inside ? from[step] : 0.0;
                fine &= inside & (code == static_cast<double>(static_cast<std::int32_t>(code)));
            }
            for (std::int64_t step = 0; !fine && step < chains.lengths[row]; ++step)
                if (!(from[step] >= 0 && from[step] < most && from[step] == std::floor(from[step])))
                    throw std::invalid_argument("code " + std::to_string(from[step]) + " is none");
        }
    }
};

Normals normals(const In<double>& points, const In<double>& loc, const In<double>& root, int threads) {
    if (points.ndim() != 2 || loc.ndim() != 2) throw std::invalid_argument("needed: points [M, D], loc [K, D]");
    const std::size_t features = points.shape(1), components = loc.shape(0);
    needs(loc, "loc", {components, features});
    if (root.ndim() == 2)
        needs(root, "root", {components, features});
    else
        needs(root, "root", {components, features, features});
    return {static_cast<std::int64_t>(points.shape(0)), static_cast<std::int64_t>(features),
            static_cast<std::int64_t>(components), points.data(), loc.data(), root.data(), root.ndim() == 3, threads};
}

}  // namespace

NB_MODULE(_core, m) {
    m.attr("instructions") = build.name;
    bind_mixtures(m, build.mixtures);

    nb::class_<Given>(m, "Chains", "Chains in a table of steps")
        .def(nb::init<In<double>, In<std::int64_t>, In<double>, In<std::int64_t>, Table, In<std::int64_t>,
                      In<std::int64_t>, int>());
    nb::class_<Observed>(m, "Observed", "Chains with one law, and what was observed of them")
        .def(nb::init<int, In<double>, In<double>, In<double>, In<double>, In<double>, In<std::int64_t>,
                      In<std::int64_t>, int>());

    m.def("evidence", [](const Given& given, Out<double> total) {
        needs(total, "total", {static_cast<std::size_t>(given.chains.count)});
        nb::gil_scoped_release free;
        build.kernels->evidence(given.chains, total.data());
    });

    m.def("posterior", [](const Given& given, In<double> weights, bool by_chain, Out<double> total,
                          nb::ndarray<nb::c_contig, nb::device::cpu> marginals, Out<double> initial_slopes,
                          Out<double> slopes) {
        const Chains& c = given.chains;
        const std::size_t count = c.count, states = c.states, moves = c.moves;
        needs(weights, "weights", {count});
        needs(total, "total", {count});
        needs(marginals, "marginals", {given.steps, states});
        needs(initial_slopes, "initial_slopes", {count, states});
        needs(slopes, "slopes", {by_chain ? count : static_cast<std::size_t>(c.matrices), moves, states, states});
        Posterior out{weights.data(), by_chain, total.data(), nullptr, nullptr, initial_slopes.data(), slopes.data(),
                      nullptr};
        if (c.wide && marginals.dtype() == nb::dtype<double>())
            out.wide = static_cast<double*>(marginals.data());
        else if (c.narrow && marginals.dtype() == nb::dtype<float>())
            out.narrow = static_cast<float*>(marginals.data());
        else
            throw std::invalid_argument("marginals: the dtype of log emission is needed");
        nb::gil_scoped_release free;
        build.kernels->posterior(c, out);
    });

    m.def("observed_evidence", [](const Observed& given, Out<double> total) {
        needs(total, "total", {static_cast<std::size_t>(given.chains.count)});
        nb::gil_scoped_release free;
        return build.kernels->evidence(given.chains, total.data());
    });

    m.def("expected", [](const Observed& given, In<double> weights, Out<double> total, Out<double> initial_slopes,
                         Out<double> slopes, Out<double> sums) {
        const std::size_t count = given.chains.count, states = given.chains.states;
        needs(weights, "weights", {count});
        needs(total, "total", {count});
        needs(initial_slopes, "initial_slopes", {count, states});
        needs(slopes, "slopes", {states, states});
        needs(sums, "sums", {given.natural.shape(0), given.natural.shape(1)});
        if (latentvars::of_residuals(given.observations.form)) throw std::invalid_argument("sums are those of features");
        const Posterior out{weights.data(),        false,        total.data(), nullptr, nullptr,
                            initial_slopes.data(), slopes.data(), sums.data()};
        nb::gil_scoped_release free;
        return build.kernels->posterior(given.chains, out);
    });

    m.def("filter", [](const Given& given, Out<double> states, Out<double> steps, Out<double> total) {
        const std::size_t size = given.chains.states;
        needs(states, "states", {given.steps, size});
        needs(steps, "steps", {given.steps});
        needs(total, "total", {static_cast<std::size_t>(given.chains.count)});
        nb::gil_scoped_release free;
        build.kernels->filter(given.chains, states.data(), steps.data(), total.data());
    });

    m.def("smooth", [](const Given& given, In<double> states, In<double> steps, In<double> total, Out<double> probs,
                       Out<double> log_ahead) {
        const std::size_t size = given.chains.states;
        needs(states, "states", {given.steps, size});
        needs(steps, "steps", {given.steps});
        needs(total, "total", {static_cast<std::size_t>(given.chains.count)});
        needs(probs, "probs", {given.steps, size});
        needs(log_ahead, "log_ahead", {given.steps, size});
        nb::gil_scoped_release free;
        build.kernels->smooth(given.chains, states.data(), steps.data(), total.data(), probs.data(), log_ahead.data());
    });

    m.def("paths", [](const Given& given, Out<std::int64_t> paths) {
        needs(paths, "paths", {given.steps});
        nb::gil_scoped_release free;
        build.kernels->paths(given.chains, paths.data());
    });

    m.def("draws", [](const Given& given, In<double> states, In<double> uniforms, Out<std::int64_t> paths) {
        needs(states, "states", {given.steps, static_cast<std::size_t>(given.chains.states)});
        if (uniforms.ndim() != 2) throw std::invalid_argument("uniforms: [R, M] is needed");
        needs(uniforms, "uniforms", {uniforms.shape(0), given.steps});
        needs(paths, "paths", {uniforms.shape(0), given.steps});
        nb::gil_scoped_release free;
        build.kernels->draws(given.chains, states.data(), uniforms.data(), uniforms.shape(0), given.steps, paths.data());
    });

    m.def("normal_scores", [](In<double> points, In<double> loc, In<double> root, int threads, Out<double> scores) {
        const Normals given = normals(points, loc, root, threads);
        needs(scores, "scores", {points.shape(0), loc.shape(0)});
        nb::gil_scoped_release free;
        build.kernels->normal_scores(given, scores.data());
    });

    m.def("normal_sums", [](In<double> points, In<double> loc, In<double> root, In<double> weights, int threads,
                            Out<double> sums) {
        const Normals given = normals(points, loc, root, threads);
        const std::size_t features = points.shape(1);
        needs(weights, "weights", {points.shape(0), loc.shape(0)});
        needs(sums, "sums", {loc.shape(0), 1 + features + (given.full ? features * (features + 1) / 2 : features)});
        nb::gil_scoped_release free;
        build.kernels->normal_sums(given, weights.data(), sums.data());
    });

    m.def("bernoulli_rows", [](In<double> logits, In<double> values, int threads, Out<double> scores, Out<double> slopes) {
        bernoulli_rows(build.kernels->bits_wide, logits, values, threads, scores, slopes);
    });
    m.def("bernoulli_rows", [](In<float> logits, In<float> values, int threads, Out<float> scores, Out<float> slopes) {
        bernoulli_rows(build.kernels->bits_narrow, logits, values, threads, scores, slopes);
    });

    m.def("gelu", [](In<float> x, int threads, Out<float> values, Out<float> slopes) {
        if (values.size() != x.size() || slopes.size() != x.size())
            throw std::invalid_argument("values and slopes: as many numbers as x are needed");
        nb::gil_scoped_release free;
        build.kernels->gelu(x.data(), x.size(), threads, values.data(), slopes.data());
    });

    m.def("nearest", [](In<double> at, In<double> centres, Out<std::int64_t> labels) {
        const latentvars::Points points = points_of(at, nullptr);
        needs(centres, "centres", {centres.shape(0), at.shape(1)});
        needs(labels, "labels", {at.shape(0)});
        nb::gil_scoped_release free;
        build.kernels->nearest(points, centres.data(), centres.shape(0), labels.data());
    });

    m.def("lloyd", [](In<double> at, In<double> weights, Out<double> centres, int steps) {
        const latentvars::Points points = points_of(at, weights.data());
        needs(weights, "weights", {at.shape(0)});
        needs(centres, "centres", {centres.shape(0), at.shape(1)});
        nb::gil_scoped_release free;
        build.kernels->lloyd(points, centres.data(), centres.shape(0), steps);
    });

    m.def("seeds", [](In<double> at, In<double> weights, In<double> uniforms, Out<std::int64_t> chosen) {
        const latentvars::Points points = points_of(at, weights.data());
        needs(weights, "weights", {at.shape(0)});
        needs(chosen, "chosen", {uniforms.shape(0)});
        if (at.shape(0) == 0) throw std::invalid_argument("points: at least one is needed");
        nb::gil_scoped_release free;
        build.kernels->seeds(points, uniforms.data(), uniforms.shape(0), chosen.data());
    });

    m.def("seed_words", [](nb::args numbers) {
        latentvars::SeedWords words;
        for (const nb::handle number : numbers) words.add(nb::cast<std::uint64_t>(number));
        const auto found = words.state();
        return nb::make_tuple(found[0], found[1]);
    });

    m.def("exponentials", [](Out<double> x) { build.kernels->exponentials(x.data(), x.size()); },
          "exp in place for x <= 0; 0 below -600");
}
