// The statistics half of a forward pass: x's moments, span by span, then each channel's mean and
// variance from them; and the values' range. Knows nothing of y.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "engine/channels.hpp"
#include "engine/executor.hpp"
#include "engine/memory.hpp"
#include "engine/plan.hpp"
#include "engine/weights.hpp"
#include "kernels/table.hpp"

namespace fastbn {

// The statistics of no values, and of values that are no numbers.
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// x's moments for a plan of x's: what an operation calls in its phases. Weights and plan outlive
// it.
class MomentsReduction {
public:
    // x_type: what x's tiles are read as, the type of a row of kernels that has `weights`' form.
    // origins: x's, which are added to the means that go to `out`.
    MomentsReduction(const Plan& plan, const ArrayRef& x, DType x_type, const Weights& weights,
                     const ChannelOrigins& origins, double eps, const Statistics& out);

    // Its channel buffers; measured with Arrays(nullptr).
    struct Buffers {
        MomentsSums sums;       // per span, and channel or column
        IntegerSums integers;   // in their place, where x's values are summed exactly
        Statistics statistics;  // per channel
        // One for each sum: whether NaN or infinity was among the values of a sum that is not
        // finite. Null unless x is of float64.
        std::uint8_t* nonfinite;
    };
    Buffers take_buffers(Arrays& arrays) const noexcept;

    // Whether `add` takes tiles of several channels.
    bool takes_adjacent_channels() const { return integers_ == nullptr; }

    // Before the tiles of a span, and for each of them with x's values and weights.
    void begin(const Slab& slab, std::ptrdiff_t span, const Buffers& buffers,
               const Memory& memory) const noexcept;
    void add(const TileRange& tile, std::ptrdiff_t span, std::ptrdiff_t position,
             Tile<const void> x, Tile<const void> weights, const Buffers& buffers,
             const Memory& memory) const noexcept;
    // Returns the statistics of the slab's channels, from the first on: of what the kernels see.
    Statistics finalize(const Slab& slab, const Buffers& buffers,
                        const Memory& memory) const noexcept;

private:
    MomentsSums merge(const Slab& slab, const MomentsSums& sums,
                      const Memory& memory) const noexcept;
    IntegerSums merge(const Slab& slab, const IntegerSums& sums,
                      const Memory& memory) const noexcept;
    void note_nonfinite(const TileRange& tile, std::ptrdiff_t channel, Tile<const void> x,
                        Tile<const void> weights, const double* m2,
                        std::uint8_t* nonfinite) const noexcept;
    bool holds_nonfinite(const Slab& slab, std::ptrdiff_t channel, const Buffers& buffers,
                         const Memory& memory) const noexcept;
    void rescan_out_of_range(const Slab& slab, const Buffers& buffers, const Statistics& statistics,
                             const Memory& memory) const noexcept;
    void rescan_light(const Slab& slab, const MomentsSums& sums,
                      const Statistics& statistics) const noexcept;
    template <class Visit>
    void each_chunk(std::ptrdiff_t channel, int weight_exponent, const Visit& visit) const;
    void scan_channel(std::ptrdiff_t channel, int weight_exponent,
                      const Statistics& out) const noexcept;
    void scan_scaled(std::ptrdiff_t channel, int weight_exponent, double low, double high,
                     const Statistics& out) const noexcept;

    const Plan& plan_;
    const ArrayRef& x_;
    const Weights& weights_;
    const ChannelOrigins& origins_;
    Reduction<MomentsKernel> kernels_;
    const Reduction<IntegerSumsKernel>* integers_;  // null where x's values are not summed exactly
    double eps_;
    Statistics out_;
};

// The least and the largest value of each channel, likewise.
class ValueRangeReduction {
public:
    ValueRangeReduction(const Plan& plan, DType x_type, const Weights& weights, double* min,
                        double* max);

    ValueRange take_buffers(Arrays& arrays) const noexcept;
    void take_staging(Staging& staging);

    void begin(const Slab& slab, std::ptrdiff_t span, const ValueRange& buffers,
               const Memory& memory) const noexcept;
    void add(const TileRange& tile, std::ptrdiff_t span, Tile<const void> x,
             Tile<const void> weights, const ValueRange& buffers,
             const Memory& memory) const noexcept;
    void finalize(const Slab& slab, const ValueRange& buffers, const Memory& memory) const noexcept;

private:
    // Whether a tile's weights come as numbers, and its mask has to be made of them.
    bool needs_mask() const noexcept;

    const Plan& plan_;
    const Weights& weights_;
    Reduction<ValueRangeKernel> kernels_;
    double* min_;
    double* max_;
    std::ptrdiff_t mask_begin_ = 0;  // of the staging buffer for that
};

}  // namespace fastbn
