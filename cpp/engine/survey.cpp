#include "engine/survey.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "engine/dispatch.hpp"
#include "engine/pack.hpp"
#include "engine/threads.hpp"
#include "engine/workspace.hpp"
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
        std::sort(dims, dims + n, [](const Dim& a, const Dim& b) {
            return a.stride != b.stride ? a.stride > b.stride : a.size > b.size;
        });
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

using Sum = DoubleDouble<double>;

// Of chunks `begin` to `end` the range; and the sum of each, unless `sums` is null.
ArraySurvey survey_chunks(const Row& row, std::ptrdiff_t begin, std::ptrdiff_t end,
                          Sum* sums) noexcept {
    const MomentsKernels& kernels = value_range_kernels(row.elements.kernel_dtype);
    const MomentsKernel moments = kernels.moments[static_cast<int>(WeightsForm::none)].tile;
    alignas(64) std::byte staging[chunk * sizeof(double)];
    ArraySurvey found;
    double has_nan = 0.0;
    for (std::ptrdiff_t i = begin; i < end; ++i) {
        const TileRange range = row.range(i);
        const Tile<const void> values = input_tile(row.elements, range, {nullptr, staging});
        kernels.value_range.tile(values, {nullptr, 0}, 1, range.cols,
                                 {&found.min, &found.max, &has_nan});
        if (sums == nullptr) continue;
        double ref, offset, m2, m2_lo;
        moments(values, {nullptr, 0}, 1, range.cols, 0.0,
                {&ref, &offset, &m2, &m2_lo, &sums[i].high, &sums[i].low, nullptr, nullptr},
                nullptr);
    }
    found.has_nan = has_nan != 0.0;
    return found;
}

}  // namespace

ArraySurvey survey(const ArrayRef& array, bool with_sum) {
    const Row row(array, value_range_kernels(array.dtype).x);
    const std::ptrdiff_t count = with_sum ? row.chunks() : 0;
    const Buffer<1024> memory(count * std::ptrdiff_t{sizeof(Sum)});
    Sum* const sums = reinterpret_cast<Sum*>(memory.data());
    ArraySurvey found;
    std::mutex of_found;
    parallel_ranges(row.team(), row.chunks(), [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        const ArraySurvey part = survey_chunks(row, begin, end, with_sum ? sums : nullptr);
        const std::scoped_lock lock(of_found);
        found.min = std::min(found.min, part.min);
        found.max = std::max(found.max, part.max);
        found.has_nan = found.has_nan || part.has_nan;
    });
    double low = 0.0;
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        double error;
        found.sum = two_sum(found.sum, sums[i].high, error);
        low += error + sums[i].low;
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
