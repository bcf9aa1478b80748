// The kernels from dy to dx: sum(dz) and sum(dz * xhat) of a tile, added to those of its channels,
// where dz is dy or what the activation let through of it; and then dx, which is computed
// elementwise, and dz beside it where the activation's input had another summand:
//
//     dz = dy * activation'((x * z.pre - z.center) * z.scale + z.shift + residual)
//     dx = (dz * dy_pre - flow) * scale,  flow = w * ((x * pre - center) * coef_x + coef_const)
//
// where flow is what comes back through the statistics, and w the value's weight in them. How the
// coefficients follow from the formula of batch normalization: write_input_gradient. See
// moments.cpp for how this is compiled.
#include "kernels/elementwise.hpp"
#include "kernels/table.hpp"
#include "numerics/dtype.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- What is added for a block ----

// sum(dz) and sum(dz * xhat), xhat = (x - mean) * invstd. Multiplying by invstd here, rather than
// once at the end, costs nothing beside the loads and keeps float64 products from overflowing.
//
// skip_zeros: where dz is 0 nothing is added, whatever x is. It may be NaN, in values that
// have no weight and whose y nobody looks at.
struct GradientBlocks {
    Wide dz;
    Wide dz_xhat;

    // Adds the values of registers k to the sums that such registers hold.
    static void add(int k, Vec<double>& sum_dz, Vec<double>& sum_dz_xhat, Vec<double> dz_k,
                    Vec<double> x_k, Vec<double> mean, Vec<double> invstd, bool skip_zeros) {
        const Vec<double> xhat = subtract_by_fma(x_k, mean) * invstd;
        Vec<double> product = dz_k * xhat;
        if (skip_zeros) product = Vec<double>::zero_where_zero(dz_k, product);
        sum_dz = add_evenly(k, sum_dz, dz_k);
        sum_dz_xhat = sum_dz_xhat + product;
    }
    template <class Y, class X, class N>
    void add(const Y* dz_at, const X* x_at, N n, const Wide& mean, const Wide& invstd,
             bool skip_zeros) {
        each_register(n, [&](int k, auto in) {
            add(k, load_register(dz_at, k, in, Wide{}), load_register(x_at, k, in, mean), mean,
                invstd, skip_zeros);
        });
    }

private:
    void add(int k, Vec<double> dz_k, Vec<double> x_k, const Wide& mean, const Wide& invstd,
             bool skip_zeros) {
        add(k, dz.reg[k], dz_xhat.reg[k], dz_k, x_k, mean.reg[k], invstd.reg[k], skip_zeros);
    }
};

// dz = dy, without an activation.
template <class Y, bool skip_zeros>
struct PlainGradient {
    using C = Computed<Y>;
    static constexpr bool is_plain = true;
    static constexpr bool skips_zeros() { return skip_zeros; }

    template <class X, class N>
    void add(GradientBlocks& blocks, const Y* dy, const X* x_at, std::ptrdiff_t, std::ptrdiff_t,
             N n, const Wide& mean, const Wide& invstd) const {
        blocks.add(dy, x_at, n, mean, invstd, skip_zeros);
    }
    template <class N>
    Block<C> dz(const Y* dy, const Block<C>&, std::ptrdiff_t, std::ptrdiff_t, N n) const {
        return load<C>(dy, n);
    }
    template <class Prefetch>
    void prefetch_residual(const Prefetch&) const {}
};

// With an activation, by z, which is the forward pass's own. relu_alone: what most are,
// with a loop of its own.
template <class Y, bool relu_alone>
struct ActivatedGradient {
    using C = Computed<Y>;
    static constexpr bool is_plain = false;
    ActivationOf<C> activation;
    Tile<const Y> residual;
    Block<C> pre;
    AffineBlocks<C> affine;
    bool skip_zeros;
    bool skips_zeros() const { return !relu_alone && skip_zeros; }

    // at(array): a block of a coefficient's array, for the columns at hand or one for all.
    template <class At>
    ActivatedGradient(const ActivationGradient& of, const At& at)
        : activation(of.activation),
          residual(typed<const Y>(of.residual)),
          pre(of.z.pre != nullptr ? at(static_cast<const C*>(of.z.pre)) : broadcast(C(1))),
          affine(affine_blocks(typed<const C>(of.z), at)),
          skip_zeros(of.skip_zeros) {}

