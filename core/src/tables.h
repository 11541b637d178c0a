// What crosses from Python: views of arrays, owned by the caller.
#pragma once
#include <cstdint>

#include "features.h"

namespace latentvars {

// N chains with K states, in a table of M steps. Probabilities, not logs.
struct Chains {
    std::int64_t count;              // N
    std::int64_t states;             // K
    std::int64_t matrices;           // P
    std::int64_t moves;              // S: 1, or T-1 where each move has a matrix of its own
    const double* initial;           // [I, K]
    const std::int64_t* initial_of;  // [N]
    const double* transition;        // [P, S, K, K], from, to
    const std::int64_t* transition_of;  // [N]
    const double* wide;              // [M, K] log densities in double precision, nats; or
    const float* narrow;             //        in single precision; or
    const Observations* observed;    // what they come from
    const std::int64_t* begins;      // [N], first step of each chain in the table
    const std::int64_t* lengths;     // [N], at least 1
    int threads;
};

// What smoothing gives, times the weights of the chains; the arrays are zero at first.
struct Posterior {
    const double* weights;   // [N]
    bool by_chain;           // whether slopes are kept apart
    double* total;           // [N], log p(x), nats, not weighted
    double* wide;            // [M, K], p(z_t | x), in double precision; or
    float* narrow;           //         in single precision
    double* initial_slopes;  // [N, K], d log p(x) / d initial
    double* slopes;          // [P, S, K, K], or [N, S, K, K] by chain: d log p(x) / d transition
    double* sums;            // [K, F], of codes [C, K]: expected statistics of chains that are observed
};

// Points [M, D] and K normal components.
struct Normals {
    std::int64_t count, features, components;  // M, D, K
    const double* points;
    const double* loc;   // [K, D]
    const double* root;  // [K, D, D], lower triangular, whose product with x - loc is standard normal; or its diagonal [K, D]
    bool full;
    int threads;
};

// S points [S, P], row by row.
struct Points {
    std::int64_t count, size;
    const double *at, *weights;  // weights [S], or null
};

// One build of the kernels for each instruction set; the best that the processor has is taken at run time.
struct Kernels {
    bool (*evidence)(const Chains&, double* total);
    bool (*posterior)(const Chains&, const Posterior&);
    void (*filter)(const Chains&, double* states, double* steps, double* total);
    void (*smooth)(const Chains&, const double* states, const double* steps, const double* total, double* probs,
                   double* log_ahead);
    void (*paths)(const Chains&, std::int64_t* paths);
    void (*draws)(const Chains&, const double* states, const double* uniforms, std::int64_t draws, std::int64_t steps,
                  std::int64_t* paths);
    void (*normal_scores)(const Normals&, double* scores);
    void (*normal_sums)(const Normals&, const double* weights, double* sums);
    void (*exponentials)(double* x, std::int64_t size);
    void (*bits_wide)(const double* logits, const double* values, std::int64_t rows, std::int64_t size, int threads,
                      double* scores, double* slopes);
    void (*bits_narrow)(const float* logits, const float* values, std::int64_t rows, std::int64_t size, int threads,
                        float* scores, float* slopes);
    void (*gelu)(const float* x, std::int64_t size, int threads, float* values, float* slopes);
    void (*nearest)(const Points&, const double* centres, std::int64_t groups, std::int64_t* labels);
    void (*lloyd)(const Points&, double* centres, std::int64_t groups, int steps);
    void (*seeds)(const Points&, const double* uniforms, std::int64_t groups, std::int64_t* chosen);
};

}  // namespace latentvars
