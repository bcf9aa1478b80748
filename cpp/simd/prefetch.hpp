// Asking for memory before it is needed, where the hardware would not; and the walk over a tile of
// columns, which is such a case.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/block.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// Rows of a tile of columns are gone over in groups, so that what is kept for each block of columns
// makes one trip to registers and back for several rows.
constexpr std::ptrdiff_t group_rows = 8;
static_assert(group_rows <= widened_blocks);

// Columns, fewer than a block has, that lie before the first cache line of a row.
template <class T>
inline std::ptrdiff_t columns_before_line(const T* row, std::ptrdiff_t cols) {
    const auto past = static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(row) %
                                                  std::uintptr_t{line_bytes});
    const std::ptrdiff_t before = (line_bytes - past) % line_bytes / std::ptrdiff_t{sizeof(T)};
    return before % lanes < cols ? before % lanes : 0;
}

// The same where rows lie a multiple of 4 KiB apart, else 0. In a first-level cache all lines at
// the same column of such rows compete for the same few places; blocks that begin where lines do
// need each of them only once.
template <class T>
inline std::ptrdiff_t columns_before_competing_lines(Tile<const T> x, std::ptrdiff_t cols) {
    constexpr std::ptrdiff_t competing = 4096 / std::ptrdiff_t{sizeof(T)};
    return x.stride % competing == 0 ? columns_before_line(x.data, cols) : 0;
}

// body(r, end, i, n) for every group of rows r to end and every block of n columns from i on, of
// which the first has `head` unless that is 0; begin(r) before each group. Rows that make no whole
// group are groups of one.
template <class Begin, class Body>
inline void each_row_group(std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t head,
                           const Begin& begin, const Body& body) {
    for (std::ptrdiff_t r = 0; r < rows;) {
        const std::ptrdiff_t end = r + (rows - r >= group_rows ? group_rows : 1);
        begin(r);
        std::ptrdiff_t i = 0;
        for (std::ptrdiff_t part = head;;) {
            if (part > 0) {
                body(r, end, i, part);
                i += part;
            }
            for (; i + lanes <= cols; i += lanes) body(r, end, i, Full{});
            part = cols - i;
            if (part == 0) break;
        }
        r = end;
    }
}

// Into the second-level cache; not the first, whose few miss buffers would hold up the loads. The
// address may lie outside of any array, so it is no pointer before the hardware drops it.
inline void prefetch(std::uintptr_t address) {
    constexpr int second_level = 2;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): never dereferenced
    __builtin_prefetch(reinterpret_cast<const void*>(address), 0, second_level);
    // A function that does nothing else g++ takes for one without effect, and leaves its calls out.
    __asm__ volatile("");
}

// All of a block, so many bytes or elements further on.
template <class T>
inline void prefetch_bytes(const T* here, std::uintptr_t distance) {
    const std::uintptr_t block = reinterpret_cast<std::uintptr_t>(here) + distance;
    for (std::uintptr_t at = 0; at < lanes * sizeof(T); at += line_bytes) prefetch(block + at);
}
template <class T>
inline void prefetch_block(const T* here, std::ptrdiff_t elements) {
    prefetch_bytes(here, static_cast<std::uintptr_t>(elements) * sizeof(T));
}

// For an elementwise walk: what is so many elements further on, as the engine says; 0 for nothing.
template <class T>
class SlabPrefetch {
public:
    explicit SlabPrefetch(std::ptrdiff_t elements)
        : distance_(static_cast<std::uintptr_t>(elements) * sizeof(T)) {}
    void at(const T* here) const {
        if (distance_ != 0) prefetch_bytes(here, distance_);
    }

private:
    std::uintptr_t distance_;
};

// For a walk along the rows of one channel. The hardware looks ahead there, but not far enough, and
// not beyond a row's end. Rows longer than `ahead` are prefetched so far ahead, past a row's end in
// the next row; of shorter ones the same column of the next row, and of those below `short_row` the
// next channel's row beside this one.
template <class T>
class RowPrefetch {
public:
    RowPrefetch(Tile<const T> x, std::ptrdiff_t cols)
        : in_this_row_(cols - ahead),
          to_next_row_(cols < short_row ? cols : (cols < ahead ? 0 : ahead - cols) + x.stride) {}
    void at(const T* row, std::ptrdiff_t column) const {
        prefetch_block(row + column, column < in_this_row_ ? ahead : to_next_row_);
    }

private:
    static constexpr std::ptrdiff_t ahead = 8192 / std::ptrdiff_t{sizeof(T)};
    static constexpr std::ptrdiff_t short_row = 2048 / std::ptrdiff_t{sizeof(T)};

    std::ptrdiff_t in_this_row_;  // so many columns have what is ahead of them in their own row
    std::ptrdiff_t to_next_row_;  // elements from one of the others to what is prefetched
};

// For each_row_group, whose walk, down a group of rows and then one block to the right, no hardware
// prefetcher follows: what a later group needs, a line or two for each block of this one, in the
// order of memory, which they do follow.
template <class T>
class ColumnPrefetch {
public:
    ColumnPrefetch(Tile<const T> x, std::ptrdiff_t cols)
        : x_(x), steps_((cols * size + step - 1) / step), left_(steps_) {
        constexpr std::ptrdiff_t bytes_ahead = 16384;
        const std::ptrdiff_t rows = bytes_ahead / (steps_ * step);
        rows_ahead_ = rows < group_rows ? group_rows : rows;
    }

    void begin_group(std::ptrdiff_t row) {
        row_ = reinterpret_cast<std::uintptr_t>(x_.data) + bytes(row + rows_ahead_);
        at_ = row_;
        left_ = steps_;
    }

    void next_block() {
        for (std::ptrdiff_t i = 0; i < lanes * size; i += step) {
            prefetch(at_);
            at_ += step;
            if (--left_ == 0) {
                row_ += bytes(1);
                at_ = row_;
                left_ = steps_;
            }
        }
    }

private:
    static constexpr std::ptrdiff_t size = sizeof(T);
    // A line, or of small elements a block, which is part of one.
    static constexpr std::ptrdiff_t step = lanes * size < line_bytes ? lanes * size : line_bytes;

    std::uintptr_t bytes(std::ptrdiff_t rows) const {
        return static_cast<std::uintptr_t>(rows * x_.stride * size);
    }

    Tile<const T> x_;
    std::ptrdiff_t steps_;
    std::ptrdiff_t left_;
    std::ptrdiff_t rows_ahead_;
    std::uintptr_t row_ = 0;
    std::uintptr_t at_ = 0;
};

}  // namespace
}  // namespace fastbn::FASTBN_ISA
