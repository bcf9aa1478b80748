// The backward pass: dbias = sum(dy), dweight = sum(dy * xhat), then dx.
#include <cstddef>
#include <vector>

#include "engine/coefficients.hpp"
#include "engine/driver.hpp"
#include "engine/operations.hpp"
#include "engine/passes.hpp"

namespace fastbn {
namespace {

using Values = std::vector<double>;

std::size_t index(std::ptrdiff_t channel) { return static_cast<std::size_t>(channel); }

// Channels' values, each as often as the channel has columns.
Values per_entry(const Values& values, const Layout& layout) {
    Values repeated;
    repeated.reserve(values.size() * index(layout.repeat));
    for (const double value : values) repeated.insert(repeated.end(), index(layout.repeat), value);
    return repeated;
}

template <class T>
struct BackwardOperation {
    static constexpr Fields fields{2, 6};
    static constexpr bool reduces = true;
    static constexpr bool transforms = true;

    const Plan& plan;
    Operand dy;
    Operand x;
    Operand dx;
    bool stream;
    bool through_statistics;
    const Values& weight;
    const Values& mean;
    const Values& invstd;
    Values entry_mean;  // the same per entry
    Values entry_invstd;
    double* dweight;
    double* dbias;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        sum_gradients(plan, dy, x, entry_mean.data(), entry_invstd.data(), slab, span, entries,
                      scratch);
    }
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        const double count = static_cast<double>(plan.layout.count);
        for (std::ptrdiff_t c = slab.channel; c < slab.channel + slab.channels; ++c) {
            dbias[c] = total(0, c, entries);
            dweight[c] = total(1, c, entries);
            const std::size_t i = index(c);
            if (through_statistics) {
                store(fold_input_gradient<T>(mean[i], invstd[i], weight[i], dbias[c] / count,
                                             dweight[c] / count),
                      plan, c, entries);
            } else {
                // Constant statistics: dx = weight * invstd * dy, an affine map of dy.
                store(fold_affine<T>(0.0, 0.0, invstd[i], weight[i], 0.0), plan, c, entries);
            }
        }
    }
    void transform(const TileRange& tile, const Entries<T>& entries,
                   const Scratch<T>& scratch) const noexcept {
        if (through_statistics) {
            apply_input_gradient(plan, dy, x, dx, stream, tile, entries, scratch);
        } else {
            apply_affine(plan, dy, dx, stream, tile, entries, scratch);
        }
    }

private:
    // A channel's sum over its columns and spans, in order.
    double total(int field, std::ptrdiff_t channel, const Entries<T>& entries) const {
        const std::ptrdiff_t repeat = plan.layout.repeat;
        double sum = 0.0;
        for (std::ptrdiff_t e = channel * repeat; e < (channel + 1) * repeat; ++e) {
            for (std::ptrdiff_t span = 0; span < plan.spans; ++span) {
                sum += *entries.sum(field, span, e);
            }
        }
        return sum;
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
    const Values weights = read_parameter(weight, features, 1.0);
    const Values means = read_parameter(mean, features, 0.0);
    const Values invstds = read_parameter(invstd, features, 1.0);
    const bool in_place = dx.data == x.data || dx.data == dy.data;
    visit_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        BackwardOperation<T> operation{plan,
                                       operand_of(dy, plan.layout),
                                       operand_of(x, plan.layout),
                                       operand_of(dx, plan.layout),
                                       !in_place && worth_streaming(plan),
                                       through_statistics,
                                       weights,
                                       means,
                                       invstds,
                                       per_entry(means, plan.layout),
                                       per_entry(invstds, plan.layout),
                                       dweight,
                                       dbias};
        const bool direct = operation.dy.direct && operation.x.direct && operation.dx.direct;
        execute<T>(plan, operation, direct);
    });
}

}  // namespace fastbn
