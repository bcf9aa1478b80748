// The backward pass: dbias = sum(dz), dweight = sum(dz * xhat), then dx; dz being what the activation
// let through of dy.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "engine/driver.hpp"
#include "engine/kernel_types.hpp"
#include "engine/merging.hpp"
#include "engine/operations.hpp"
#include "engine/parameters.hpp"
#include "engine/passes.hpp"
#include "engine/shares.hpp"
#include "engine/slab_coefficients.hpp"

namespace fastbn {
namespace {

// Channels' values per entry: each as often as the channel has columns, and all as often as rows
// are abreast.
template <class C>
class PerEntry {
public:
    PerEntry(const C* values, std::ptrdiff_t channels, const Layout& layout) : data_(values) {
        const std::ptrdiff_t copies = layout.repeat * layout.abreast;
        if (copies == 1) return;
        repeated_.reserve(static_cast<std::size_t>(channels * copies));
        for (std::ptrdiff_t i = 0; i < layout.abreast; ++i) {
            for (std::ptrdiff_t c = 0; c < channels; ++c) {
                repeated_.insert(repeated_.end(), static_cast<std::size_t>(layout.repeat),
                                 values[c]);
            }
        }
        data_ = repeated_.data();
    }
    PerEntry(const PerEntry&) = delete;
    PerEntry& operator=(const PerEntry&) = delete;

    const C* data() const { return data_; }

private:
    std::vector<C> repeated_;
    const C* data_;
};

// The forward pass's own coefficients, from which the sign of z follows as it did there.
template <class C>
class GateMemory {
public:
    GateMemory(const Activation<double>& activation, const AffineSource& source,
               const Features& features, const Layout& layout)
        : activation_{activation.kind, static_cast<C>(activation.slope)},
          n_(activation.kind == ActivationKind::none ? 0 : features.channels),
          values_(static_cast<std::size_t>(4 * n_)),
          pre_(folded(source), n_, layout),
          center_(values_.data() + n_, n_, layout),
          scale_(values_.data() + 2 * n_, n_, layout),
          shift_(values_.data() + 3 * n_, n_, layout) {}

    GateCoefficients<C> coefficients() const {
        return {activation_, {pre_.data(), center_.data(), scale_.data(), shift_.data()}};
    }

private:
    const C* folded(const AffineSource& source) {
        C* const to = values_.data();
        fold_affine<C>(source, {to, to + n_, to + 2 * n_, to + 3 * n_}, n_);
        return to;
    }

    Activation<C> activation_;
    std::ptrdiff_t n_;
    std::vector<C> values_;
    PerEntry<C> pre_;
    PerEntry<C> center_;
    PerEntry<C> scale_;
    PerEntry<C> shift_;
};

template <class X, class Y>
struct BackwardOperation {
    using C = Computed<Y>;
    static constexpr Fields fields{3, 6};
    static constexpr bool reduces = true;
    static constexpr bool transforms = true;

