// How much each value counts in its channel's statistics: where= and weights= of a call. Knows how
// they are checked, scaled and brought to the kernels tile by tile; knows no sums.
#pragma once

#include <cstddef>

#include "engine/array.hpp"
#include "engine/features.hpp"
#include "engine/layout.hpp"
#include "engine/operations.hpp"
#include "engine/pack.hpp"

namespace fastbn {

class Shares {
public:
    // Raises std::invalid_argument for weights that are negative or not finite.
    Shares(const Counting& counting, const ArrayRef& x, const Features& features);

    // Whether values differ in how much they count; if not, it is `weight` for all of them.
    bool differ() const { return where_ || weights_; }
    double weight() const { return weight_; }
    // The sum of all weights of a channel where that is known and the same for all, else infinity.
    double most_counted() const { return most_counted_; }
    // What counts `share` in a tile counts share * unit() in the caller's terms.
    double unit() const { return unit_; }

    // The rest is for shares that differ, once x's layout is known.
    void arrange(const Layout& layout);
    // One share for each row of a tile.
    bool by_row() const { return by_row_; }
    // Of all channels the same ones.
    bool same_in_channels() const { return same_in_channels_; }
    // Bytes of 0 and 1 that the kernels can read as they are.
    bool is_direct_mask() const { return is_direct_mask_; }
    const Operand& mask() const { return mask_; }
    // Shares of a tile, in rows as long as the kernel's, or one for each of its rows. There must be
    // room for as many doubles.
    template <class T>
    void pack(const TileRange& tile, T* to) const noexcept;
    // What takes a room to do so.
    static Operand packed();
    // As many as that is.
    std::ptrdiff_t packed_size(const TileRange& tile) const {
        return by_row_ ? tile.rows : tile.kernel_rows() * tile.kernel_cols();
    }

    // Of one value, slowly: `index` counts the channel's values in the order of reduced_dims.
    double share(const Layout& layout, std::ptrdiff_t channel, std::ptrdiff_t index) const noexcept;

private:
    void scan_where();
    void scan_weights(const Features& features, const ArrayRef& x);

    ArrayRef where_;
    ArrayRef weights_;
    double weight_ = 1.0;
    double unit_ = 1.0;
    double most_counted_;
    Operand mask_;
    Operand values_;
    bool by_row_ = false;
    bool same_in_channels_ = false;
    bool is_direct_mask_ = false;
};

}  // namespace fastbn
