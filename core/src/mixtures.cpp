// The E-step of mixtures of an exponential family, fused: posterior weights are never stored. Built once for each
// instruction set.
#include "mixtures.h"

namespace LATENTVARS_ISA {

using latentvars::MixtureKernels;
using latentvars::Residuals;

// Adds the parts up in their order.
void gather(const std::vector<double>& held, std::int64_t parts, std::int64_t groups, std::int64_t size,
            double* objective, double* sums) {
    std::fill_n(objective, groups, 0.0);
    std::fill_n(sums, size, 0.0);
    for (std::int64_t part = 0; part < parts; ++part) {
        const double* from = held.data() + part * (groups + size);
        for (std::int64_t s = 0; s < groups; ++s) objective[s] += from[s];
        for (std::int64_t x = 0; x < size; ++x) sums[x] += from[groups + x];
    }
}

constexpr double SMALL = 4e6;  // operations that waking other threads would cost

// As many as the work is worth.
int worth(double operations, int threads) { return operations < SMALL ? 1 : threads; }

void expected(const Mixtures& m) {
    const std::int64_t rows = m.groups * m.components, size = rows * m.features;
    const Cut cut(m.count, m.features + rows, size);
    const std::vector<double> panels = panels_of(m.natural, rows, m.features);
    std::vector<double> held(cut.parts * (m.groups + size), 0.0);
    const int threads = worth(double(m.count) * rows * (4 * m.features + 30), m.threads);
    each(cut.parts, threads, [&](std::int64_t part) {
        static thread_local Scratch scratch;
        const std::int64_t stride = stride_of(cut.chunk);
        double* features = scratch.take((m.features + rows + 1) * stride);
        double* joint = features + m.features * stride;
        double* weights = joint + rows * stride;
        double *objective = held.data() + part * (m.groups + size), *sums = objective + m.groups;
        const std::int64_t end = std::min(m.count, (part + 1) * cut.per_part);
        for (std::int64_t low = part * cut.per_part; low < end; low += cut.chunk) {
            const std::int64_t here = std::min(cut.chunk, end - low), width = (here + BLOCK - 1) / BLOCK * BLOCK;
            fill_features(m, low, here, width, features);
            std::copy_n(m.weights + low, here, weights);
            std::fill(weights + here, weights + width, 0.0);
            multiply(panels.data(), features, rows, m.features, width, joint);
            for (std::int64_t s = 0; s < m.groups; ++s)
                objective[s] += normalise(joint + s * m.components * stride_of(width), weights, m.components, width);
            add_products(joint, features, rows, m.features, width, sums);
        }
        scratch.release();
    });
    gather(held, cut.parts, m.groups, size, m.objective, m.sums);
}

// y = whiten * d for one component, |y|^2 is taken from `joint`, which begins at the constant.
void distances(const Residuals& m, const double* whiten, const double* d, std::int64_t width, double* y,
               double* joint) {
    const std::int64_t stride = stride_of(width);
    const double* next = whiten;
    for (std::int64_t i = 0; i < m.size; ++i) {
        const double* own = d + i * stride;
        if (m.triangle) {
            std::fill_n(y, width, 0.0);
            for (std::int64_t j = 0; j <= i; ++j, ++next)
                for (std::int64_t p = 0; p < width; ++p) y[p] += *next * d[j * stride + p];
        } else {
            const double scale = m.form == Form::spherical ? whiten[0] : whiten[i];
            for (std::int64_t p = 0; p < width; ++p) y[p] = scale * own[p];
        }
        for (std::int64_t p = 0; p < width; ++p) joint[p] -= 0.5 * y[p] * y[p];
    }
}

std::int64_t features_of(const Residuals& m) {
    if (m.triangle) return 1 + m.size + m.size * (m.size + 1) / 2;
    return m.form == Form::spherical ? 2 + m.size : 1 + 2 * m.size;
}

// Sums of w r (1, d, d d^T) about the mean of a component.
void add_residuals(const Residuals& m, const double* share, double* d, double* y, std::int64_t width, double* sums) {
    const std::int64_t stride = stride_of(width);
    double total = 0.0;
    for (std::int64_t p = 0; p < width; p += WIDTH) total += sum(load(share + p));
    sums[0] += total;
    double* next = sums + 1 + m.size;
    for (std::int64_t i = 0; i < m.size; ++i) {
        const double* own = d + i * stride;
        Vec first = {};
        for (std::int64_t p = 0; p < width; p += WIDTH) {
            const Vec value = load(share + p) * load(own + p);
            store(y + p, value);
            first += value;
        }
        sums[1 + i] += sum(first);
        for (std::int64_t j = i; j < (m.triangle ? m.size : i + 1); ++j) {
            Vec second = {};
            for (std::int64_t p = 0; p < width; p += WIDTH) second += load(y + p) * load(d + j * stride + p);
            *next += sum(second);
            next += m.form != Form::spherical;
        }
    }
}

void residual(const Residuals& m) {
    const std::int64_t rows = m.groups * m.components, features = features_of(m), size = rows * features;
    const std::int64_t numbers = m.triangle ? m.size * (m.size + 1) / 2 : m.form == Form::spherical ? 1 : m.size;
    const Cut cut(m.count, 2 * m.size + rows + 2, size);
    std::vector<double> held(cut.parts * (m.groups + size), 0.0);
    const int threads = worth(double(m.count) * rows * (6 * features + 30), m.threads);
    each(cut.parts, threads, [&](std::int64_t part) {
        static thread_local Scratch scratch;
        const std::int64_t room = stride_of(cut.chunk);
        double* x = scratch.take((2 * m.size + rows + 2) * room);
        double *d = x + m.size * room, *joint = d + m.size * room;
        double *y = joint + rows * room, *weights = y + room;
        double *objective = held.data() + part * (m.groups + size), *sums = objective + m.groups;
        const std::int64_t end = std::min(m.count, (part + 1) * cut.per_part);
        for (std::int64_t low = part * cut.per_part; low < end; low += cut.chunk) {
            const std::int64_t here = std::min(cut.chunk, end - low), width = (here + BLOCK - 1) / BLOCK * BLOCK;
            const std::int64_t stride = stride_of(width);
            for (std::int64_t p = 0; p < width; ++p)  // beyond the last one it stands again, without weight
                for (std::int64_t i = 0; i < m.size; ++i)
                    x[i * stride + p] = m.values[(low + std::min(p, here - 1)) * m.size + i];
            std::copy_n(m.weights + low, here, weights);
            std::fill(weights + here, weights + width, 0.0);
            const auto centred = [&](std::int64_t k) {
                for (std::int64_t i = 0; i < m.size; ++i) {
                    const double loc = m.loc[k * m.size + i];
                    for (std::int64_t p = 0; p < width; ++p) d[i * stride + p] = x[i * stride + p] - loc;
                }
            };
            for (std::int64_t k = 0; k < rows; ++k) {
                centred(k);
                std::fill_n(joint + k * stride, width, m.constant[k]);
                const std::int64_t own = m.shared ? k / m.components : k;
                distances(m, m.whiten + own * numbers, d, width, y, joint + k * stride);
            }
            for (std::int64_t s = 0; s < m.groups; ++s)
                objective[s] += normalise(joint + s * m.components * stride_of(width), weights, m.components, width);
            for (std::int64_t k = 0; k < rows; ++k) {
                centred(k);
                add_residuals(m, joint + k * stride, d, y, width, sums + k * features);
            }
        }
        scratch.release();
    });
    gather(held, cut.parts, m.groups, size, m.objective, m.sums);
}

extern const MixtureKernels mixture_kernels;
const MixtureKernels mixture_kernels = {expected, residual};

}  // namespace LATENTVARS_ISA