    // Adds the dz and dz * xhat of a part of a block.
    template <class X>
    void add(GradientBlocks& blocks, const Y* dy, const X* x, std::ptrdiff_t r, std::ptrdiff_t i,
             std::ptrdiff_t n, const Wide& mean, const Wide& invstd) const {
        C values[lanes];
        store(values, Full{}, dz(dy, load<C>(x, n), r, i, n));
        blocks.add(values, x, n, mean, invstd, skips_zeros());
    }
    template <class N>
    Block<C> dz(const Y* dy, const Block<C>& x, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        Block<C> block = load<C>(dy, n);
        if constexpr (relu_alone) {
            apply_relu_gradient((x - affine.center) * affine.scale + affine.shift, block);
        } else {
            Block<C> z = (x * pre - affine.center) * affine.scale + affine.shift;
            if (residual.data != nullptr) {
                z = z + load<C>(residual.data + r * residual.stride + i, n);
            }
            activation.apply_gradient(z, block);
        }
        return block;
    }
    // Calls prefetch(residual) if there is one.
    template <class Prefetch>
    void prefetch_residual(const Prefetch& prefetch) const {
        if (!relu_alone && residual.data != nullptr) prefetch(residual);
    }
};

inline bool is_relu_alone(const ActivationGradient& of) {
    return of.activation.kind == ActivationKind::relu && of.residual.data == nullptr &&
           of.z.pre == nullptr && !of.skip_zeros;
}

// Calls body(gradient), where gradient.dz(dy, x, r, i, n) is a block's dz, and gradient.add(blocks,
// dy, x, r, i, n, mean, invstd) adds a block that is not computed first, or a part of any.
template <class Y, class At, class Body>
inline void with_gradient(const ActivationGradient& of, const At& at, const Body& body) {
    const bool is_activated = of.activation.kind != ActivationKind::none;
    if (!is_activated && !of.skip_zeros) {
        body(PlainGradient<Y, false>{});
    } else if (!is_activated) {
        body(PlainGradient<Y, true>{});
    } else if (is_relu_alone(of)) {
        body(ActivatedGradient<Y, true>(of, at));
    } else {
        body(ActivatedGradient<Y, false>(of, at));
    }
}

// ---- The loops ----

// Whether dz is not in memory as it is added up.
template <class Gradient, class Y>
constexpr bool is_computed = !Gradient::is_plain || sizeof(Y) < sizeof(Computed<Y>);

// Some blocks of dz and x as they are added up. In memory: from there they are widened with fewer
// operations than from registers.
template <class C>
struct BlockValues {
    C dz[group_rows][lanes];
    C x[group_rows][lanes];

    template <class X, class Y, class Gradient, class N>
    void set(std::ptrdiff_t j, const Gradient& gradient, const Y* dy, const X* x_at,
             std::ptrdiff_t r, std::ptrdiff_t i, N n) {
        const Block<C> x_block = load<C>(x_at, n);
        store(dz[j], Full{}, gradient.dz(dy, x_block, r, i, n));
        store(x[j], Full{}, x_block);
    }

    // Adds rows of a block of n columns to their sums. Two registers of these at a time, since some
    // processors have too few for the sums and statistics of a block.
    template <class N>
    void add_to(const double* means, const double* invstds, const GradientSums& sums,
                std::ptrdiff_t rows, N n, bool skip_zeros) const {
        constexpr int registers = Wide::registers < 2 ? 1 : 2;
        const Wide mean = load<double>(means, n);
        const Wide invstd = load<double>(invstds, n);
        GradientBlocks blocks{load<double>(sums.dy, n), load<double>(sums.dy_xhat, n)};
        FASTBN_UNROLL
        for (int first = 0; first < Wide::registers; first += registers) {
            for (std::ptrdiff_t r = 0; r < rows; ++r) {
                FASTBN_UNROLL
                for (int k = first; k < first + registers; ++k) {
                    const std::ptrdiff_t at = k * Wide::width;
                    GradientBlocks::add(k, blocks.dz.reg[k], blocks.dz_xhat.reg[k],
                                        Vec<double>::load(dz[r] + at), Vec<double>::load(x[r] + at),
                                        mean.reg[k], invstd.reg[k], skip_zeros);
                }
            }
        }
        store(sums.dy, n, blocks.dz);
        store(sums.dy_xhat, n, blocks.dz_xhat);
    }
};

