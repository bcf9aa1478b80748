// The weight of each value in its channel's statistics: where= and weights= of a call, checked,
// scaled and brought to the kernels tile by tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/array.hpp"
#include "engine/batch.hpp"
#include "engine/layout.hpp"
#include "engine/memory.hpp"
#include "engine/plan.hpp"
#include "kernels/table.hpp"

namespace fastbn {

class Weights {
public:
    // Raises std::invalid_argument for weights that are negative or not finite.
    explicit Weights(const Batch& batch);

    // Whether values may differ in weight; if not, each has common_weight().
    bool differ() const { return where_ || weights_ || omit_nan_; }
    bool omits_nan() const { return omit_nan_; }
    double common_weight() const { return common_weight_; }
    // An upper bound of what a channel's values weigh together: a mask is left out of account, and
    // where weights vary from channel to channel the largest may be taken for all.
    double largest_total() const { return largest_total_; }
    // A tighter bound: it leaves out what the mask does, where mask and weights are the same in all
    // channels. It may stop adding once the sum exceeds `enough`.
    double largest_total(double enough, const Batch& batch) const;
    // The kernels see the caller's weights divided by this power of two, which is near the largest.
    double divisor() const { return divisor_; }

    // The rest is for weights that differ, once x's layout is known: which this may change to have
    // one weight for each of the kernels' rows. for_moments: of x, or for its gradient.
    void arrange(Layout& layout, bool for_moments);
    WeightsForm form() const { return form_; }
    // Whether all channels have the same weights.
    bool same_in_channels() const { return same_in_channels_; }
    // Whether moments may be taken of several adjacent channels in one tile: there are no weights,
    // or the channels have those of a row in common.
    bool suit_adjacent_channels() const {
        return has_row_weights(form_) ? same_in_channels_ : !mask_ && !values_;
    }
    // Whether they reach the kernels without being packed for a tile.
    bool is_direct() const;
    // Whether gradient_tile can give weights to rows that the kernels see as one.
    bool dense_rows() const { return !is_direct() || mask_.dense_rows; }
    // Takes staging memory for what is packed.
    void take_staging(Staging& staging);

    // A tile's weights in that form, for the moments of its values `x`, which are of type `x_type`.
    Tile<const void> tile(const TileRange& range, Tile<const void> x, DType x_type,
                          std::byte* staging) const noexcept;
    // Whether some of a tile weighs nothing; if so, also the bytes of a mask in which that is 0,
    // into a contiguous tile.
    bool write_mask(const TileRange& range, Tile<const void> weights,
                    std::uint8_t* mask) const noexcept;
    // The weights for the gradient that flows through the statistics; dx is computed in `computed`.
    // scales: what weights other than 0 and 1 are multiplied by, for the tile's channel or each of
    // its columns; or null.
    GradientWeights gradient_tile(const TileRange& range, DType computed, const double* scales,
                                  std::byte* staging) const noexcept;

    // Adds what a tile's values weigh, as the kernels see it, to the total of its channel, or to
    // one for each of its columns. No NaN is omitted in the backward pass, which calls this.
    void add_totals(const TileRange& range, std::byte* staging, double* totals) const noexcept;

    // The index of the next of a channel's values that have weight, from `index` on, in the order
    // of reduced_dims: without regard to NaN, and their number if none does.
    std::ptrdiff_t next_with_weight(const Layout& layout, std::ptrdiff_t channel,
                                    std::ptrdiff_t index) const noexcept;
    // The weights of n of them from `begin` on, read_at_once at most, as the kernels see them;
    // likewise.
    static constexpr std::ptrdiff_t read_at_once = 1024;
    void read(const Layout& layout, std::ptrdiff_t channel, std::ptrdiff_t begin, std::ptrdiff_t n,
              double* to) const noexcept;

private:
    void scan_weights(const Batch& batch);
    double* pack(const TileRange& range, std::byte* staging) const noexcept;
    double* elements(const TileRange& range, std::byte* staging) const noexcept;
    Tile<const std::uint8_t> mask(const TileRange& range, std::byte* staging) const noexcept;
    double* rows(const TileRange& range, std::byte* staging) const noexcept;

    ArrayRef where_;
    ArrayRef weights_;
    bool omit_nan_;
    double common_weight_ = 1.0;
    double divisor_ = 1.0;
    double scale_ = 1.0;  // 1 / divisor_, where weights differ
    double largest_total_;
    Operand mask_;
    Operand values_;
    WeightsForm form_ = WeightsForm::none;
    bool rows_alike_ = false;  // one weight for each row of x; kernels may see several as one
    bool same_in_channels_ = false;
    bool by_column_ = false;  // a tile's columns are channels
    // Where the staging buffers begin for a tile's weights, and for a mask's one byte for each row,
    // from which a tile's are made.
    std::ptrdiff_t staging_begin_ = 0;
    std::ptrdiff_t row_bytes_begin_ = 0;
};

}  // namespace fastbn
