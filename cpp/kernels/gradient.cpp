// The kernels from dy to dx; gradient_sums.hpp has the sums that go before. dx is computed
// elementwise, and dz beside it where the activation's input had another summand:
//
//     dz = dy * activation'((x * z.pre - z.center) * z.scale + z.shift + residual)
//     dx = (dz * dy_pre - flow) * scale,  flow = w * ((x * pre - center) * coef_x + coef_const)
//
// where flow is what comes back through the statistics, and w the value's weight in them. How the
// coefficients follow from the formula of batch normalization: write_input_gradient. See
// moments.cpp for how this is compiled.
#include "kernels/elementwise.hpp"
#include "kernels/gradient_sums.hpp"
#include "kernels/table.hpp"
#include "numerics/dtype.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- Coefficients ----

template <class C>
struct InputGradientBlocks {
    Block<C> center;
    Block<C> coef_x;
    Block<C> coef_const;
    Block<C> scale;
    Block<C> z_shift;  // for the sign of z, which has the same center and scale as dx
};

template <class C>
inline InputGradientBlocks<C> blend(std::ptrdiff_t n, const InputGradientBlocks<C>& a,
                                    const InputGradientBlocks<C>& b) {
    InputGradientBlocks<C> both;
    both.center = blend(n, a.center, b.center);
    both.coef_x = blend(n, a.coef_x, b.coef_x);
    both.coef_const = blend(n, a.coef_const, b.coef_const);
    both.scale = blend(n, a.scale, b.scale);
    both.z_shift = blend(n, a.z_shift, b.z_shift);
    return both;
}

// ---- What a call may ask for ----

// The branches go the same way for a whole tile.
template <class Y>
class GradientOptions {
public:
    using C = Computed<Y>;

    GradientOptions(const ActivationGradient& of, const GradientWeights& weights, Tile<Y> dz,
                    bool streams_dz, std::ptrdiff_t prefetch)
        : has_activation_(of.activation.kind != ActivationKind::none),
          activation_(of.activation),
          residual_(typed<const Y>(of.residual)),
          next_residual_(prefetch),
          dz_(dz),
          streams_dz_(streams_dz),
          weights_(weights),
          rows_per_column_(1.0 / static_cast<double>(weights.row_width)) {}

    bool has_activation() const { return has_activation_; }
    bool any_but_activation() const {
        return residual_.data != nullptr || dz_.data != nullptr || weights_.frozen ||
               weights_.rows != nullptr || weights_.mask.data != nullptr ||
               weights_.elements.data != nullptr;
    }

    // From dy to dz, by z without its residual.
    template <class N>
    void activate(Block<C>& dy, Block<C> z, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (!has_activation_) return;
        if (residual_.data != nullptr) {
            const Y* const at = residual_.data + r * residual_.stride + i;
            next_residual_.at(at);
            z = z + load<C>(at, n);
        }
        activation_.apply_gradient(z, dy);
        if (dz_.data != nullptr) put_dz(dz_.data + r * dz_.stride + i, n, dy);
    }

    // Multiplies what flows back through the statistics by the value's weight in them: 0 where the
    // value did not count, even if the flow is NaN or infinite.
    template <class N>
    void weigh(Block<C>& flow, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (weights_.frozen) {
            FASTBN_UNROLL
            for (Vec<C>& reg : flow.reg) reg = Vec<C>::broadcast(C(0));
        } else if (weights_.mask.data != nullptr) {
            keep(load<C>(weights_.mask.data + r * weights_.mask.stride + i, n), flow, flow);
        } else if (weights_.rows != nullptr) {
            const Block<C> weight = row_weights(r, i, count_of(n));
            keep(weight, weight * flow, flow);
        } else if (weights_.elements.data != nullptr) {
            const Tile<const C> elements = typed<const C>(weights_.elements);
            const Block<C> weight = load<C>(elements.data + r * elements.stride + i, n);
            keep(weight, weight * flow, flow);
        }
    }

private:
    // A tile's row may consist of several that have a weight each, none narrower than a block.
    Block<C> row_weights(std::ptrdiff_t r, std::ptrdiff_t i, std::ptrdiff_t n) const {
        // The 0.5 keeps the product half a column from an integer: rounding moves it far less.
        const auto before =
            static_cast<std::ptrdiff_t>((static_cast<double>(i) + 0.5) * rows_per_column_);
        const double* const row = weights_.rows + r + before;
        const std::ptrdiff_t left = (before + 1) * weights_.row_width - i;
        const Block<C> here = broadcast(static_cast<C>(row[0]));
        return left >= n ? here : blend(left, here, broadcast(static_cast<C>(row[1])));
    }
    template <class N>
    void put_dz(Y* to, N n, const Block<C>& block) const {
        if constexpr (is_full<N>) {
            if (streams_dz_) return stream(to, block);
        }
        store(to, n, block);
    }
    static void keep(const Block<C>& weight, const Block<C>& weighted, Block<C>& flow) {
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) {
            flow.reg[k] = Vec<C>::zero_unless_positive(weight.reg[k], weighted.reg[k]);
        }
    }

    bool has_activation_;
    ActivationOf<C> activation_;
    Tile<const Y> residual_;
    SlabPrefetch<Y> next_residual_;
    Tile<Y> dz_;
    bool streams_dz_;
    GradientWeights weights_;
    double rows_per_column_;
};

