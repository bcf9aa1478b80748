// The elementwise passes: y from x, and dx from dy and x. They see tiles and folded coefficients,
// one set for the whole tile or one per column; they know nothing of how those came about.
#pragma once

#include "block.hpp"
#include "table.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// A coefficient is read as `c.at(i, n)` at column i: the same for the whole tile,
template <class T>
class Shared {
public:
    explicit Shared(const T* p) : value_(broadcast(p ? *p : T(0))) {}
    template <class N>
    Block<T> at(std::ptrdiff_t, N) const {
        return value_;
    }

private:
    Block<T> value_;
};

// or each column's own.
template <class T>
class PerColumn {
public:
    explicit PerColumn(const T* p) : values_(p) {}
    template <class N>
    Block<T> at(std::ptrdiff_t i, N n) const {
        return load<T>(values_ + i, n);
    }

private:
    const T* values_;
};

// Columns up to the first 64-byte boundary of `row`.
template <class T>
inline std::ptrdiff_t to_boundary(const T* row) {
    const auto past = reinterpret_cast<std::uintptr_t>(row) % 64;
    return static_cast<std::ptrdiff_t>((64 - past) % 64 / sizeof(T));
}

// out[r][i..] = value(r, i, n) for every block of the tile.
template <class T, class Value>
inline void map_plain(Tile<T> out, std::ptrdiff_t rows, std::ptrdiff_t cols, const Value& value) {
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        T* row = out.data + r * out.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { store(row + i, n, value(r, i, n)); });
    }
}

// The same past the caches, which takes aligned whole blocks.
template <class T, class Value>
inline void map_streamed(Tile<T> out, std::ptrdiff_t rows, std::ptrdiff_t cols,
                         const Value& value) {
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        T* row = out.data + r * out.stride;
        std::ptrdiff_t i = to_boundary(row) < cols ? to_boundary(row) : cols;
        if (i > 0) store(row, i, value(r, 0, i));
        for (; i + lanes <= cols; i += lanes) stream(row + i, value(r, i, Full{}));
        if (i < cols) store(row + i, cols - i, value(r, i, cols - i));
    }
    stream_fence();
}

template <class T, class Value>
inline void map(Tile<T> out, std::ptrdiff_t rows, std::ptrdiff_t cols, bool streamed,
                const Value& value) {
    if (streamed) {
        map_streamed(out, rows, cols, value);
    } else {
        map_plain(out, rows, cols, value);
    }
}

template <class T, template <class> class Coefficient>
void transform(Tile<const T> x, Tile<T> y, std::ptrdiff_t rows, std::ptrdiff_t cols,
               Affine<T> affine, bool streamed) noexcept {
    const Coefficient<T> center(affine.center);
    const Coefficient<T> scale(affine.scale);
    const Coefficient<T> shift(affine.shift);
    if (affine.pre == nullptr) {
        map(y, rows, cols, streamed, [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
            const Block<T> xi = load<T>(x.data + r * x.stride + i, n);
            return (xi - center.at(i, n)) * scale.at(i, n) + shift.at(i, n);
        });
        return;
    }
    const Coefficient<T> pre(affine.pre);
    map(y, rows, cols, streamed, [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const Block<T> xi = load<T>(x.data + r * x.stride + i, n) * pre.at(i, n);
        return (xi - center.at(i, n)) * scale.at(i, n) + shift.at(i, n);
    });
}

template <class T, template <class> class Coefficient>
void input_gradient(Tile<const T> dy, Tile<const T> x, Tile<T> dx, std::ptrdiff_t rows,
                    std::ptrdiff_t cols, InputGradient<T> c, bool streamed) noexcept {
    const Coefficient<T> center(c.center);
    const Coefficient<T> slope(c.slope);
    const Coefficient<T> level(c.level);
    const Coefficient<T> scale(c.scale);
    if (c.pre == nullptr) {
        map(dx, rows, cols, streamed, [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
            const Block<T> xi = load<T>(x.data + r * x.stride + i, n);
            const Block<T> dyi = load<T>(dy.data + r * dy.stride + i, n);
            const Block<T> through = (xi - center.at(i, n)) * slope.at(i, n) + level.at(i, n);
            return (dyi - through) * scale.at(i, n);
        });
        return;
    }
    const Coefficient<T> pre(c.pre);
    const Coefficient<T> dy_pre(c.dy_pre);
    map(dx, rows, cols, streamed, [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const Block<T> xi = load<T>(x.data + r * x.stride + i, n) * pre.at(i, n);
        const Block<T> dyi = load<T>(dy.data + r * dy.stride + i, n) * dy_pre.at(i, n);
        const Block<T> through = (xi - center.at(i, n)) * slope.at(i, n) + level.at(i, n);
        return (dyi - through) * scale.at(i, n);
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
