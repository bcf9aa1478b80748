// The backward pass: dbias = sum(dy), dweight = sum(dy * xhat), then dx.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "engine/driver.hpp"
#include "engine/merging.hpp"
#include "engine/operations.hpp"
#include "engine/parameters.hpp"
#include "engine/passes.hpp"
#include "engine/slab_coefficients.hpp"

namespace fastbn {
namespace {

// Channels' values per entry: each as often as the channel has columns, and all as often as rows
// are abreast.
class PerEntry {
public:
    PerEntry(const Values& values, const Layout& layout) : data_(values.data()) {
        const std::ptrdiff_t copies = layout.repeat * layout.abreast;
        if (copies == 1) return;
        repeated_.reserve(static_cast<std::size_t>(values.size() * copies));
        for (std::ptrdiff_t i = 0; i < layout.abreast; ++i) {
            for (std::ptrdiff_t c = 0; c < values.size(); ++c) {
                repeated_.insert(repeated_.end(), static_cast<std::size_t>(layout.repeat),
                                 values[c]);
            }
        }
        data_ = repeated_.data();
    }
    PerEntry(const PerEntry&) = delete;
    PerEntry& operator=(const PerEntry&) = delete;

    const double* data() const { return data_; }

private:
    std::vector<double> repeated_;
    const double* data_;
};

template <class T>
struct BackwardOperation {
    static constexpr Fields fields{2, 6};
    static constexpr bool reduces = true;
    static constexpr bool transforms = true;

    const Plan& plan;
    Operand dy;
    Operand x;
    Operand dx;
    bool through_statistics;
    const Values& weight;
    const Values& mean;
    const Values& invstd;
    const PerEntry& entry_mean;
    const PerEntry& entry_invstd;
    double* dweight;
    double* dbias;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        sum_gradients(plan, dy, x, entry_mean.data(), entry_invstd.data(), slab, span, entries,
                      scratch);
    }
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        for (int field = 0; field < 2; ++field) merge_entries(field, slab, entries);
        const double* const sum_dy = entries.sum(0, 0, slab.entry);
        const double* const sum_dy_xhat = entries.sum(1, 0, slab.entry);
        std::copy_n(sum_dy, slab.channels, dbias + slab.channel);
        std::copy_n(sum_dy_xhat, slab.channels, dweight + slab.channel);
        if (!through_statistics) return finalize_frozen(slab, entries);
        const double count = static_cast<double>(plan.layout.count);
        store_input_gradient({mean.data() + slab.channel, invstd.data() + slab.channel,
                              weight.data() + slab.channel, sum_dy, sum_dy_xhat, count},
                             plan, slab, entries);
    }
    void transform(const TileRange& tile, const Entries<T>& entries,
                   const Scratch<T>& scratch) const noexcept {
        if (through_statistics) {
            apply_input_gradient(plan, dy, x, dx, tile, entries, scratch);
        } else {
            apply_affine(plan, dy, dx, tile, entries, scratch);
        }
    }

private:
    // Constant statistics: dx = weight * invstd * dy, an affine map of dy.
    void finalize_frozen(const Slab& slab, const Entries<T>& entries) const noexcept {
        double* const zero = entries.sum(0, 0, slab.entry);
        std::fill_n(zero, slab.channels, 0.0);
        store_affine({zero, zero, invstd.data() + slab.channel, weight.data() + slab.channel, zero},
                     plan, slab, entries);
    }

    // Leaves the sums of the slab's channels side by side.
    void merge_entries(int field, const Slab& slab, const Entries<T>& entries) const noexcept {
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

}  // namespace

void backward(const ArrayRef& dy, const ArrayRef& x, const ArrayRef& dx, const Features& features,
              const ArrayRef& weight, const ArrayRef& mean, const ArrayRef& invstd,
              bool through_statistics, double* dweight, double* dbias) {
    check_same_shape("dy", dy, x);
    check_same_shape("out", dx, x);
    if (weight) check_parameter_shape("weight", weight, features);
    check_parameter_shape("mean", mean, features);
    check_parameter_shape("invstd", invstd, features);
    if (through_statistics) check_trainable(features);
    if (features.empty()) {
        for (std::ptrdiff_t c = 0; c < features.channels; ++c) dweight[c] = dbias[c] = 0.0;
        return;
    }

    Plan plan = plan_of(x, features);
    const Values weights(weight, features, 1.0);
    const Values means(mean, features, 0.0);
    const Values invstds(invstd, features, 1.0);
    const PerEntry entry_means(means, plan.layout);
    const PerEntry entry_invstds(invstds, plan.layout);
    visit_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        BackwardOperation<T> operation{plan,
                                       operand_of(dy, plan.layout),
                                       operand_of(x, plan.layout),
                                       operand_of(dx, plan.layout),
                                       through_statistics,
                                       weights,
                                       means,
                                       invstds,
                                       entry_means,
                                       entry_invstds,
                                       dweight,
                                       dbias};
        execute<T>(plan, operation, {&operation.dy, &operation.x}, &operation.dx);
    });
}

}  // namespace fastbn
