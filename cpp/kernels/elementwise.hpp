// Writing a tile of results block by block, each with the coefficients of its columns: through the
// caches or past them. Knows no formula.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block.hpp"
#include "block_memory.hpp"
#include "data.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// What a block's columns are multiplied by and added to.
template <class T, int n>
struct Coefficients {
    Block<T> of[n];
};

// Arrays of n coefficients, an entry for each column or for each run of them.
template <class T, int n>
struct CoefficientArrays {
    const T* of[n];

    // Those of one entry, for all lanes.
    Coefficients<T, n> shared(std::ptrdiff_t entry) const {
        Coefficients<T, n> c;
        for (int k = 0; k < n; ++k) c.of[k] = broadcast(of[k][entry]);
        return c;
    }
    // Those of a block of entries, a lane each.
    template <class N>
    Coefficients<T, n> block(std::ptrdiff_t entry, N count) const {
        Coefficients<T, n> c;
        for (int k = 0; k < n; ++k) c.of[k] = load<T>(of[k] + entry, count);
        return c;
    }
};

// The first `lead` lanes of a, the others of b.
template <class T, int n>
inline Coefficients<T, n> blend(std::ptrdiff_t lead, Coefficients<T, n> a,
                                const Coefficients<T, n>& b) {
    for (int k = 0; k < n; ++k) a.of[k] = blend(lead, a.of[k], b.of[k]);
    return a;
}

// Where results go: through the caches,
struct Cached {
    template <class Y>
    static std::ptrdiff_t head(const Y*, std::ptrdiff_t) {
        return 0;
    }
    template <class Y, class C>
    static void put(Y* p, const Block<C>& b) {
        store(p, Full{}, b);
    }
    static void fence() {}
};

// or past them, which takes whole blocks on boundaries of their own size, or of 64 bytes: `head`
// columns, fewer than a block has, lie before the first.
struct Streamed {
    template <class Y>
    static std::ptrdiff_t head(const Y* row, std::ptrdiff_t cols) {
        constexpr std::size_t boundary = sizeof(Y) < 4 ? lanes * sizeof(Y) : 64;
        const auto past = reinterpret_cast<std::uintptr_t>(row) % boundary;
        const auto before = static_cast<std::ptrdiff_t>((boundary - past) % boundary / sizeof(Y));
        return before < cols ? before : cols;
    }
    template <class Y, class C>
    static void put(Y* p, const Block<C>& b) {
        store_streaming(p, b);
    }
    static void fence() { stream_fence(); }
};

// out[r][i..] = value(r, i, n, coefficients) for every block, with coefficients per column.
template <class Put, class Y, class C, int k, class Value>
inline void map_columns(Tile<Y> out, const Elementwise& e, const CoefficientArrays<C, k>& arrays,
                        const Value& value) {
    const std::ptrdiff_t cols = e.cols;
    for (std::ptrdiff_t r = 0; r < e.rows; ++r) {
        Y* row = out.data + r * out.stride;
        std::ptrdiff_t i = Put::head(row, cols);
        if (i > 0) store(row, i, value(r, 0, i, arrays.block(0, i)));
        for (; i + lanes <= cols; i += lanes) {
            Put::put(row + i, value(r, i, Full{}, arrays.block(i, Full{})));
        }
        if (i < cols) store(row + i, cols - i, value(r, i, cols - i, arrays.block(i, cols - i)));
    }
    Put::fence();
}

// The same with coefficients per run. Only a tile of a single run may have one shorter than a
// block, so that no block meets more than two.
template <class Put, class Y, class C, int k, class Value>
inline void map_runs(Tile<Y> out, const Elementwise& e, const CoefficientArrays<C, k>& arrays,
                     const Value& value) {
    const std::ptrdiff_t cols = e.cols;
    for (std::ptrdiff_t r = 0; r < e.rows; ++r) {
        Y* row = out.data + r * out.stride;
        Coefficients<C, k> now = arrays.shared(0);
        std::ptrdiff_t i = Put::head(row, cols);
        if (i > 0) store(row, i, value(r, 0, i, now));
        for (std::ptrdiff_t entry = 0, end = e.run;; end += e.run) {
            for (; i + lanes <= end; i += lanes) Put::put(row + i, value(r, i, Full{}, now));
            if (end >= cols) break;
            const Coefficients<C, k> next = arrays.shared(++entry);
            if (i < end) {
                Put::put(row + i, value(r, i, Full{}, blend(end - i, now, next)));
                i += lanes;
            }
            now = next;
        }
        if (i < cols) store(row + i, cols - i, value(r, i, cols - i, now));
    }
    Put::fence();
}

template <class Y, class C, int k, class Value>
inline void map(Tile<Y> out, const Elementwise& e, const CoefficientArrays<C, k>& arrays,
                const Value& value) {
    if (e.run == 1 && e.stream) {
        map_columns<Streamed>(out, e, arrays, value);
    } else if (e.run == 1) {
        map_columns<Cached>(out, e, arrays, value);
    } else if (e.stream) {
        map_runs<Streamed>(out, e, arrays, value);
    } else {
        map_runs<Cached>(out, e, arrays, value);
    }
}

// A value whose code for parts of blocks is there once for all four: longer formulas would take
// minutes to compile otherwise, and gain nothing.
template <class Value>
struct Outlined {
    Value value;

    template <class C, int k>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, Full n,
                        const Coefficients<C, k>& c) const {
        return value(r, i, n, c);
    }
    template <class C, int k>
    [[gnu::noinline]] Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, std::ptrdiff_t n,
                                          const Coefficients<C, k>& c) const {
        return value(r, i, n, c);
    }
};
template <class Value>
Outlined(Value) -> Outlined<Value>;

}  // namespace
}  // namespace fastbn::FASTBN_ISA