// Adds row r of a tile of one channel.
template <class X, class Y, class Gradient, class Prefetch>
inline void add_row(GradientBlocks& blocks, const Gradient& gradient, const Y* dy, const X* x,
                    std::ptrdiff_t r, std::ptrdiff_t cols, const Wide& mean, const Wide& invstd,
                    const Prefetch& prefetch_all) {
    using C = Computed<Y>;
    const auto add = [&](std::ptrdiff_t i, auto n) {
        prefetch_all(i);
        gradient.add(blocks, dy + i, x + i, r, i, n, mean, invstd);
    };
    if constexpr (is_computed<Gradient, Y>) {
        std::ptrdiff_t i = 0;
        while (i + lanes <= cols) {
            BlockValues<C> values;
            std::ptrdiff_t n = 0;
            for (; n < group_rows && i + lanes <= cols; ++n, i += lanes) {
                prefetch_all(i);
                values.set(n, gradient, dy + i, x + i, r, i, Full{});
            }
            for (std::ptrdiff_t j = 0; j < n; ++j) {
                blocks.add(values.dz[j], values.x[j], Full{}, mean, invstd, gradient.skips_zeros());
            }
        }
        if (i < cols) add(i, cols - i);
    } else {
        each_block(0, cols, add);
    }
}

// Adds the tile of one channel, whose place in the arrays of statistics, coefficients and sums is
// `entry`. Not inlined, or the loop over channels would be compiled once for each kind of gradient.
template <class X, class Y>
FASTBN_FLATTEN [[gnu::noinline]] void add_tile(Tile<const Y> dy, Tile<const X> x,
                                               std::ptrdiff_t rows, std::ptrdiff_t cols,
                                               std::ptrdiff_t entry, const double* means,
                                               const double* invstds, const GradientSums& sums,
                                               const ActivationGradient& activation) {
    using C = Computed<Y>;
    const Wide mean = broadcast(means[entry]);
    const Wide invstd = broadcast(invstds[entry]);
    const RowPrefetch<Y> next_dy(dy, cols);
    const RowPrefetch<X> next_x(x, cols);
    const RowPrefetch<Y> next_residual(typed<const Y>(activation.residual), cols);
    GradientBlocks blocks{};
    const auto at = [=](const C* array) { return broadcast(array[entry]); };
    with_gradient<Y>(activation, at, [&](const auto& gradient) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const Y* dy_row = dy.data + r * dy.stride;
            const X* x_row = x.data + r * x.stride;
            const auto prefetch_all = [&](std::ptrdiff_t i) {
                next_dy.at(dy_row, i);
                next_x.at(x_row, i);
                gradient.prefetch_residual([&](Tile<const Y> residual) {
                    next_residual.at(residual.data + r * residual.stride, i);
                });
            };
            add_row(blocks, gradient, dy_row, x_row, r, cols, mean, invstd, prefetch_all);
        }
    });
    sums.dy[entry] += horizontal_sum(blocks.dz);
    sums.dy_xhat[entry] += horizontal_sum(blocks.dz_xhat);
}

template <class X, class Y>
void gradient_sums_of_tile(Tile<const void> untyped_dy, Tile<const void> untyped_x,
                           std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t channels,
                           const double* means, const double* invstds, GradientSums sums,
                           ActivationGradient activation) noexcept {
    Tile<const Y> dy = typed<const Y>(untyped_dy);
    Tile<const X> x = typed<const X>(untyped_x);
    const Tile<const Y> residual = typed<const Y>(activation.residual);
    for (std::ptrdiff_t c = 0; c < channels; ++c, dy.data += cols, x.data += cols) {
        if (residual.data != nullptr) activation.residual.data = residual.data + c * cols;
        add_tile(dy, x, rows, cols, c, means, invstds, sums, activation);
    }
}

