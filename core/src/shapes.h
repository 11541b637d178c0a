// Arrays from Python, and checks of their shapes.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

namespace nb = nanobind;

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

template <class Array>
inline void needs(const Array& array, const char* name, std::initializer_list<std::size_t> shape) {
    bool fits = array.ndim() == shape.size();
    std::size_t axis = 0;
    for (const std::size_t size : shape) fits = fits && array.shape(axis++) == size;
    if (fits) return;
    std::string given, wanted;
    for (const std::size_t size : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
    for (std::size_t k = 0; k < array.ndim(); ++k) given += (k ? ", " : "") + std::to_string(array.shape(k));
    throw std::invalid_argument(std::string(name) + " is [" + given + "], needed: [" + wanted + "]");
}
