#include "engine/array.hpp"

#include <cassert>
#include <cstdint>
#include <cstring>

#include "engine/dispatch.hpp"
#include "numerics/dtype.hpp"

namespace fastbn {
namespace {

template <class Bits, bool swaps>
Bits bits_at(const char* from) {
    Bits bits;
    // The analyzer does not follow the pointers by which a conversion has written what is read
    // here.
    std::memcpy(&bits, from, sizeof bits);  // NOLINT(clang-analyzer-unix.cstring.*)
    return swaps ? reversed(bits) : bits;
}

// Elements of one size from one place to another, as they are or with their bytes reversed.
template <class Bits, bool swaps>
void move_elements(const char* from, std::ptrdiff_t from_stride, char* to, std::ptrdiff_t to_stride,
                   std::ptrdiff_t n) noexcept {
    constexpr std::ptrdiff_t size = sizeof(Bits);
    const bool is_dense = from_stride == size && to_stride == size;
    if (is_dense && !swaps) {
        std::memcpy(to, from, static_cast<std::size_t>(n * size));
    } else if (is_dense && size > 1) {
        convert_table().reversal(size)(from, to, n);
    } else if (from_stride == 0 && to_stride == size) {
        const Bits bits = bits_at<Bits, swaps>(from);
        for (std::ptrdiff_t i = 0; i < n; ++i) std::memcpy(to + i * size, &bits, sizeof bits);
    } else {
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const Bits bits = bits_at<Bits, swaps>(from + i * from_stride);
            std::memcpy(to + i * to_stride, &bits, sizeof bits);
        }
    }
}

template <bool swaps>
auto move_of_size(std::ptrdiff_t size) {
    if (size == 1) return move_elements<std::uint8_t, swaps>;
    if (size == 2) return move_elements<std::uint16_t, swaps>;
    if (size == 4) return move_elements<std::uint32_t, swaps>;
    return move_elements<std::uint64_t, swaps>;
}

auto move_of(DType type, bool swapped) {
    return swapped ? move_of_size<true>(size_of(type)) : move_of_size<false>(size_of(type));
}

Dims dims_of(const ArrayRef& array) {
    Dims dims;
    for (int i = 0; i < array.ndim; ++i) dims.push(array.shape[i], array.strides[i]);
    return dims;
}

// visit(address, stride, index, length) for stretches of n elements from number `first` on that
// are evenly spaced; the first one's index is 0.
template <class Visit>
void each_array_stretch(const ArrayRef& array, std::ptrdiff_t first, std::ptrdiff_t n,
                        const Visit& visit) {
    if (array.ndim == 1)
        return visit(array.data + first * array.strides[0], array.strides[0], 0, n);
    std::ptrdiff_t index = 0;
    each_stretch(dims_of(array), first, n,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     visit(array.data + offset, stride, index, length);
                     index += length;
                 });
}

}  // namespace

ElementCopy::ElementCopy(DType from, bool from_swapped, DType to, bool to_swapped)
    : from_size_(size_of(from)),
      to_size_(size_of(to)),
      from_swapped_(from_swapped),
      to_swapped_(to_swapped),
      read_(move_of(from, from == to ? from_swapped != to_swapped : from_swapped)),
      write_(move_of(to, to_swapped)),
      convert_(from == to ? nullptr : convert_table().conversion(from, to)) {
    assert(from == to || convert_ != nullptr);
}

void ElementCopy::operator()(const char* from, std::ptrdiff_t from_stride, char* to,
                             std::ptrdiff_t to_stride, std::ptrdiff_t n) const noexcept {
    if (n == 0) return;
    if (convert_ == nullptr) return read_(from, from_stride, to, to_stride, n);
    const bool reads_in_place =
        from_stride == from_size_ && !from_swapped_ && is_aligned(from, from_size_);
    const bool writes_in_place = to_stride == to_size_ && !to_swapped_ && is_aligned(to, to_size_);
    if (reads_in_place && writes_in_place) return convert_(from, to, n);
    // Otherwise by way of memory in which values are native and side by side.
    constexpr std::ptrdiff_t at_once = 128;
    alignas(64) char native[at_once * sizeof(double)];
    alignas(64) char results[at_once * sizeof(double)];
    if (from_stride == 0) {
        read_(from, 0, native, from_size_, 1);
        convert_(native, results, 1);
        return write_(results, 0, to, to_stride, n);
    }
    for (std::ptrdiff_t i = 0; i < n; i += at_once) {
        const std::ptrdiff_t count = std::min(at_once, n - i);
        const char* const here = from + i * from_stride;
        char* const there = to + i * to_stride;
        if (!reads_in_place) read_(here, from_stride, native, from_size_, count);
        convert_(reads_in_place ? here : native, writes_in_place ? there : results, count);
        if (!writes_in_place) write_(results, to_size_, there, to_stride, count);
    }
}

void read_elements(const ArrayRef& array, std::ptrdiff_t first, std::ptrdiff_t n,
                   double* to) noexcept {
    const auto copy = ElementCopy::reading(array.dtype, array.swapped, DType::float64);
    each_array_stretch(
        array, first, n,
        [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            copy(at, stride, reinterpret_cast<char*>(to + index), sizeof(double), length);
        });
}

void write_elements(const double* from, const ArrayRef& array, std::ptrdiff_t first,
                    std::ptrdiff_t n) noexcept {
    const auto copy = ElementCopy::writing(DType::float64, array.dtype, array.swapped);
    each_array_stretch(
        array, first, n,
        [&](char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            copy(reinterpret_cast<const char*>(from + index), sizeof(double), at, stride, length);
        });
}

const double* as_doubles(const ArrayRef& array) noexcept {
    constexpr std::ptrdiff_t size = sizeof(double);
    if (array.dtype != DType::float64 || array.swapped || !is_aligned(array.data, size)) {
        return nullptr;
    }
    const Dims dims = dims_of(array);
    const bool dense = dims.n == 0 || (dims.n == 1 && dims.dim[0].stride == size);
    return dense ? reinterpret_cast<const double*>(array.data) : nullptr;
}

double element_at(const ArrayRef& array, const char* element) noexcept {
    double value;
    ElementCopy::reading(array.dtype, array.swapped, DType::float64)
        .operator()(element, 0, reinterpret_cast<char*>(&value), sizeof value, 1);
    return value;
}

}  // namespace fastbn
