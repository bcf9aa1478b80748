#include "engine/pack.hpp"

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine/dispatch.hpp"
#include "engine/elements.hpp"

namespace fastbn {
namespace {

std::ptrdiff_t channel_offset(const Operand& operand, const TileRange& tile) {
    return operand.channels.offset(tile.channel);
}

// run(address in the operand, its stride, index in the packed tile, length) for every stretch of
// the tile that is evenly spaced in both.
template <class Run>
void each_tile_stretch(const Operand& operand, const TileRange& tile, Run&& run) {
    char* const base = operand.base + channel_offset(operand, tile);
    std::ptrdiff_t packed = 0;
    const auto columns_of = [&](char* row) {
        each_stretch(operand.cols, tile.col, tile.cols,
                     [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                         run(row + offset, stride, packed, length);
                         packed += length;
                     });
    };
    each_stretch(operand.rows, tile.row, tile.rows,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     for (std::ptrdiff_t r = 0; r < length; ++r) {
                         columns_of(base + offset + r * stride);
                     }
                 });
}

template <class T>
struct Strided {
    char* data;
    std::ptrdiff_t stride;  // in bytes
    bool is_dense() const {
        return stride == static_cast<std::ptrdiff_t>(sizeof(T)) &&
               reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0;
    }
    T* dense() const { return reinterpret_cast<T*>(data); }
};

template <class H>
const ConvertKernels<H>& convert_kernels() {
    if constexpr (std::is_same_v<H, Float16>) {
        return active_kernels().convert_f16;
    } else {
        return active_kernels().convert_bf16;
    }
}

template <class T, class S>
void copy_run(const Strided<T>& to, const Strided<S>& from, std::ptrdiff_t n) noexcept {
    if (to.is_dense() && from.is_dense()) {
        if constexpr (std::is_same_v<T, S>) {
            std::memcpy(to.data, from.data, static_cast<std::size_t>(n) * sizeof(T));
            return;
        } else if constexpr (is_half<S> && std::is_same_v<T, float>) {
            return convert_kernels<S>().widen(from.dense(), to.dense(), n);
        } else if constexpr (is_half<T> && std::is_same_v<S, float>) {
            return convert_kernels<T>().narrow(from.dense(), to.dense(), n);
        } else {
            constexpr std::ptrdiff_t step = sizeof(T);
            for (std::ptrdiff_t i = 0; i < n; ++i) {
                const S value = read_element<S>(from.data + i * std::ptrdiff_t{sizeof(S)});
                write_element(to.data + i * step, converted<T>(value));
            }
            return;
        }
    }
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const S value = read_element<S>(from.data + i * from.stride);
        write_element(to.data + i * to.stride, converted<T>(value));
    }
}

// visit(a value of the operand's type), for the types that convert to and from T at all.
template <class T, class Visit>
void visit_operand(const Operand& operand, const Visit& visit) {
    if constexpr (std::is_floating_point_v<T>) {
        visit_dtype(operand.dtype, visit);
    } else {
        visit(T{});  // the sixteen-bit types and bytes come as they are
    }
}

}  // namespace

template <class T>
void pack_tile(const Operand& operand, const TileRange& tile, T* buffer) noexcept {
    visit_operand<T>(operand, [&](auto zero) {
        using S = decltype(zero);
        each_tile_stretch(
            operand, tile,
            [&](char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
                char* const to = reinterpret_cast<char*>(buffer + index);
                copy_run(Strided<T>{to, sizeof(T)}, Strided<S>{at, stride}, length);
            });
    });
}

template <class T>
void unpack_tile(const Operand& operand, const TileRange& tile, const T* buffer) noexcept {
    visit_operand<T>(operand, [&](auto zero) {
        using S = decltype(zero);
        each_tile_stretch(
            operand, tile,
            [&](char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
                char* const from = reinterpret_cast<char*>(const_cast<T*>(buffer + index));
                copy_run(Strided<S>{at, stride}, Strided<T>{from, sizeof(T)}, length);
            });
    });
}

template <class T>
void mask_tile(const Operand& mask, const TileRange& tile, T* values) noexcept {
    each_tile_stretch(
        mask, tile,
        [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            T* const of = values + index;
            if (stride == 1) {  // a loop for the compiler to vectorize
                for (std::ptrdiff_t i = 0; i < length; ++i) of[i] = at[i] != 0 ? of[i] : T(0);
            } else {
                for (std::ptrdiff_t i = 0; i < length; ++i) {
                    if (at[i * stride] == 0) of[i] = T(0);
                }
            }
        });
}

char* tile_address(const Operand& operand, const TileRange& tile) noexcept {
    return operand.base + channel_offset(operand, tile) + tile.row * operand.row_stride +
           tile.col * size_of(operand.dtype);
}

template void pack_tile(const Operand&, const TileRange&, float*) noexcept;
template void pack_tile(const Operand&, const TileRange&, double*) noexcept;
template void pack_tile(const Operand&, const TileRange&, Float16*) noexcept;
template void pack_tile(const Operand&, const TileRange&, Bfloat16*) noexcept;
template void pack_tile(const Operand&, const TileRange&, std::uint8_t*) noexcept;
template void unpack_tile(const Operand&, const TileRange&, const float*) noexcept;
template void unpack_tile(const Operand&, const TileRange&, const double*) noexcept;
template void unpack_tile(const Operand&, const TileRange&, const Float16*) noexcept;
template void unpack_tile(const Operand&, const TileRange&, const Bfloat16*) noexcept;
template void mask_tile(const Operand&, const TileRange&, float*) noexcept;
template void mask_tile(const Operand&, const TileRange&, double*) noexcept;

}  // namespace fastbn
