// The backward pass: dbias = sum(dz), dweight = sum(dz * xhat), then dx; dz being what the
// activation let through of dy.
#include <algorithm>
#include <cstddef>

#include "engine/driver.hpp"
#include "engine/gate.hpp"
#include "engine/gradient_pass.hpp"
#include "engine/kernel_types.hpp"
#include "engine/merging.hpp"
#include "engine/operations.hpp"
#include "engine/parameters.hpp"
#include "engine/passes.hpp"
#include "engine/per_entry.hpp"
#include "engine/shares.hpp"
#include "engine/slab_coefficients.hpp"

namespace fastbn {
namespace {

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
    const double* counts;  // of what counts in each channel, or null where that is not known
    GateCoefficients<C> gate;
    double* dweight;
    double* dbias;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<C>& entries,
                const Scratch& scratch) const noexcept {
        sum_gradients<X, Y>(plan, of, entry_mean, entry_invstd, gate, slab, span, entries, scratch);
        if (weighted() && counts == nullptr) sum_shares(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<C>& entries) const noexcept {
        for (int field = 0; field < 2; ++field) merge_entries(field, slab, entries);
        if (weighted() && counts == nullptr) merge_entries(2, slab, entries);
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
        GradientShares<C> of_tile{};
        if (!through_statistics) {
            if (gate.activation.kind == ActivationKind::none) {
                return apply_affine<Y, Y>(plan, of.dy, {}, of.dx, gate.activation, tile, entries,
                                          scratch);
            }
            of_tile.frozen = true;
        } else if (weighted()) {
            of_tile = shares_of(tile, scratch);
        }
        apply_input_gradient<X, Y>(plan, of, gate, of_tile, tile, entries, scratch);
    }

    bool weighted() const { return through_statistics && shares.differ(); }

private:
    GradientShares<C> shares_of(const TileRange& tile, const Scratch& scratch) const noexcept {
        auto* const room = scratch.room<std::byte>(packed_shares);
        GradientShares<C> result{};
        switch (shares.form()) {
            case Shares::Form::by_row:
                result.rows = shares.rows<C>(tile, room);
                break;
            case Shares::Form::by_mask:
                result.mask = shares.mask(tile, room);
                break;
            case Shares::Form::by_element:
                result.elements = shares.elements<C>(tile, room);
                break;
        }
        return result;
    }

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
        each_tile(plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t) {
            double* const sums = entries.sum(2, span, tile.entry);
            const GradientShares<C> of_tile = shares_of(tile, scratch);
            for (std::ptrdiff_t r = 0; r < tile.kernel_rows(); ++r) {
                add_shares(of_tile, r, tile.kernel_cols(), sums);
            }
        });
    }

    // Of one row: to a sum for each column, or to the one for all.
    void add_shares(const GradientShares<C>& from, std::ptrdiff_t r, std::ptrdiff_t n,
                    double* sums) const noexcept {
        const bool columns = !plan.layout.channels_first();
        const auto add = [=](const auto& share) {
            auto sum = decltype(share(0)){};
            for (std::ptrdiff_t i = 0; i < n && columns; ++i) sums[i] += share(i);
            for (std::ptrdiff_t i = 0; i < n && !columns; ++i) sum += share(i);
            if (!columns) *sums += static_cast<double>(sum);
        };
        if (from.rows != nullptr) {
            const double share = static_cast<double>(from.rows[r]);
            if (!columns) *sums += share * static_cast<double>(n);
            for (std::ptrdiff_t i = 0; i < n && columns; ++i) sums[i] += share;
        } else if (from.mask.data != nullptr) {
            const std::uint8_t* const at = from.mask.data + r * from.mask.stride;
            add([=](std::ptrdiff_t i) { return at[i] != 0 ? 1 : 0; });
        } else {
            const C* const at = from.elements.data + r * from.elements.stride;
            add([=](std::ptrdiff_t i) { return static_cast<double>(at[i]); });
        }
    }

    // A channel without any gets no gradient through its statistics.
    void divide_by_counts(const Slab& slab, const Entries<C>& entries) const noexcept {
        const double* const counted =
            counts != nullptr ? counts + slab.channel : entries.sum(2, 0, slab.entry);
        const double unit = counts != nullptr ? shares.unit() : 1.0;
        for (int field = 0; field < 2; ++field) {
            double* const sums = entries.sum(field, 0, slab.entry);
            for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
                const double count = counted[c] / unit;
                sums[c] = count > 0.0 ? sums[c] / count : 0.0;
            }
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
    check_parameters(normalization.parameters, features);
    check_parameter_shape("mean", normalization.mean, features);
    check_parameter_shape("invstd", normalization.invstd, features);
    if (normalization.count) check_parameter_shape("count", normalization.count, features);
}

