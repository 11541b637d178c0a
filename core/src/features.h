// By which the core knows what an exponential family reads of an observation.
#pragma once
#include <cstddef>
#include <cstdint>

namespace latentvars {

// Features of an observation of D numbers about a centre.
enum class Form : int {
    table = 0,      // given
    linear = 1,     // 1, x
    diagonal = 2,   // 1, x, x^2
    spherical = 3,  // 1, x, |x|^2
    full = 4,       // 1, x, x_i x_j with i <= j, row by row
    codes = 5,      // an indicator of each code 0 .. C-1, of one number
    // not features but normals themselves, by residuals, which keep their digits however far apart the states are
    apart = 6,      // of independent numbers: log density at the mean, means, 1 / standard deviations
    whitened = 7,   // log density at the mean, means, lower triangle of W row by row, W' W the precision
};

// F of D numbers.
inline std::size_t features_of(Form form, std::size_t size) {
    switch (form) {
        case Form::linear: return 1 + size;
        case Form::diagonal: return 1 + 2 * size;
        case Form::spherical: return 2 + size;
        case Form::apart: return 1 + 2 * size;
        case Form::codes: return 1;
        default: return 1 + size + size * (size + 1) / 2;
    }
}

inline bool of_residuals(Form form) { return form == Form::apart || form == Form::whitened; }

// M observations of an exponential family in each of K states: log f(x | k) = natural[k] . t(x), t(x) about a centre.
struct Observations {
    Form form;
    std::int64_t size;       // D
    std::int64_t features;   // F, or numbers of a normal; 1 of codes
    std::int64_t codes;      // C
    const double* values;    // [M, D]
    const double* centre;    // [D]
    const double* natural;   // [K, F]; of codes [C, K]
    const double *scaled, *tops;  // of codes: probabilities over the largest of each [C, K], and its logarithm [C]
};

}  // namespace latentvars
