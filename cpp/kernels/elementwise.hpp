// Writing a tile of results block by block, each with the coefficients of its columns, through the
// caches or past them. What is written is a pair of functions:
//
//     coefficients(at)      the coefficients, a struct of blocks, at(array) being a block of one
//                           array's, whichever columns it is for
//     formula(r, i, n, c)   the block of row r's n columns from i on, by such coefficients; n is
//                           Full, FullStreamed or a count, as for load and store
//
// and, for the loops that hold on to coefficients, blend(n, a, b) of these as of blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "simd/block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- Coefficients ----

template <class C>
struct AffineBlocks {
    Block<C> center;
    Block<C> scale;
    Block<C> shift;
};

template <class C, class At>
inline AffineBlocks<C> affine_blocks(const Affine<const C>& from, const At& at) {
    return {at(from.center), at(from.scale), at(from.shift)};
}

template <class C>
inline AffineBlocks<C> blend(std::ptrdiff_t n, const AffineBlocks<C>& a, const AffineBlocks<C>& b) {
    return {blend(n, a.center, b.center), blend(n, a.scale, b.scale), blend(n, a.shift, b.shift)};
}

// The coefficients of columns i to i + n - 1, or of all columns of channel i.
template <class C, class Coefficients, class N>
inline auto of_columns(const Coefficients& coefficients, std::ptrdiff_t i, N n) {
    return coefficients([=](const C* array) { return load<C>(array + i, n); });
}
template <class C, class Coefficients>
inline auto of_channel(const Coefficients& coefficients, std::ptrdiff_t i) {
    return coefficients([=](const C* array) { return broadcast(array[i]); });
}

// ---- Activations ----
//
// The value, and what the derivative makes of a gradient, apart, so that either may be any function
// of z.

// An activation of values of type C, which is not `none`. Blocks are changed in place, register by
// register: of a whole block chosen by a branch g++ 12 makes a copy in memory, and waits for it.
template <class C>
class ActivationOf {
public:
    explicit ActivationOf(const Activation& of)
        : is_leaky_(of.kind == ActivationKind::leaky_relu),
          slope_(Vec<C>::broadcast(static_cast<C>(of.slope))) {}

    // z becomes activation(z),
    void apply(Block<C>& z) const {
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) z.reg[k] = value(z.reg[k]);
    }
    // and dy the gradient dz.
    void apply_gradient(const Block<C>& z, Block<C>& dy) const {
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) dy.reg[k] = gradient(z.reg[k], dy.reg[k]);
    }

private:
    Vec<C> value(Vec<C> z) const {
        return is_leaky_ ? Vec<C>::unless_positive(z, z, z * slope_)
                         : Vec<C>::zero_unless_positive(z, z);
    }
    // dy * activation'(z). The derivative at 0 is the one from below, and at NaN 1.
    Vec<C> gradient(Vec<C> z, Vec<C> dy) const {
        return is_leaky_ ? Vec<C>::unless_positive(z, dy, dy * slope_)
                         : Vec<C>::zero_unless_positive(z, dy);
    }

    bool is_leaky_;
    Vec<C> slope_;
};

// The same for relu, which needs no slope and has loops of its own.
template <class C>
inline void apply_relu(Block<C>& z) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<C>::registers; ++k) {
        z.reg[k] = Vec<C>::zero_unless_positive(z.reg[k], z.reg[k]);
    }
}
template <class C>
inline void apply_relu_gradient(const Block<C>& z, Block<C>& dy) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<C>::registers; ++k) {
        dy.reg[k] = Vec<C>::zero_unless_positive(z.reg[k], dy.reg[k]);
    }
}

// ---- Where results go ----

// Past the caches go whole blocks that begin on a boundary: of a cache line, or of a block's own
// size if that is less. Returns how many columns, fewer than a block has, lie before a
// row's first one.
template <class Y>
inline std::ptrdiff_t columns_before_boundary(const Y* row, std::ptrdiff_t cols) {
    constexpr std::size_t boundary = sizeof(Y) < 4 ? lanes * sizeof(Y) : std::size_t{line_bytes};
    const auto past = reinterpret_cast<std::uintptr_t>(row) % boundary;
    const auto before = static_cast<std::ptrdiff_t>((boundary - past) % boundary / sizeof(Y));
    return before < cols ? before : cols;
}

