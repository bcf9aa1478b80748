// How much each value counts in its channel's statistics: where= and weights= of a call. Knows how
// they are checked, scaled and brought to the kernels tile by tile; knows no sums.
#pragma once

#include <cstddef>
#include <cstdint>

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
    // What a channel's values count, or no less than that: a mask is left out of account, and of
    // weights that vary from channel to channel the largest is taken for all.
    double most_counted() const { return most_counted_; }
    // What counts `share` in a tile counts share * unit() in the caller's terms.
    double unit() const { return unit_; }

    // The rest is for shares that differ, once x's layout is known: which this may change to have
    // one share for each of the kernels' rows.
    void arrange(Layout& layout);
    // How a tile's shares come to the kernels.
    enum class Form {
        by_row,      // one for each row
        by_mask,     // bytes, 0 for a share of 0, else for 1
        by_element,  // numbers
    };
    Form form() const { return form_; }
    // Of all channels the same ones.
    bool same_in_channels() const { return same_in_channels_; }
    // The mask's own memory does for all tiles.
    bool is_direct() const { return form_ == Form::by_mask && mask_.direct; }

    // What takes a room of a tile's size, unless is_direct.
    static Operand packed();
    // A tile's shares, packed into a room of that; only what the form says.
    template <class T>
    const T* rows(const TileRange& tile, std::byte* room) const noexcept;
    Tile<const std::uint8_t> mask(const TileRange& tile, std::byte* room) const noexcept;
    template <class T>
    Tile<const T> elements(const TileRange& tile, std::byte* room) const noexcept;

    // Of one value, slowly: `index` counts the channel's values in the order of reduced_dims.
    double share(const Layout& layout, std::ptrdiff_t channel, std::ptrdiff_t index) const noexcept;

private:
    void scan_where();
    void scan_weights(const Features& features, const ArrayRef& x);
    template <class T>
    T* pack(const TileRange& tile, std::byte* room) const noexcept;

    ArrayRef where_;
    ArrayRef weights_;
    double weight_ = 1.0;
    double unit_ = 1.0;
    double most_counted_;
    Operand mask_;
    Operand values_;
    Form form_ = Form::by_element;
    bool rows_alike_ = false;  // one share for each row of x; the kernels may see several as one
    bool same_in_channels_ = false;
};

}  // namespace fastbn
