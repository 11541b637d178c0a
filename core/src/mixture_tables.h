// What crosses from Python for mixtures: views of arrays, owned by the caller.
#pragma once
#include <cstdint>

#include "features.h"

namespace latentvars {

// S mixtures of K components on the same M observations.
struct Mixtures {
    Form form;
    std::int64_t count;     // M
    std::int64_t size;      // D
    std::int64_t features;  // F
    std::int64_t groups;    // S
    std::int64_t components;  // K
    const double* values;   // [M, D], or the features themselves [F, M]
    const double* centre;   // [D]
    const double* weights;  // [M]
    const double* natural;  // [S * K, F], the logarithms of the weights of the components included
    double* objective;      // [S], sum of w log p(x), nats
    double* sums;           // [S * K, F], sum of w r t(x)
    int threads;
};

// The same by residuals about the mean of each component: for components far apart, where features lose digits.
struct Residuals {
    Form form;  // linear: one precision for all
    std::int64_t count, size, groups, components;
    const double* values;    // [M, D]
    const double* weights;   // [M]
    const double* loc;       // [S * K, D]
    const double* whiten;    // [S * K, W]: lower triangle row by row (full), D numbers (diagonal), one (spherical);
                             // [S, W] where it is shared: a triangle or D numbers, as `triangle` says
    const double* constant;  // [S * K], log densities at the mean, those of the weights included
    bool triangle, shared;
    double* objective;       // [S]
    double* sums;            // [S * K, F], F as in the form of features, but for a shared one: all of them
    int threads;
};

struct MixtureKernels {
    void (*expected)(const Mixtures&);
    void (*residual)(const Residuals&);
};

}  // namespace latentvars