// How many columns a row's first block has, or 0 where that is a whole one. Past the caches blocks
// begin on boundaries; and through them in long rows that would else have registers in two lines.
// NumPy's memory begins 16 bytes past a line.
template <bool streamed, class Y>
inline std::ptrdiff_t first_columns(const Y* row, std::ptrdiff_t cols) {
    constexpr std::ptrdiff_t many = 40 * lanes;
    constexpr bool gains = sizeof(Vec<float>) > 16 && sizeof(Y) >= sizeof(float);
    return streamed || (gains && cols >= many) ? columns_before_boundary(row, cols) : 0;
}

template <bool streamed>
constexpr auto whole_block() {
    if constexpr (streamed) {
        return FullStreamed{};
    } else {
        return Full{};
    }
}

template <bool streamed, class Y, class C>
inline void put(Y* p, const Block<C>& b) {
    if constexpr (streamed) {
        stream(p, b);
    } else {
        store(p, Full{}, b);
    }
}

// ---- The loops ----

// With coefficients for each column: the block at column i takes them from entry `at` on, which
// wraps round at `period`. A row goes as it lies; or, where it consists of several rows whose
// coefficients do not fit the first-level cache beside the data, so many columns of all of them,
// then the next columns. Such a piece begins and ends where blocks do, so that past the caches goes
// all but the two ends of the whole.
template <class C, bool streamed, class Y, class Coefficients, class Formula>
inline void write_columns(Tile<Y> out, const Elementwise& e, const Coefficients& coefficients,
                          const Formula& formula) {
    constexpr auto whole = whole_block<streamed>();
    constexpr std::ptrdiff_t most = wide_coefficients / std::ptrdiff_t{sizeof(C)};
    const std::ptrdiff_t cols = e.cols;
    const std::ptrdiff_t period = e.period;
    const bool by_pieces = period < cols && period > most;
    const std::ptrdiff_t step = by_pieces ? period : cols;  // from one row's beginning to the next
    const std::ptrdiff_t pieces = by_pieces ? (period + most - 1) / most : 1;
    const std::ptrdiff_t width = (step + pieces - 1) / pieces;
    for (std::ptrdiff_t r = 0; r < e.rows; ++r) {
        Y* const row = out.data + r * out.stride;
        const std::ptrdiff_t head = first_columns<streamed>(row, cols);
        if (head > 0) store(row, head, formula(r, 0, head, of_columns<C>(coefficients, 0, head)));
        const std::ptrdiff_t end = cols - (cols - head) % lanes;
        const auto block_from = [=](std::ptrdiff_t i) {
            const std::ptrdiff_t boundary = head + (i - head + lanes - 1) / lanes * lanes;
            return boundary < end ? boundary : end;
        };
        for (std::ptrdiff_t column = 0; column < step; column += width) {
            const std::ptrdiff_t next = column + width;
            for (std::ptrdiff_t begin = 0; begin < cols; begin += step) {
                std::ptrdiff_t i = block_from(begin + column);
                const std::ptrdiff_t stop = block_from(begin + (next < step ? next : step));
                for (std::ptrdiff_t at = i - begin; i < stop; i += lanes) {
                    put<streamed>(row + i,
                                  formula(r, i, whole, of_columns<C>(coefficients, at, whole)));
                    at += lanes;
                    at -= at >= period ? period : 0;
                }
            }
        }
        const std::ptrdiff_t n = cols - end;
        if (n > 0) {
            store(row + end, n, formula(r, end, n, of_columns<C>(coefficients, end % period, n)));
        }
    }
    if constexpr (streamed) stream_fence();
}

