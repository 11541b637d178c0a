// Independent items of work on several threads.
#pragma once
#include <cstdint>
#include <exception>

namespace LATENTVARS_ISA {

// Does the work of items 0 .. count-1 on threads; what an item gives must not depend on who does it.
template <class Work>
void each(std::int64_t count, int threads, Work work) {
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1 && count > 1)
    for (std::int64_t item = 0; item < count; ++item) {
        try {
            work(item);
        } catch (...) {
#pragma omp critical
            failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace LATENTVARS_ISA
