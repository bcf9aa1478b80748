// The kernels from x to y = activation((x * pre - center) * scale + shift + residual), elementwise,
// and clipped where that is asked for; what folds statistics into their coefficients; and the
// conversion of the sixteen-bit types. See moments.cpp for how this is compiled.
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

// Without an epilogue, or with relu alone.
template <class C, class ReadX>
inline auto normalize_formula(const ReadX& read_x) {
    return [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const AffineBlocks<C>& c) {
        return normalized(read_x(r, i, n), c);
    };
}
template <class C, class ReadX>
inline auto relu_formula(const ReadX& read_x) {
    return [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const AffineBlocks<C>& c) {
        Block<C> z = normalized(read_x(r, i, n), c);
        apply_relu(z);
        return z;
    };
}

// What a call may ask for beside the affine map. The branches go the same way for a whole tile.
template <class Y>
class NormalizeOptions {
public:
    using C = Computed<Y>;

    NormalizeOptions(const Epilogue<Tile<const void>>& epilogue, std::ptrdiff_t prefetch,
                     bool* infinite)
        : residual_(typed<const Y>(epilogue.residual)),
          prefetch_(prefetch),
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
            prefetch_if_any(at, prefetch_);
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
    std::ptrdiff_t prefetch_;
    bool has_activation_;
    ActivationOf<C> activation_;
    bool has_clip_;
    Vec<C> clip_;
    bool* infinite_;
};

template <class C, class ReadX, class Options>
inline auto formula_with_options(const ReadX& read_x, const Options& options) {
    return [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const AffineBlocks<C>& c) {
        const Block<C> x = read_x(r, i, n);
        options.inspect(x);
        return options.finish(normalized(x, c), r, i, n);
    };
}
// The same with channels out of range.
template <class C, class ReadX, class Options>
inline auto scaled_formula(const ReadX& read_x, const Affine<const C>& affine,
                           const Options& options) {
    return [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& at) {
        const Block<C> x = read_x(r, i, n);
        options.inspect(x);
        return options.finish(normalized(x * at(affine.pre), affine_blocks(affine, at)), r, i, n);
    };
}

template <class X, class Y>
FASTBN_FLATTEN void normalize(Tile<const void> x, Tile<void> untyped_y, Elementwise e,
                              Affine<const void> untyped_affine,
                              Epilogue<Tile<const void>> epilogue, bool* infinite) noexcept {
    using C = Computed<Y>;
    const Tile<Y> y = typed<Y>(untyped_y);
    const Affine<const C> affine = typed<const C>(untyped_affine);
    const ActivationKind activation = epilogue.activation.kind;
    const NormalizeOptions<Y> options(epilogue, e.prefetch, infinite);
    const bool is_alone = !options.any_but_activation();
    const auto read_x = block_reader<C>(typed<const X>(x), e.prefetch);
    const auto coefficients = [=](const auto& at) { return affine_blocks(affine, at); };
    if (affine.pre != nullptr) {
        write_by_blocks<C>(y, e, scaled_formula<C>(read_x, affine, options));
    } else if (is_alone && activation == ActivationKind::none) {
        write_fast<C>(y, e, coefficients, normalize_formula<C>(read_x));
    } else if (is_alone && activation == ActivationKind::relu) {
        write_fast<C>(y, e, coefficients, Outlined{relu_formula<C>(read_x)});
    } else {
        write_fast<C>(y, e, coefficients, Outlined{formula_with_options<C>(read_x, options)});
    }
}

template <class X, class Y>
constexpr NormalizeKernels row() {
    NormalizeKernels kernels{};
    kernels.x = dtype_of<X>;
    kernels.y = dtype_of<Y>;
    kernels.computed = dtype_of<Computed<Y>>;
    kernels.normalize = normalize<X, Y>;
    return kernels;
}

// Of types that are converted.
template <class X, class Y>
constexpr NormalizeKernels converting_row() {
    if constexpr (converts_on_load) {
        return row<X, Y>();
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

template <class From, class To>
inline void convert(const From* from, To* to, std::ptrdiff_t count) {
    each_block(0, count,
               [=](std::ptrdiff_t i, auto n) { store(to + i, n, load<float>(from + i, n)); });
}
void widen_all(DType half, const void* from, float* to, std::ptrdiff_t n) noexcept {
    if (half == DType::float16) return convert(static_cast<const Float16*>(from), to, n);
    convert(static_cast<const Bfloat16*>(from), to, n);
}
void narrow_all(DType half, const float* from, void* to, std::ptrdiff_t n) noexcept {
    if (half == DType::float16) return convert(from, static_cast<Float16*>(to), n);
    convert(from, static_cast<Bfloat16*>(to), n);
}

}  // namespace

extern constexpr NormalizeTable normalize_table = {
    {row<float, float>(), row<double, double>(), converting_row<Float16, Float16>(),
     converting_row<Bfloat16, Bfloat16>(), converting_row<std::uint8_t, float>()},
    fold_affine,
    fold_input_gradient,
    widen_all,
    narrow_all};

}  // namespace fastbn::FASTBN_ISA