    const Plan& plan;
    GradientOperands of;
    Operand packed_shares;
    const Shares& shares;
    bool through_statistics;
    AffineSource channels;  // all of them, from the first on
    const double* entry_mean;
    const double* entry_invstd;
    GateCoefficients<C> gate;
    double* dweight;
    double* dbias;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<C>& entries,
                const Scratch& scratch) const noexcept {
        sum_gradients<X, Y>(plan, of, entry_mean, entry_invstd, gate, slab, span, entries, scratch);
        if (weighted()) sum_shares(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<C>& entries) const noexcept {
        for (int field = 0; field < (weighted() ? 3 : 2); ++field) {
            merge_entries(field, slab, entries);
        }
        double* const sum_dz = entries.sum(0, 0, slab.entry);
        double* const sum_dz_xhat = entries.sum(1, 0, slab.entry);
        std::copy_n(sum_dz, slab.channels, dbias + slab.channel);
        std::copy_n(sum_dz_xhat, slab.channels, dweight + slab.channel);
        double count = static_cast<double>(plan.layout.count);
        if (!through_statistics) {
            if (gate.activation.kind == ActivationKind::none) return finalize_frozen(slab, entries);
            std::fill_n(sum_dz, slab.channels, 0.0);
            std::fill_n(sum_dz_xhat, slab.channels, 0.0);
        } else if (weighted()) {
            divide_by_counts(slab, entries);
            count = 1.0;
        }
        const AffineSource c = channels_of(slab);
        store_input_gradient({c.mean, c.invstd, c.weight, sum_dz, sum_dz_xhat, count}, plan, slab,
                             entries);
    }
    void transform(const TileRange& tile, const Entries<C>& entries,
                   const Scratch& scratch) const noexcept {
        static constexpr C none = 0;
        if (!through_statistics && gate.activation.kind == ActivationKind::none) {
            apply_affine<Y, Y>(plan, of.dy, {}, of.dx, gate.activation, tile, entries, scratch);
        } else if (!through_statistics) {
            apply_input_gradient<X, Y>(plan, of, gate, {&none, 0, true}, tile, entries, scratch);
        } else if (weighted()) {
            C* const room = scratch.room<C>(packed_shares);
            shares.pack(tile, room);
            const std::ptrdiff_t stride = shares.by_row() ? 1 : tile.kernel_cols();
            apply_input_gradient<X, Y>(plan, of, gate, {room, stride, shares.by_row()}, tile,
                                       entries, scratch);
        } else {
            apply_input_gradient<X, Y>(plan, of, gate, {}, tile, entries, scratch);
        }
    }

private:
    bool weighted() const { return through_statistics && shares.differ(); }

    AffineSource channels_of(const Slab& slab) const {
        const std::ptrdiff_t c = slab.channel;
        return {channels.mean + c, channels.mean_lo + c, channels.invstd + c, channels.weight + c,
                channels.bias + c};
    }

    // Constant statistics: dx = weight * invstd * dy, an affine map of dy.
    void finalize_frozen(const Slab& slab, const Entries<C>& entries) const noexcept {
        double* const zero = entries.sum(0, 0, slab.entry);
        std::fill_n(zero, slab.channels, 0.0);
        const AffineSource c = channels_of(slab);
        store_affine({zero, zero, c.invstd, c.weight, zero}, plan, slab, entries);
    }

    // What counts in each channel, as the third sum per entry.
    void sum_shares(const Slab& slab, std::ptrdiff_t span, const Entries<C>& entries,
                    const Scratch& scratch) const noexcept {
        std::fill_n(entries.sum(2, span, slab.entry), slab.entries, 0.0);
        C* const room = scratch.room<C>(packed_shares);
        each_tile(plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t) {
            shares.pack(tile, room);
            double* const sums = entries.sum(2, span, tile.entry);
            const std::ptrdiff_t n = tile.kernel_cols();
            const bool columns = !plan.layout.channels_first();
            if (shares.by_row() || !columns) {
                double sum = 0.0;
                for (std::ptrdiff_t i = 0; i < shares.packed_size(tile); ++i) {
                    sum += static_cast<double>(room[i]);
                }
                if (shares.by_row() && !columns) sum *= static_cast<double>(n);
                for (std::ptrdiff_t i = 0; i < (columns ? n : 1); ++i) sums[i] += sum;
                return;
            }
            for (std::ptrdiff_t r = 0; r < tile.kernel_rows(); ++r) {
                for (std::ptrdiff_t i = 0; i < n; ++i) {
                    sums[i] += static_cast<double>(room[r * n + i]);
                }
            }
        });
    }

    // A channel without any gets no gradient through its statistics.
    void divide_by_counts(const Slab& slab, const Entries<C>& entries) const noexcept {
        const auto field = [&](int i) { return entries.sum(i, 0, slab.entry); };
        for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
            const double count = field(2)[c];
            for (int i = 0; i < 2; ++i) field(i)[c] = count > 0.0 ? field(i)[c] / count : 0.0;
        }
    }

