// The kernels from x to y = activation((x * pre - center) * scale + shift + residual), elementwise,
// and clipped where that is asked for; and what folds statistics into their coefficients. See
// moments.cpp for how this is compiled.
#include "kernels/elementwise.hpp"
#include "kernels/per_channel.hpp"
#include "kernels/table.hpp"
#include "numerics/dtype.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class C>
inline Block<C> normalized(const Block<C>& x, const AffineBlocks<C>& c) {
    return (x - c.center) * c.scale + c.shift;
}

// What a call may ask for beside the affine map. The branches go the same way for a whole tile.
template <class Y>
class NormalizeOptions {
public:
    using C = Computed<Y>;

    NormalizeOptions(const Epilogue<Tile<const void>>& epilogue, std::ptrdiff_t prefetch,
                     bool* infinite)
        : residual_(typed<const Y>(epilogue.residual)),
          next_residual_(prefetch),
          has_activation_(epilogue.activation.kind != ActivationKind::none),
          activation_(epilogue.activation),
          has_clip_(epilogue.clip < __builtin_inf()),
          clip_(Vec<C>::broadcast(static_cast<C>(epilogue.clip))),
          infinite_(infinite) {}

    bool any_but_activation() const {
        return residual_.data != nullptr || has_clip_ || infinite_ != nullptr;
    }

    void inspect(const Block<C>& x) const {
        if (infinite_ != nullptr && any_infinite(x)) *infinite_ = true;
    }
    template <class N>
    Block<C> finish(Block<C> z, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (residual_.data != nullptr) {
            const Y* const at = residual_.data + r * residual_.stride + i;
            next_residual_.at(at);
            z = z + load<C>(at, n);
        }
        if (has_activation_) activation_.apply(z);
        if (has_clip_) {
            const Vec<C> lowest = Vec<C>::broadcast(C(0)) - clip_;
            FASTBN_UNROLL
            for (int k = 0; k < Block<C>::registers; ++k) {
                z.reg[k] = Vec<C>::greater(lowest, Vec<C>::lesser(clip_, z.reg[k]));
            }
        }
        return z;
    }

private:
    Tile<const Y> residual_;
    SlabPrefetch<Y> next_residual_;
    bool has_activation_;
    ActivationOf<C> activation_;
    bool has_clip_;
    Vec<C> clip_;
    bool* infinite_;
};

template <class X, class Y>
// NOLINTNEXTLINE(readability-function-size): its formulas, one beside the other
FASTBN_FLATTEN void normalize(Tile<const void> untyped_x, Tile<void> untyped_y, Elementwise e,
                              Affine<const void> untyped_affine,
                              Epilogue<Tile<const void>> epilogue, bool* infinite) noexcept {
    using C = Computed<Y>;
    const Tile<const X> x = typed<const X>(untyped_x);
    const Tile<Y> y = typed<Y>(untyped_y);
    const Affine<const C> affine = typed<const C>(untyped_affine);
    const SlabPrefetch<X> next_x(e.prefetch);
    const NormalizeOptions<Y> options(epilogue, e.prefetch, infinite);
    const bool is_alone = !options.any_but_activation();
    const ActivationKind activation = epilogue.activation.kind;

    const auto load_x = [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const X* const at = x.data + r * x.stride + i;
        next_x.at(at);
        return load<C>(at, n);
    };
    const auto coefficients = [=](const auto& at) { return affine_blocks(affine, at); };
    if (affine.pre != nullptr) {  // channels out of range
        write_by_blocks<C>(y, e, [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& at) {
            const Block<C> x_block = load_x(r, i, n);
            options.inspect(x_block);
            const Block<C> z = normalized(x_block * at(affine.pre), coefficients(at));
            return options.finish(z, r, i, n);
        });
    } else if (is_alone && activation == ActivationKind::none) {
        write_fast<C>(y, e, coefficients,
                      [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& c) {
                          return normalized(load_x(r, i, n), c);
                      });
    } else if (is_alone && activation == ActivationKind::relu) {
        const auto formula = [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& c) {
            Block<C> z = normalized(load_x(r, i, n), c);
            apply_relu(z);
            return z;
        };
        write_fast<C>(y, e, coefficients, Outlined{formula});
    } else {
        const auto formula = [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& c) {
            const Block<C> x_block = load_x(r, i, n);
            options.inspect(x_block);
            return options.finish(normalized(x_block, c), r, i, n);
        };
        write_fast<C>(y, e, coefficients, Outlined{formula});
    }
}

template <class X, class Y>
constexpr NormalizeKernels normalize_row() {
    NormalizeKernels kernels{};
    kernels.x = dtype_of<X>;
    kernels.y = dtype_of<Y>;
    kernels.computed = dtype_of<Computed<Y>>;
    kernels.normalize = normalize<X, Y>;
    return kernels;
}

// The row of types that are converted as they are loaded and stored: empty where the set has none.
template <class X, class Y>
constexpr NormalizeKernels converting_normalize_row() {
    if constexpr (converts_on_load) {
        return normalize_row<X, Y>();
    } else {
        return {};
    }
}

bool fold_affine(DType computed, ChannelParameters from, Affine<void> to,
                 std::ptrdiff_t n) noexcept {
    return computed == DType::float64 ? affine_in_range<double>(from, to, n)
                                      : affine_in_range<float>(from, to, n);
}
bool fold_input_gradient(DType computed, ChannelParameters from, GradientSums sums, double count,
                         InputGradient<void> to, std::ptrdiff_t n) noexcept {
    return computed == DType::float64 ? input_gradient_in_range<double>(from, sums, count, to, n)
                                      : input_gradient_in_range<float>(from, sums, count, to, n);
}

}  // namespace

extern constexpr NormalizeTable normalize_table = {
    {normalize_row<float, float>(), normalize_row<double, double>(),
     converting_normalize_row<Float16, Float16>(), converting_normalize_row<Bfloat16, Bfloat16>(),
     converting_normalize_row<std::uint8_t, float>()},
    fold_affine,
    fold_input_gradient};

}  // namespace fastbn::FASTBN_ISA
