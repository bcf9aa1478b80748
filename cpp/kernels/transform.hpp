// The elementwise passes: y from x, and dx from dy and x. They see tiles and folded coefficients,
// one set for a run of columns or one per column; they know nothing of how those came about.
#pragma once

#include "block.hpp"
#include "mapping.hpp"
#include "prefetch.hpp"
#include "table.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class T>
[[gnu::flatten]] void transform(Tile<const T> x, Tile<T> y, std::ptrdiff_t rows,
                                std::ptrdiff_t cols, std::ptrdiff_t run, Affine<T> a,
                                std::ptrdiff_t ahead, bool streamed) noexcept {
    const AskAhead<T> next(ahead);
    if (a.pre == nullptr) {
        const CoefficientArrays<T, 3> arrays{{a.center, a.scale, a.shift}};
        map(y, rows, cols, run, streamed, arrays,
            [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<T, 3>& c) {
                next.ask(x.data + r * x.stride + i);
                const Block<T> xi = load<T>(x.data + r * x.stride + i, n);
                return (xi - c.of[0]) * c.of[1] + c.of[2];
            });
        return;
    }
    const CoefficientArrays<T, 4> arrays{{a.center, a.scale, a.shift, a.pre}};
    map(y, rows, cols, run, streamed, arrays,
        [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<T, 4>& c) {
            const Block<T> xi = load<T>(x.data + r * x.stride + i, n) * c.of[3];
            return (xi - c.of[0]) * c.of[1] + c.of[2];
        });
}

template <class T>
[[gnu::flatten]] void input_gradient(Tile<const T> dy, Tile<const T> x, Tile<T> dx,
                                     std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t run,
                                     InputGradient<T> g, std::ptrdiff_t ahead,
                                     bool streamed) noexcept {
    const AskAhead<T> next(ahead);
    if (g.pre == nullptr) {
        const CoefficientArrays<T, 4> arrays{{g.center, g.slope, g.level, g.scale}};
        map(dx, rows, cols, run, streamed, arrays,
            [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<T, 4>& c) {
                next.ask(x.data + r * x.stride + i);
                next.ask(dy.data + r * dy.stride + i);
                const Block<T> xi = load<T>(x.data + r * x.stride + i, n);
                const Block<T> dyi = load<T>(dy.data + r * dy.stride + i, n);
                return (dyi - ((xi - c.of[0]) * c.of[1] + c.of[2])) * c.of[3];
            });
        return;
    }
    const CoefficientArrays<T, 6> arrays{{g.center, g.slope, g.level, g.scale, g.pre, g.dy_pre}};
    map(dx, rows, cols, run, streamed, arrays,
        [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<T, 6>& c) {
            const Block<T> xi = load<T>(x.data + r * x.stride + i, n) * c.of[4];
            const Block<T> dyi = load<T>(dy.data + r * dy.stride + i, n) * c.of[5];
            return (dyi - ((xi - c.of[0]) * c.of[1] + c.of[2])) * c.of[3];
        });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