    // Leaves the sums of the slab's channels side by side.
    void merge_entries(int field, const Slab& slab, const Entries<C>& entries) const noexcept {
        double* const sums = entries.sum(field, 0, slab.entry);
        merge_slab(plan, slab, [&](const Merge& m) {
            const double* const more = entries.sum(field, m.span, m.entry);
            for (std::ptrdiff_t i = 0; i < m.n; ++i) sums[i] += more[i];
        });
        const std::ptrdiff_t repeat = plan.layout.repeat;
        for (std::ptrdiff_t c = 0; c < slab.channels && repeat > 1; ++c) {
            double sum = 0.0;
            for (std::ptrdiff_t i = 0; i < repeat; ++i) sum += sums[c * repeat + i];
            sums[c] = sum;
        }
    }
};

void check(const ArrayRef& dy, const ArrayRef& x, const Features& features,
           const Following& following, const Normalization& normalization,
           const GradientsOut& out) {
    check_same_shape("dy", dy, x);
    check_same_shape("out", out.dx, x);
    if (following.residual) check_same_shape("residual", following.residual, x);
    const Parameters& parameters = normalization.parameters;
    if (parameters.weight) check_parameter_shape("weight", parameters.weight, features);
    if (parameters.bias) check_parameter_shape("bias", parameters.bias, features);
    check_parameter_shape("mean", normalization.mean, features);
    check_parameter_shape("invstd", normalization.invstd, features);
    if (normalization.through_statistics && !normalization.allow_single) check_trainable(features);
}

}  // namespace

void backward(const ArrayRef& dy, const ArrayRef& x, const Features& features,
              const Counting& counting, const Following& following,
              const Normalization& normalization, const GradientsOut& out) {
    check(dy, x, features, following, normalization, out);
    Shares shares(counting, x, features);
    if (features.empty()) {
        std::fill_n(out.dweight, features.channels, 0.0);
        std::fill_n(out.dbias, features.channels, 0.0);
        return;
    }

    Plan plan = plan_of(x, features);
    if (shares.differ()) shares.arrange(plan.layout);
    const Values weight(normalization.parameters.weight, features, 1.0);
    const Values bias(normalization.parameters.bias, features, 0.0);
    const Values mean(normalization.mean, features, 0.0);
    const Values invstd(normalization.invstd, features, 1.0);
    const Values zero({}, features, 0.0);
    const AffineSource channels{mean.data(), zero.data(), invstd.data(), weight.data(),
                                bias.data()};
    const PerEntry<double> entry_mean(mean.data(), mean.size(), plan.layout);
    const PerEntry<double> entry_invstd(invstd.data(), invstd.size(), plan.layout);
    visit_kernel_types(x.dtype, dy.dtype, [&](auto types) {
        using X = typename decltype(types)::Input;
        using Y = typename decltype(types)::Output;
        const GateMemory<Computed<Y>> gate(following.activation, channels, features, plan.layout);
        BackwardOperation<X, Y> operation{plan,
                                          {operand_of<Y>(dy, plan.layout),
                                           operand_of<X>(x, plan.layout),
                                           operand_of<Y>(following.residual, plan.layout),
                                           operand_of<Y>(out.dx, plan.layout),
                                           operand_of<Y>(out.dz, plan.layout)},
                                          Shares::packed(),
                                          shares,
                                          normalization.through_statistics,
                                          channels,
                                          entry_mean.data(),
                                          entry_invstd.data(),
                                          gate.coefficients(),
                                          out.dweight,
                                          out.dbias};
        Rooms rooms(plan);
        GradientOperands& of = operation.of;
        for (Operand* o : {&of.dy, &of.x, &of.residual, &of.dx, &of.dz}) rooms.add(*o);
        const bool weighted = normalization.through_statistics && shares.differ();
        if (weighted) rooms.add(operation.packed_shares);
        const bool whole_rows = !weighted || shares.by_row();
        const bool in_runs = !weighted || (shares.by_row() && shares.same_in_channels());
        execute<Computed<Y>>(
            plan, operation,
            {{&of.dy, &of.x, &of.residual}, {&of.dx, &of.dz}, whole_rows, in_runs}, rooms);
    });
}

}  // namespace fastbn
