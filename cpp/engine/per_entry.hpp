// Channels' values where sums are kept by entry, without a copy where each channel is one. Knows no
// plan.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/layout.hpp"

namespace fastbn {

// Each channel's value as often as it has columns, and all as often as rows are abreast.
template <class C>
class PerEntry {
public:
    PerEntry(const C* values, std::ptrdiff_t channels, const Layout& layout) : data_(values) {
        const std::ptrdiff_t copies = layout.repeat * layout.abreast;
        if (copies == 1) return;
        repeated_.reserve(static_cast<std::size_t>(channels * copies));
        for (std::ptrdiff_t i = 0; i < layout.abreast; ++i) {
            for (std::ptrdiff_t c = 0; c < channels; ++c) {
                repeated_.insert(repeated_.end(), static_cast<std::size_t>(layout.repeat),
                                 values[c]);
            }
        }
        data_ = repeated_.data();
    }
    PerEntry(const PerEntry&) = delete;
    PerEntry& operator=(const PerEntry&) = delete;

    const C* data() const { return data_; }

private:
    std::vector<C> repeated_;
    const C* data_;
};

}  // namespace fastbn