// With coefficients for each channel, of channel_width columns. Only a tile of a single channel may
// have one narrower than a block, so that no block meets more than two.
template <class C, bool streamed, class Y, class Coefficients, class Formula>
inline void write_channels(Tile<Y> out, const Elementwise& e, const Coefficients& coefficients,
                           const Formula& formula) {
    constexpr auto whole = whole_block<streamed>();
    const std::ptrdiff_t cols = e.cols;
    for (std::ptrdiff_t r = 0; r < e.rows; ++r) {
        Y* const row = out.data + r * out.stride;
        auto now = of_channel<C>(coefficients, 0);
        std::ptrdiff_t i = first_columns<streamed>(row, cols);
        if (i > 0) store(row, i, formula(r, 0, i, now));
        for (std::ptrdiff_t channel = 0, end = e.channel_width;; end += e.channel_width) {
            for (; i + lanes <= end; i += lanes) put<streamed>(row + i, formula(r, i, whole, now));
            if (end >= cols) break;
            const auto next = of_channel<C>(coefficients, ++channel);
            if (i < end) {
                put<streamed>(row + i, formula(r, i, whole, blend(end - i, now, next)));
                i += lanes;
            }
            now = next;
        }
        if (i < cols) store(row + i, cols - i, formula(r, i, cols - i, now));
    }
    if constexpr (streamed) stream_fence();
}

template <class C, bool streamed, class Y, class Coefficients, class Formula>
inline void write(Tile<Y> out, const Elementwise& e, const Coefficients& coefficients,
                  const Formula& formula) {
    if (e.channel_width == 1) {
        write_columns<C, streamed>(out, e, coefficients, formula);
    } else {
        write_channels<C, streamed>(out, e, coefficients, formula);
    }
}

// Writes by loops of their own for each kind of store that there is.
template <class C, class Y, class Coefficients, class Formula>
inline void write_fast(Tile<Y> out, const Elementwise& e, const Coefficients& coefficients,
                       const Formula& formula) {
    if constexpr (streams) {
        if (e.stream) return write<C, true>(out, e, coefficients, formula);
    }
    write<C, false>(out, e, coefficients, formula);
}

// A formula whose code for parts of blocks is there once for all loops: longer ones would take
// minutes to compile otherwise, and gain nothing.
template <class Formula>
struct Outlined {
    Formula formula;

    template <class N, class Blocks>
    auto operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const Blocks& c) const {
        return formula(r, i, n, c);
    }
    template <class Blocks>
    [[gnu::noinline]] auto operator()(std::ptrdiff_t r, std::ptrdiff_t i, std::ptrdiff_t n,
                                      const Blocks& c) const {
        return formula(r, i, n, c);
    }
};
template <class Formula>
Outlined(Formula) -> Outlined<Formula>;

// ---- For channels out of range ----
//
// Formulas with many coefficients, and calls so rare that a block may be a call of its own. In the
// place of coefficients such a formula is given at(array), by which it finds each where it is used.

// The coefficients of a block of n columns from entry i on, of which `channel_width` columns have
// one in common. A null array is of ones.
template <class C>
[[gnu::noinline]] Block<C> coefficients_at(const C* array, std::ptrdiff_t i, std::ptrdiff_t n,
                                           std::ptrdiff_t channel_width) {
    if (array == nullptr) return broadcast(C(1));
    if (channel_width == 1) return load<C>(array + i, n);
    const std::ptrdiff_t channel = i / channel_width;
    const std::ptrdiff_t left = (channel + 1) * channel_width - i;
    const Block<C> here = broadcast(array[channel]);
    return left >= n ? here : blend(left, here, broadcast(array[channel + 1]));
}

template <class C, class Y, class Formula, class N>
FASTBN_FLATTEN [[gnu::noinline]] void write_block(Y* to, const Formula& formula,
                                                  const Elementwise& e, std::ptrdiff_t r,
                                                  std::ptrdiff_t i, N n) {
    const auto at = [&](const C* array) {
        return coefficients_at(array, i % e.period, count_of(n), e.channel_width);
    };
    store(to, n, formula(r, i, n, at));
}

template <class C, class Y, class Formula>
inline void write_by_blocks(Tile<Y> out, const Elementwise& e, const Formula& formula) {
    for (std::ptrdiff_t r = 0; r < e.rows; ++r) {
        Y* const row = out.data + r * out.stride;
        each_block(0, e.cols,
                   [&](std::ptrdiff_t i, auto n) { write_block<C>(row + i, formula, e, r, i, n); });
    }
    clear_upper_halves();
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
