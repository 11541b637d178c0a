// Arrays from Python, and checks of their shapes.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

namespace nb = nanobind;

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
// What is written to: the array itself, never a copy in another precision or layout.
template <class T>
struct Out : nb::ndarray<T, nb::c_contig, nb::device::cpu> {
    using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
    Out() = default;
    explicit Out(const Array& array) : Array(array) {}
};

template <class T>
struct nb::detail::type_caster<Out<T>> {
    NB_TYPE_CASTER(Out<T>, nb::detail::make_caster<typename Out<T>::Array>::Name)

    bool from_python(nb::handle from, uint8_t flags, nb::detail::cleanup_list* cleanup) noexcept {
        nb::detail::make_caster<typename Out<T>::Array> array;
        if (!array.from_python(from, flags & ~static_cast<uint8_t>(nb::detail::cast_flags::convert), cleanup)) return false;
        value = Out<T>(array.value);
        return true;
    }
};

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
