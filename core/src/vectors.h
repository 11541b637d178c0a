// Eight doubles at a time, on any processor: the compiler splits them where registers are narrower.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

namespace LATENTVARS_ISA {

constexpr int WIDTH = 8;
typedef double Vec __attribute__((vector_size(64)));
typedef std::int64_t Int __attribute__((vector_size(64)));

inline Vec all(double x) { return Vec{} + x; }
inline Int all(std::int64_t x) { return Int{} + x; }

inline Vec load(const double* from) {
    Vec found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

inline void store(double* to, Vec x) { std::memcpy(to, &x, sizeof x); }

// The larger of two; a NaN in `a` stays.
inline Vec larger(Vec a, Vec b) { return b > a ? b : a; }

// A fixed order of summation.
inline double sum(Vec x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

constexpr double LOWEST_EXPONENT = -600.0;

// exp(x) for x <= 0, 0 below -600, NaN for NaN; a polynomial of relative error 3e-16 (Cody & Waite 1980).
inline Vec exponential(Vec x) {
    constexpr double LOG2E = 1.4426950408889634, HIGH = 0.693147180369123816490, LOW = 1.90821492927058770002e-10;
    constexpr double ROUND = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
    const Vec v = x < LOWEST_EXPONENT ? all(LOWEST_EXPONENT) : x;
    const Vec shifted = v * LOG2E + ROUND;
    const Vec n = shifted - ROUND;
    const Vec r = (v - n * HIGH) - n * LOW;
    const Vec r2 = r * r, r4 = r2 * r2;
    const Vec a = (1.0 / 120 + r * (1.0 / 720)) * r2 + (1.0 / 6 + r * (1.0 / 24));
    const Vec b = (1.0 / 3628800 + r * (1.0 / 39916800)) * r2 + (1.0 / 40320 + r * (1.0 / 362880));
    const Vec c = (1.0 / 479001600 + r * (1.0 / 6227020800.0));
    // 1 + r + r^2/2 + r^3 (1/6 + r/24 + r^2/120 + r^3/720 + r^4/5040 + ...)
    const Vec tail = (c * r4 + b) * r4 * r + (a + r4 * (1.0 / 5040));
    const Vec value = 1.0 + (r + r2 * (0.5 + r * tail));
    Int bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;
    Vec power;
    std::memcpy(&power, &bits, sizeof power);
    return x < LOWEST_EXPONENT ? Vec{} : value * power;
}

// Uninitialised doubles at the beginning of a cache line, kept by a thread from call to call: fresh pages cost more
// than the work done on them.
class Scratch {
  public:
    double* take(std::size_t size) {
        if (size > held_) {
            memory_.reset(static_cast<double*>(std::aligned_alloc(64, (size * sizeof(double) + 63) / 64 * 64)));
            if (!memory_) throw std::bad_alloc();
            held_ = size;
        }
        return memory_.get();
    }
    // Large pieces go back at once.
    void release() {
        if (held_ > (std::size_t{1} << 22)) memory_.reset(), held_ = 0;
    }

  private:
    struct Free {
        void operator()(double* p) const { std::free(p); }
    };
    std::unique_ptr<double, Free> memory_;
    std::size_t held_ = 0;
};

}  // namespace LATENTVARS_ISA