// Whether dz may go past the caches where dx does: its blocks must lie on the same boundaries.
template <class Y>
inline bool aligned_alike(Tile<Y> dx, Tile<Y> dz) {
    constexpr std::uintptr_t boundary = 64;
    return dz.stride == dx.stride &&
           (reinterpret_cast<std::uintptr_t>(dz.data) - reinterpret_cast<std::uintptr_t>(dx.data)) %
                   boundary ==
               0;
}

// ---- The kernel ----

template <class X, class Y>
// NOLINTNEXTLINE(readability-function-size): its formulas, one beside the other
FASTBN_FLATTEN void input_gradient(Tile<const void> untyped_dy, Tile<const void> untyped_x,
                                   Tile<void> untyped_dx, Tile<void> untyped_dz, Elementwise e,
                                   InputGradient<const void> untyped_coefficients,
                                   ActivationGradient activation,
                                   GradientWeights weights) noexcept {
    using C = Computed<Y>;
    const Tile<const Y> dy = typed<const Y>(untyped_dy);
    const Tile<const X> x = typed<const X>(untyped_x);
    const Tile<Y> dx = typed<Y>(untyped_dx);
    const Tile<Y> dz = typed<Y>(untyped_dz);
    const InputGradient<const C> of_dx = typed<const C>(untyped_coefficients);
    const Affine<const C> of_z = typed<const C>(activation.z);
    const bool out_of_range = of_dx.pre != nullptr || of_z.pre != nullptr;
    const bool streams_dz = !out_of_range && e.stream && aligned_alike(dx, dz);
    const GradientOptions<Y> options(activation, weights, dz, streams_dz, e.prefetch);
    const bool has_activation = options.has_activation();

    const SlabPrefetch<Y> next_dy(e.prefetch);
    const SlabPrefetch<X> next_x(e.prefetch);
    const auto load_x = [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const X* const at = x.data + r * x.stride + i;
        next_x.at(at);
        return load<C>(at, n);
    };
    const auto load_dy = [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const Y* const at = dy.data + r * dy.stride + i;
        next_dy.at(at);
        return load<C>(at, n);
    };
    const auto coefficients = [=](const auto& at) {
        InputGradientBlocks<C> c;
        c.center = at(of_dx.center);
        c.coef_x = at(of_dx.coef_x);
        c.coef_const = at(of_dx.coef_const);
        c.scale = at(of_dx.scale);
        // Without an activation z has no arrays and is not used: any array that there is will do.
        c.z_shift = at(has_activation ? of_z.shift : of_dx.coef_const);
        return c;
    };
    if (out_of_range) {
        write_by_blocks<C>(dx, e, [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& at) {
            const Block<C> x_block = load_x(r, i, n);
            Block<C> dz_block = load_dy(r, i, n);
            // Without an activation z is computed of ones, and not used.
            options.activate(
                dz_block,
                (x_block * at(of_z.pre) - at(of_z.center)) * at(of_z.scale) + at(of_z.shift), r, i,
                n);
            Block<C> flow = (x_block * at(of_dx.pre) - at(of_dx.center)) * at(of_dx.coef_x) +
                            at(of_dx.coef_const);
            options.weigh(flow, r, i, n);
            return (dz_block * at(of_dx.dy_pre) - flow) * at(of_dx.scale);
        });
    } else if (options.any_but_activation()) {
        const auto formula = [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& c) {
            const Block<C> centred = load_x(r, i, n) - c.center;
            Block<C> dz_block = load_dy(r, i, n);
            options.activate(dz_block, centred * c.scale + c.z_shift, r, i, n);
            Block<C> flow = centred * c.coef_x + c.coef_const;
            options.weigh(flow, r, i, n);
            return (dz_block - flow) * c.scale;
        };
        write_fast<C>(dx, e, coefficients, Outlined{formula});
    } else if (has_activation) {
        const ActivationOf<C> of(activation.activation);
        const auto formula = [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& c) {
            const Block<C> centred = load_x(r, i, n) - c.center;
            Block<C> dz_block = load_dy(r, i, n);
            of.apply_gradient(centred * c.scale + c.z_shift, dz_block);
            return (dz_block - (centred * c.coef_x + c.coef_const)) * c.scale;
        };
        write_fast<C>(dx, e, coefficients, Outlined{formula});
    } else {
        write_fast<C>(
            dx, e, coefficients, [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const auto& c) {
                const Block<C> flow = (load_x(r, i, n) - c.center) * c.coef_x + c.coef_const;
                return (load_dy(r, i, n) - flow) * c.scale;
            });
    }
}

// ---- The table ----

template <class X, class Y>
constexpr GradientKernels row() {
    GradientKernels kernels{};
    kernels.x = dtype_of<X>;
    kernels.dy = dtype_of<Y>;
    kernels.computed = dtype_of<Computed<Y>>;
    kernels.sums = {gradient_sums_of_tile<X, Y>, gradient_sums_of_columns<X, Y>};
    kernels.input_gradient = input_gradient<X, Y>;
    return kernels;
}

// Of types that are converted.
template <class X, class Y>
constexpr GradientKernels converting_row() {
    if constexpr (converts_on_load) {
        return row<X, Y>();
    } else {
        return {};
    }
}

}  // namespace

extern constexpr GradientKernels gradient_table[gradient_rows] = {
    row<float, float>(), row<double, double>(), converting_row<Float16, Float16>(),
    converting_row<Bfloat16, Bfloat16>()};

}  // namespace fastbn::FASTBN_ISA