// The caller's parameters and statistics, out of their arrays.
struct ChannelValues {
    Values weight;
    Values bias;
    Values mean;
    Values invstd;
    Values count;
    Values zero;

    ChannelValues(const Normalization& of, const Features& features)
        : weight(of.parameters.weight, features, 1.0),
          bias(of.parameters.bias, features, 0.0),
          mean(of.mean, features, 0.0),
          invstd(of.invstd, features, 1.0),
          count(of.count, features, 0.0),
          zero({}, features, 0.0) {}

    AffineSource source() const {
        return {mean.data(), zero.data(), invstd.data(), weight.data(), bias.data()};
    }
};

// With rooms for what must be packed, and shares among what keeps tiles small.
template <class X, class Y>
void run(Plan& plan, BackwardOperation<X, Y>& operation) {
    Rooms rooms(plan);
    GradientOperands& of = operation.of;
    for (Operand* o : {&of.dy, &of.x, &of.residual, &of.dx, &of.dz}) rooms.add(*o);
    const Shares& shares = operation.shares;
    const bool weighted = operation.weighted();
    if (weighted && !shares.is_direct()) rooms.add(operation.packed_shares);
    const bool by_row = shares.form() == Shares::Form::by_row;
    const bool whole_rows = !weighted || by_row || shares.is_direct();
    const bool in_runs = !weighted || (by_row && shares.same_in_channels());
    execute<Computed<Y>>(plan, operation,
                         {{&of.dy, &of.x, &of.residual}, {&of.dx, &of.dz}, whole_rows, in_runs},
                         rooms);
}

}  // namespace

void backward(const ArrayRef& dy, const ArrayRef& x, const Features& features,
              const Counting& counting, const Following& following,
              const Normalization& normalization, const GradientsOut& out) {
    check(dy, x, features, following, normalization, out);
    Shares shares(counting, x, features);
    if (normalization.through_statistics && !normalization.allow_single) {
        check_trainable(features, shares.most_counted());
    }
    if (features.empty()) {
        for (double* const to : {out.dweight, out.dbias}) std::fill_n(to, features.channels, 0.0);
        return;
    }

    Layout layout = layout_of(x, features);
    const bool weighted = normalization.through_statistics && shares.differ();
    if (weighted) shares.arrange(layout);
    Plan plan = plan_of(layout, x.dtype, weighted && shares.form() == Shares::Form::by_element);
    const ChannelValues values(normalization, features);
    const AffineSource channels = values.source();
    const PerEntry<double> entry_mean(channels.mean, features.channels, plan.layout);
    const PerEntry<double> entry_invstd(channels.invstd, features.channels, plan.layout);
    visit_kernel_types(x.dtype, dy.dtype, [&](auto types) {
        using X = typename decltype(types)::Input;
        using Y = typename decltype(types)::Output;
        const GateMemory<Computed<Y>> gate(following.activation, channels, features, plan.layout);
        BackwardOperation<X, Y> operation{
            plan,
            {operand_of<Y>(dy, plan.layout), operand_of<X>(x, plan.layout),
             operand_of<Y>(following.residual, plan.layout), operand_of<Y>(out.dx, plan.layout),
             operand_of<Y>(out.dz, plan.layout)},
            Shares::packed(),
            shares,
            normalization.through_statistics,
            channels,
            entry_mean.data(),
            entry_invstd.data(),
            normalization.count ? values.count.data() : nullptr,
            gate.coefficients(shares.differ()),
            out.dweight,
            out.dbias};
        run(plan, operation);
    });
}

}  // namespace fastbn
