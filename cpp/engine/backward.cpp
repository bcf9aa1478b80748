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

template <class T>
struct BackwardOperation {
    static constexpr Fields fields{4, 6};
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
    double* dweight;
    double* dbias;

    void prepare(const Slab& slab, const Entries<T>& entries) const noexcept {
        for (std::ptrdiff_t i = 0; i < slab.entries; ++i) {
            const std::size_t c = index((slab.entry + i) / plan.layout.repeat);
            *entries.sum(0, 0, slab.entry + i) = mean[c];
            *entries.sum(1, 0, slab.entry + i) = invstd[c];
        }
    }
    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        sum_gradients(plan, dy, x, slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        for (std::ptrdiff_t c = slab.channel; c < slab.channel + slab.channels; ++c) {
            dbias[c] = total(2, c, entries);
            dweight[c] = total(3, c, entries);
            if (through_statistics) {
                store_input_gradient(c, entries);
            } else {
                store_frozen(c, entries);
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

    void store_input_gradient(std::ptrdiff_t channel, const Entries<T>& entries) const {
        const std::size_t c = index(channel);
        const double count = static_cast<double>(plan.layout.count);
        const InputGradientValues<T> v = fold_input_gradient<T>(
            mean[c], invstd[c], weight[c], dbias[channel] / count, dweight[channel] / count);
        const T values[fields.coefficients] = {v.pre,   v.dy_pre, v.center,
                                               v.slope, v.level,  v.scale};
        store(values, fields.coefficients, channel, entries);
    }

    // Constant statistics: dx = weight * invstd * dy, an affine map of dy.
    void store_frozen(std::ptrdiff_t channel, const Entries<T>& entries) const {
        const std::size_t c = index(channel);
        const AffineValues<T> v = fold_affine<T>(0.0, 0.0, invstd[c], weight[c], 0.0);
        const T values[] = {v.pre, v.center, v.scale, v.shift};
        store(values, 4, channel, entries);
    }

    void store(const T* values, int n, std::ptrdiff_t channel, const Entries<T>& entries) const {
        const std::ptrdiff_t repeat = plan.layout.repeat;
        for (int i = 0; i < n; ++i) {
            for (std::ptrdiff_t e = channel * repeat; e < (channel + 1) * repeat; ++e) {
                *entries.coefficient(i, e) = values[i];
            }
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
                                       dweight,
                                       dbias};
        const bool direct = operation.dy.direct && operation.x.direct && operation.dx.direct;
        choose_path(plan, true, direct);
        const Workspace<T> workspace(plan, operation.fields, direct);
        run(plan, workspace, operation);
    });
}

}  // namespace fastbn
