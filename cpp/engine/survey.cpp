#include "engine/survey.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <vector>

#include "engine/dispatch.hpp"
#include "engine/pack.hpp"
#include "engine/threads.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {
namespace {

// Elements that a thread looks at together: few enough to be converted on its stack.
constexpr std::ptrdiff_t chunk = 4096;

// An array's distinct elements as one row of columns, in the order of memory.
struct Row {
    Operand elements;
    std::ptrdiff_t count = 1;

    Row(const ArrayRef& array, DType kernel_dtype) {
        elements.base = array.data;
        elements.dtype = array.dtype;
        elements.swapped = array.swapped;
        elements.kernel_dtype = kernel_dtype;
        Dim dims[max_dimensions];
        int n = 0;
        for (int i = 0; i < array.ndim; ++i) {
            if (array.shape[i] == 0) count = 0;
            if (array.shape[i] <= 1 || array.strides[i] == 0) continue;
            count *= array.shape[i];
            if (array.strides[i] < 0) {
                elements.base += (array.shape[i] - 1) * array.strides[i];
            }
            dims[n++] = {array.shape[i], std::abs(array.strides[i])};
        }
        std::stable_sort(dims, dims + n,
                         [](const Dim& a, const Dim& b) { return a.stride > b.stride; });
        for (int i = 0; i < n; ++i) elements.cols.push(dims[i].size, dims[i].stride);
        const auto address = reinterpret_cast<std::uintptr_t>(elements.base);
        const std::ptrdiff_t size = size_of(array.dtype);
        const bool dense =
            elements.cols.n == 0 || (elements.cols.n == 1 && elements.cols.dim[0].stride == size);
        elements.direct = array.dtype == kernel_dtype && !array.swapped && dense &&
                          address % static_cast<std::size_t>(size) == 0;
    }

    std::ptrdiff_t chunks() const { return (count + chunk - 1) / chunk; }
    Team team() const { return choose_team(count * size_of(elements.dtype), chunks()); }
    TileRange range(std::ptrdiff_t index) const {
        TileRange range{};
        range.rows = range.channels = range.row_fold = 1;
        range.col = index * chunk;
        range.cols = std::min(chunk, count - range.col);
        return range;
    }
};

}  // namespace

ArraySurvey survey(const ArrayRef& array, bool with_sum) {
    const DType seen = value_range_kernels(array.dtype).x;
    const Row row(array, seen);
    const ValueRangeKernel range_kernel = value_range_kernels(seen).value_range.tile;
    const MomentsKernel moments_kernel =
        moments_kernels(seen, WeightsForm::none).moments[static_cast<int>(WeightsForm::none)].tile;
    std::vector<double> sums(static_cast<std::size_t>(with_sum ? row.chunks() : 0));
    ArraySurvey found;
    std::mutex of_found;
    parallel_ranges(row.team(), row.chunks(), [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        alignas(64) std::byte staging[chunk * sizeof(double)];
        const Scratch scratch{nullptr, staging};
        ArraySurvey here;
        double nans = 0.0;
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            const TileRange range = row.range(i);
            const Tile<const void> values = input_tile(row.elements, range, scratch);
            range_kernel(values, {nullptr, 0}, 1, range.cols, {&here.min, &here.max, &nans});
            if (!with_sum) continue;
            double ref, offset, m2, m2_lo, sum, sum_lo;
            moments_kernel(values, {nullptr, 0}, 1, range.cols, 0.0,
                           {&ref, &offset, &m2, &m2_lo, &sum, &sum_lo, nullptr, nullptr}, nullptr);
            sums[static_cast<std::size_t>(i)] = std::isfinite(sum) ? sum + sum_lo : sum;
        }
        const std::lock_guard<std::mutex> lock(of_found);
        found.min = std::min(found.min, here.min);
        found.max = std::max(found.max, here.max);
        found.has_nan = found.has_nan || nans > 0.0;
    });
    double low = 0.0;
    for (const double sum : sums) {
        double error;
        found.sum = two_sum(found.sum, sum, error);
        low += error;
    }
    if (std::isfinite(found.sum)) found.sum += low;
    return found;
}

bool all_true(const ArrayRef& mask) {
    const Row row(mask, DType::boolean);
    std::atomic<bool> all{true};
    const auto look = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        for (std::ptrdiff_t i = begin; i < end && all.load(std::memory_order_relaxed); ++i) {
            const TileRange range = row.range(i);
            each_stretch(row.elements.cols, range.col, range.cols,
                         [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                             const char* const bytes = row.elements.base + offset;
                             bool here = true;
                             if (stride == 1) {
                                 here = std::memchr(bytes, 0, static_cast<std::size_t>(length)) ==
                                        nullptr;
                             } else {
                                 for (std::ptrdiff_t j = 0; j < length; ++j)
                                     here &= bytes[j * stride] != 0;
                             }
                             if (!here) all.store(false, std::memory_order_relaxed);
                         });
        }
    };
    // Most masks leave out one of their first elements, and need no other thread to say so.
    look(0, std::min<std::ptrdiff_t>(1, row.chunks()));
    if (all) parallel_ranges(row.team(), row.chunks(), look);
    return all;
}

}  // namespace fastbn