// Adds a block of n columns from i on, of rows `begin` to `end`, to the sums of these columns.
template <class X, class Y, class Gradient, class N, class Prefetch>
inline void add_group(const Gradient& gradient, Tile<const Y> dy, Tile<const X> x,
                      std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t i, N n,
                      const double* means, const double* invstds, const GradientSums& sums,
                      const Prefetch& prefetch_row) {
    using C = Computed<Y>;
    if constexpr (!is_computed<Gradient, Y> && is_full<N>) {
        const Wide mean = load<double>(means, n);
        const Wide invstd = load<double>(invstds, n);
        GradientBlocks blocks{load<double>(sums.dy, n), load<double>(sums.dy_xhat, n)};
        for (std::ptrdiff_t r = begin; r < end; ++r) {
            prefetch_row();
            gradient.add(blocks, dy.data + r * dy.stride + i, x.data + r * x.stride + i, r, i, n,
                         mean, invstd);
        }
        store(sums.dy, n, blocks.dz);
        store(sums.dy_xhat, n, blocks.dz_xhat);
    } else {
        BlockValues<C> values;
        for (std::ptrdiff_t r = begin; r < end; ++r) {
            prefetch_row();
            values.set(r - begin, gradient, dy.data + r * dy.stride + i, x.data + r * x.stride + i,
                       r, i, n);
        }
        values.add_to(means, invstds, sums, end - begin, n, gradient.skips_zeros());
    }
}

template <class X, class Y>
FASTBN_FLATTEN void gradient_sums_of_columns(Tile<const void> untyped_dy,
                                             Tile<const void> untyped_x, std::ptrdiff_t rows,
                                             std::ptrdiff_t cols, std::ptrdiff_t /*channels*/,
                                             const double* means, const double* invstds,
                                             GradientSums sums,
                                             ActivationGradient activation) noexcept {
    using C = Computed<Y>;
    const Tile<const Y> dy = typed<const Y>(untyped_dy);
    const Tile<const X> x = typed<const X>(untyped_x);
    ColumnPrefetch<Y> dy_ahead(dy, cols);
    ColumnPrefetch<X> x_ahead(x, cols);
    ColumnPrefetch<Y> residual_ahead(typed<const Y>(activation.residual), cols);
    const auto begin = [&](std::ptrdiff_t r) {
        dy_ahead.begin_group(r);
        x_ahead.begin_group(r);
        residual_ahead.begin_group(r);
    };
    each_row_group(
        rows, cols, columns_before_competing_lines(x, cols), begin,
        [&](std::ptrdiff_t r, std::ptrdiff_t end, std::ptrdiff_t i, auto n) {
            const auto at = [=](const C* array) { return load<C>(array + i, n); };
            const GradientSums here = from(sums, i);
            with_gradient<Y>(activation, at, [&](const auto& gradient) {
                const auto prefetch_row = [&] {
                    dy_ahead.next_block();
                    x_ahead.next_block();
                    gradient.prefetch_residual([&](Tile<const Y>) { residual_ahead.next_block(); });
                };
                add_group(gradient, dy, x, r, end, i, n, means + i, invstds + i, here,
                          prefetch_row);
            });
        });
}

// ---- Coefficients ----

template <class C>
struct InputGradientBlocks {
    Block<C> center;
    Block<C> coef_x;
    Block<C> coef_const;
    Block<C> scale;
    Block<C> z_shift;  // for z, which has the same center and scale as dx
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
    // value had no weight, even if the flow is NaN or infinite.
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
    constexpr std::uintptr_t boundary = line_bytes;
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
constexpr GradientKernels gradient_row() {
    GradientKernels kernels{};
    kernels.x = dtype_of<X>;
    kernels.dy = dtype_of<Y>;
    kernels.computed = dtype_of<Computed<Y>>;
    kernels.sums = {gradient_sums_of_tile<X, Y>, gradient_sums_of_columns<X, Y>};
    kernels.input_gradient = input_gradient<X, Y>;
    return kernels;
}

// The row of types that are converted as they are loaded and stored: empty where the set has none.
template <class X, class Y>
constexpr GradientKernels converting_gradient_row() {
    if constexpr (converts_on_load) {
        return gradient_row<X, Y>();
    } else {
        return {};
    }
}

}  // namespace

extern constexpr GradientKernels gradient_table[gradient_rows] = {
    gradient_row<float, float>(), gradient_row<double, double>(),
    converting_gradient_row<Float16, Float16>(), converting_gradient_row<Bfloat16, Bfloat16>()};

}  // namespace fastbn::FASTBN_ISA
