// Every kernel of every instruction set that this machine runs, on random tiles: elementwise ones
// against their formula written out value by value, to the bit; reductions against long double;
// conversions against the language's own; and all of them against the generic set, to the bit,
// since that is promised. Ends with the number of checks that failed.
#include <cmath>
#ifdef FASTBN_X86
#include <cpuid.h>
#endif
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/table.hpp"
#include "numerics/dtype.hpp"

namespace fastbn {
namespace {

struct Set {
    const char* name;
    const MomentsTable& moments;
    const NormalizeTable& normalize;
    const ConvertTable& convert;
    const GradientKernels (&gradient)[gradient_rows];
    const MomentsKernels (&integers)[integers_rows];
    const PackTable& pack;
};

std::vector<Set> sets() {
    std::vector<Set> all = {{"generic", generic::moments_table, generic::normalize_table,
                             generic::convert_table, generic::gradient_table,
                             generic::integers_table, generic::pack_table}};
#ifdef FASTBN_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c")) {
        all.push_back({"avx2", avx2::moments_table, avx2::normalize_table, avx2::convert_table,
                       avx2::gradient_table, avx2::integers_table, avx2::pack_table});
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            all.push_back({"avx512", avx512::moments_table, avx512::normalize_table,
                           avx512::convert_table, avx512::gradient_table, avx512::integers_table,
                           avx512::pack_table});
        }
    }
#endif
#ifdef FASTBN_AARCH64
    all.push_back({"neon", neon::moments_table, neon::normalize_table, neon::convert_table,
                   neon::gradient_table, neon::integers_table, neon::pack_table});
#endif
    return all;
}

int checks = 0;
int failures = 0;

void check(bool holds, const std::string& what) {
    ++checks;
    if (!holds && ++failures <= 20) std::printf("failed: %s\n", what.c_str());
}

// Whether registers wider than 16 bytes are in use, where the processor tells. What the engine
// computes after a kernel that leaves them so takes several times as long on Intel's processors.
bool wide_registers_in_use() {
#ifdef FASTBN_X86
    static const bool tells = [] {
        unsigned features = 0;
        unsigned unused = 0;
        return __get_cpuid_count(0xd, 1, &features, &unused, &unused, &unused) != 0 &&
               (features & 4U) != 0;  // XGETBV with ecx = 1
    }();
    if (!tells) return false;
    unsigned in_use = 0;
    unsigned upper = 0;
    __asm__ volatile("xgetbv" : "=a"(in_use), "=d"(upper) : "c"(1));
    constexpr unsigned upper_halves = 0x44;  // of the registers of AVX and of AVX-512
    return (in_use & upper_halves) != 0;
#else
    return false;
#endif
}

// Directly after a kernel's call, since any other call, of the C library too, may clear them.
void check_registers(const char* set, const char* kernel) {
    const bool in_use = wide_registers_in_use();
    check(!in_use, std::string(set) + " " + kernel + ": wide registers left in use");
}

std::mt19937_64 bits(1);  // NOLINT(bugprone-random-generator-seed): the same tiles every time

double normal(double mean, double std) {
    static std::normal_distribution<double> standard;
    return mean + std * standard(bits);
}
bool chance(int one_in) { return bits() % static_cast<std::uint64_t>(one_in) == 0; }

// Values as they are stored, at an address that is a multiple of their size and no more.
class Array {
public:
    Array(DType dtype, std::ptrdiff_t n)
        : dtype_(dtype), memory_(static_cast<std::size_t>(n * size_of(dtype)) + 32) {}
    template <class Value>
    Array(DType dtype, std::ptrdiff_t n, const Value& value) : Array(dtype, n) {
        for (std::ptrdiff_t i = 0; i < n; ++i) set(i, value(i));
    }

    void* data() { return memory_.data() + 16; }
    const void* data() const { return memory_.data() + 16; }
    const std::vector<char>& memory() const { return memory_; }

    double at(std::ptrdiff_t i) const {
        return visit_dtype(dtype_, [&](auto zero) {
            const auto value = static_cast<const decltype(zero)*>(data())[i];
            if constexpr (std::is_same_v<decltype(zero), Float16> ||
                          std::is_same_v<decltype(zero), Bfloat16>) {
                return static_cast<double>(widen(value));
            } else {
                return static_cast<double>(value);
            }
        });
    }
    void set(std::ptrdiff_t i, double value) {
        visit_dtype(dtype_, [&](auto zero) {
            auto& to = static_cast<decltype(zero)*>(data())[i];
            if constexpr (std::is_same_v<decltype(zero), Float16> ||
                          std::is_same_v<decltype(zero), Bfloat16>) {
                narrow(static_cast<float>(value), to);
            } else {
                to = static_cast<decltype(zero)>(value);
            }
        });
    }

private:
    DType dtype_;
    std::vector<char> memory_;
};

const char* name_of(DType dtype) {
    static const char* const names[] = {"float32", "float64", "float16", "bfloat16", "uint8"};
    return names[static_cast<int>(dtype)];
}

struct Shape {
    std::ptrdiff_t rows;
    std::ptrdiff_t cols;
    std::ptrdiff_t stride;

    std::ptrdiff_t size() const { return rows * stride; }
    std::string text() const { return std::to_string(rows) + "x" + std::to_string(cols); }
};
const Shape shapes[] = {{1, 1, 1},    {1, 64, 64},  {9, 5, 8},    {3, 49, 49},
                        {20, 16, 20}, {37, 40, 43}, {2, 131, 140}};

// ---- Moments ----

// MomentsSums and what follows from them, for so many channels.
struct Channels {
    std::vector<double> values;
    std::ptrdiff_t n;
    bool weighted;

    Channels(std::ptrdiff_t channels, bool has_weights)
        : values(static_cast<std::size_t>(13 * channels), 0.0),
          n(channels),
          weighted(has_weights) {}
    double* field(std::ptrdiff_t i) { return values.data() + i * n; }
    MomentsSums sums() {
        return {field(0),
                field(1),
                field(2),
                field(3),
                field(4),
                field(5),
                weighted ? field(6) : nullptr,
                weighted ? field(7) : nullptr};
    }
    Statistics statistics() { return {field(8), field(9), field(10), field(11), field(12)}; }
};

struct Reference {
    long double mean = 0;
    long double var = 0;
    long double spread = 0;  // the largest distance to the mean
    long double weight = 0;
};

// A sum beside which the rounding errors of its additions are added up (Neumaier 1974): those of
// some thousand, even of long double, are more than what is checked may be off by.
struct Sum {
    long double high = 0;
    long double low = 0;

    void add(long double term) {
        const long double sum = high + term;
        low += std::fabs(high) > std::fabs(term) ? (high - sum) + term : (term - sum) + high;
        high = sum;
    }
    long double total() const { return high + low; }
};

Reference reference_of(const std::vector<std::pair<double, double>>& values) {
    Reference r;
    Sum weights;
    for (const auto& [value, weight] : values) weights.add(weight);
    r.weight = weights.total();
    if (r.weight == 0) return r;
    const long double first = values[0].first;
    Sum differences;
    for (const auto& [value, weight] : values) differences.add(weight * (value - first));
    r.mean = first + differences.total() / r.weight;
    for (const auto& [value, weight] : values) {
        const long double d = value - r.mean;
        r.var += weight * d * d / r.weight;
        r.spread = std::max(r.spread, std::fabs(d));
    }
    return r;
}

// The weights of a tile, in the form's own memory.
struct Weights {
    WeightsForm form;
    std::vector<double> numbers;
    std::vector<std::uint8_t> mask;
    std::ptrdiff_t stride;

    Weights(WeightsForm which, const Shape& shape) : form(which), stride(shape.cols) {
        const std::ptrdiff_t n = per_row() ? shape.rows : shape.rows * shape.cols;
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            mask.push_back(chance(3) ? 0 : 1);
            const double number = chance(5) ? 1.0 : std::fmod(std::fabs(normal(1.0, 1.0)), 2.0);
            numbers.push_back(chance(5) ? 0.0 : number);
        }
    }
    bool per_row() const {
        return form == WeightsForm::by_row || form == WeightsForm::by_row_omit_nan;
    }
    Tile<const void> tile() const {
        if (form == WeightsForm::by_mask) return {mask.data(), stride};
        if (per_row() || form == WeightsForm::by_element) return {numbers.data(), stride};
        return {nullptr, 0};
    }
    double of(std::ptrdiff_t r, std::ptrdiff_t i, double value) const {
        switch (form) {
            case WeightsForm::none:
                return 1.0;
            case WeightsForm::omit_nan:
                return std::isnan(value) ? 0.0 : 1.0;
            case WeightsForm::by_row:
                return numbers[static_cast<std::size_t>(r)];
            case WeightsForm::by_row_omit_nan:
                return std::isnan(value) ? 0.0 : numbers[static_cast<std::size_t>(r)];
            case WeightsForm::by_mask:
                return mask[static_cast<std::size_t>(r * stride + i)];
            case WeightsForm::by_element:
                break;
        }
        return numbers[static_cast<std::size_t>(r * stride + i)];
    }
};

// Two tiles after another, with the weights of each.
Channels moments_of(const Set& set, const MomentsKernels& row, const std::vector<Array>& tiles,
                    const std::vector<Weights>& weights, const Shape& shape, bool columns) {
    const WeightsForm form = weights[0].form;
    const auto& kernels = row.moments[static_cast<int>(form)];
    Channels result(columns ? shape.cols : 1, form != WeightsForm::none);
    std::vector<char> memory(column_scratch_bytes *
                             static_cast<std::size_t>(shape.cols / lanes + 2));
    void* scratch = memory.data();
    std::size_t space = memory.size();
    scratch = std::align(64, column_scratch_bytes, scratch, space);
    double count = 0.0;
    for (std::size_t i = 0; i < tiles.size(); ++i) {
        (columns ? kernels.columns : kernels.tile)({tiles[i].data(), shape.stride},
                                                   weights[i].tile(), shape.rows, shape.cols, 1,
                                                   count, result.sums(), scratch);
        check_registers(set.name, "moments");
        count += static_cast<double>(columns ? shape.rows : shape.rows * shape.cols);
    }
    set.moments.finalize(result.sums(), count, 1e-5, result.statistics(), result.n);
    return result;
}

// A tile of several channels side by side has the sums of each alone.
void check_adjacent_moments(const Set& set, int row_index, WeightsForm form, const Shape& shape) {
    const MomentsKernels& row = set.moments.rows[row_index];
    const MomentsKernel kernel = row.moments[static_cast<int>(form)].tile;
    if (kernel == nullptr) return;
    constexpr std::ptrdiff_t channels = 3;
    const std::ptrdiff_t gap = shape.stride - shape.cols;
    const std::ptrdiff_t stride = channels * shape.cols + gap;
    const Array x(row.x, shape.rows * stride, [](std::ptrdiff_t) { return normal(5, 1); });
    const Weights weights(form, shape);
    Channels together(channels, form != WeightsForm::none);
    kernel({x.data(), stride}, weights.tile(), shape.rows, shape.cols, channels, 0.0,
           together.sums(), nullptr);
    check_registers(set.name, "moments of adjacent channels");
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        const char* const first = static_cast<const char*>(x.data());
        Channels alone(1, form != WeightsForm::none);
        kernel({first + c * shape.cols * size_of(row.x), stride}, weights.tile(), shape.rows,
               shape.cols, 1, 0.0, alone.sums(), nullptr);
        for (std::ptrdiff_t i = 0; i < 8; ++i) {
            check(together.field(i)[c] == alone.field(i)[0],
                  std::string(set.name) + " moments of adjacent channels of " + name_of(row.x) +
                      " " + shape.text());
        }
    }
}

void check_moments(const Set& set, int row_index, WeightsForm form, const Shape& shape,
                   bool columns, double mean) {
    const MomentsKernels& row = set.moments.rows[row_index];
    const std::string what = std::string(set.name) + " moments of " + name_of(row.x) + " form " +
                             std::to_string(static_cast<int>(form)) +
                             (columns ? " columns " : " tile ") + shape.text();
    if (row.moments[static_cast<int>(form)].tile == nullptr) {
        check(row_index >= 2 && form != WeightsForm::none, what + " missing");
        return;
    }
    std::vector<Array> tiles;
    std::vector<Weights> weights;
    for (int i = 0; i < 2; ++i) {
        weights.emplace_back(form, shape);
        tiles.emplace_back(row.x, shape.size(), [&](std::ptrdiff_t) {
            const bool omits =
                form == WeightsForm::omit_nan || form == WeightsForm::by_row_omit_nan;
            const bool hole = omits && chance(4);
            return hole ? std::nan("")
                        : (row.x == DType::uint8 ? std::fabs(normal(100, 30)) : normal(mean, 1.0));
        });
    }
    Channels result = moments_of(set, row, tiles, weights, shape, columns);
    const Channels other =
        moments_of(sets()[0], sets()[0].moments.rows[row_index], tiles, weights, shape, columns);
    check(std::memcmp(result.values.data(), other.values.data(),
                      result.values.size() * sizeof(double)) == 0,
          what + ": not the generic set's bits");
    const Statistics s = result.statistics();
    for (std::ptrdiff_t c = 0; c < result.n; ++c) {
        std::vector<std::pair<double, double>> values;
        for (std::size_t t = 0; t < tiles.size(); ++t) {
            for (std::ptrdiff_t r = 0; r < shape.rows; ++r) {
                for (std::ptrdiff_t i = columns ? c : 0; i < (columns ? c + 1 : shape.cols); ++i) {
                    const double value = tiles[t].at(r * shape.stride + i);
                    const double weight = weights[t].of(r, i, value);
                    if (weight > 0.0) values.emplace_back(value, weight);
                }
            }
        }
        // float32: see chunk_sums.hpp. float64: the mean as a double-double, and m2 to some
        // roundings.
        const Reference ref = reference_of(values);
        const bool is_double = row.x == DType::float64;
        const long double mean_error =
            std::fabs(static_cast<long double>(s.mean[c]) + s.mean_lo[c] - ref.mean);
        check(
            mean_error <= ref.spread * (is_double ? 1e-18L : 1e-15L) + std::fabs(ref.mean) * 1e-18L,
            what + ": mean");
        check(std::fabs(s.var[c] - ref.var) <= ref.var * (is_double ? 1e-14L : 1e-11L),
              what + ": variance");
    }
}

// float64: an m2 of exactly 0 where all that counts is equal, and nowhere else.
void check_constants(const Set& set, WeightsForm form, bool columns) {
    const double tiny = 1e-200;
    const double large = 1e200;
    const double next = std::nextafter(large, 1e300);
    const std::pair<std::vector<double>, bool> cases[] = {
        {{0.0}, true},       {{-0.0, 0.0}, true},    {{0.1}, true},        {{large}, true},
        {{0.1, 0.2}, false}, {{tiny, -tiny}, false}, {{0.0, tiny}, false}, {{large, next}, false},
        {{5e-324}, false},   {{tiny}, false}};  // too small: the engine has to look
    for (const auto& [values, is_constant] : cases) {
        const Shape shape{20, 21, 21};
        std::vector<Array> tiles;
        std::vector<Weights> weights;
        for (int t = 0; t < 2; ++t) {
            weights.emplace_back(form, shape);
            tiles.emplace_back(DType::float64, shape.size(), [&](std::ptrdiff_t i) {
                return values[static_cast<std::size_t>(i / shape.cols) % values.size()];
            });
        }
        Channels result = moments_of(set, set.moments.rows[1], tiles, weights, shape, columns);
        const MomentsSums sums = result.sums();
        const Statistics s = result.statistics();
        for (std::ptrdiff_t c = 0; c < result.n; ++c) {
            if (sums.weight != nullptr && sums.weight[c] == 0.0) continue;
            check((sums.m2[c] == 0.0) == is_constant,
                  std::string(set.name) + " constant columns of form " +
                      std::to_string(static_cast<int>(form)) + " of " + std::to_string(values[0]));
            if (is_constant) check(s.mean[c] == values[0] && s.var[c] == 0.0, "a constant's mean");
        }
    }
}

void check_range(const Set& set, int row_index, const Shape& shape, bool columns, bool masked) {
    const MomentsKernels& row = set.moments.rows[row_index];
    const Array x(row.x, shape.size(),
                  [](std::ptrdiff_t) { return chance(9) ? std::nan("") : normal(0, 1); });
    const Weights mask(WeightsForm::by_mask, shape);
    const std::ptrdiff_t channels = columns ? shape.cols : 1;
    const std::size_t n = static_cast<std::size_t>(channels);
    std::vector<double> min(n, std::numeric_limits<double>::infinity());
    std::vector<double> max(n, -std::numeric_limits<double>::infinity());
    std::vector<double> has_nan(n, 0.0);
    std::vector<double> expected_min = min;
    std::vector<double> expected_max = max;
    std::vector<double> expected_nan = has_nan;
    for (std::ptrdiff_t r = 0; r < shape.rows; ++r) {
        for (std::ptrdiff_t i = 0; i < shape.cols; ++i) {
            const std::size_t c = static_cast<std::size_t>(columns ? i : 0);
            const double value = x.at(r * shape.stride + i);
            if (masked && mask.of(r, i, value) == 0.0) continue;
            expected_min[c] = std::fmin(expected_min[c], value);
            expected_max[c] = std::fmax(expected_max[c], value);
            if (std::isnan(value)) expected_nan[c] = 1.0;
        }
    }
    (columns ? row.value_range.columns : row.value_range.tile)(
        {x.data(), shape.stride}, {masked ? mask.mask.data() : nullptr, shape.cols}, shape.rows,
        shape.cols, {min.data(), max.data(), has_nan.data()});
    check_registers(set.name, "value_range");
    check(min == expected_min && max == expected_max && has_nan == expected_nan,
          std::string(set.name) + " range of " + name_of(row.x) +
              (columns ? " columns " : " tile ") + shape.text());
}

// ---- Elementwise ----

template <class C>
C activate(const Activation& activation, C z) {
    if (activation.kind == ActivationKind::none || !(z <= C(0))) return z;
    return activation.kind == ActivationKind::relu ? C(0) : z * static_cast<C>(activation.slope);
}
template <class C>
C gradient_of(const Activation& activation, C z, C dy) {
    if (activation.kind == ActivationKind::none || !(z <= C(0))) return dy;
    return activation.kind == ActivationKind::relu ? C(0) : dy * static_cast<C>(activation.slope);
}

struct Options {
    ActivationKind activation;
    bool residual;
    bool out_of_range;
    bool stream;
    std::ptrdiff_t channel_width;  // 1, or all columns, or half of them
    std::ptrdiff_t period;         // all columns, or fewer of a width of 1

    std::ptrdiff_t entry(std::ptrdiff_t col) const { return col / channel_width % period; }
};

std::vector<Options> all_options(std::ptrdiff_t cols) {
    std::vector<Options> all;
    std::vector<std::ptrdiff_t> widths = {1, cols};
    if (cols % 2 == 0 && cols / 2 >= lanes) widths.push_back(cols / 2);
    for (const auto activation :
         {ActivationKind::none, ActivationKind::relu, ActivationKind::leaky_relu}) {
        for (int flags = 0; flags < 8; ++flags) {
            for (const auto width : widths) {
                all.push_back({activation, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0,
                               width, cols});
                const std::ptrdiff_t period = cols / 3;
                if (width > 1 || period < lanes) continue;
                all.push_back(all.back());
                all.back().period = period;
            }
        }
    }
    return all;
}

// Coefficients of type `computed`, some of them 0 or, of powers, 1, 2 or 1/2; the first ones again
// where a kernel begins anew.
Array coefficients(DType computed, const Shape& shape, const Options& options, bool powers) {
    Array all(computed, shape.cols + lanes, [&](std::ptrdiff_t i) {
        return powers ? std::ldexp(1.0, static_cast<int>(i % 3) - 1) : normal(0.2, 1.0);
    });
    for (std::ptrdiff_t i = 0; i < lanes && options.period < shape.cols; ++i) {
        all.set(options.period + i, all.at(i));
    }
    return all;
}

template <class C>
void check_normalize(const Set& set, int row_index, const Shape& shape, const Options& options) {
    const NormalizeKernels& row = set.normalize.rows[row_index];
    const Array x(row.x, shape.size(), [](std::ptrdiff_t) { return normal(3, 1); });
    const Array residual(row.y, shape.size(), [](std::ptrdiff_t) { return normal(0, 1); });
    const Array pre = coefficients(row.computed, shape, options, true);
    const Array center = coefficients(row.computed, shape, options, false);
    const Array scale = coefficients(row.computed, shape, options, false);
    const Array shift = coefficients(row.computed, shape, options, false);
    const Activation activation{options.activation, 0.125};
    Array y(row.y, shape.size());
    Array expected(row.y, shape.size());
    for (std::ptrdiff_t r = 0; r < shape.rows; ++r) {
        for (std::ptrdiff_t i = 0; i < shape.cols; ++i) {
            const std::ptrdiff_t at = r * shape.stride + i;
            const std::ptrdiff_t c = options.entry(i);
            C z = static_cast<C>(x.at(at));
            if (options.out_of_range) z = z * static_cast<C>(pre.at(c));
            z = (z - static_cast<C>(center.at(c))) * static_cast<C>(scale.at(c)) +
                static_cast<C>(shift.at(c));
            if (options.residual) z = z + static_cast<C>(residual.at(at));
            expected.set(at, activate(activation, z));
        }
    }
    row.normalize(
        {x.data(), shape.stride}, {y.data(), shape.stride},
        {shape.rows, shape.cols, options.period, options.channel_width, 0, options.stream},
        {options.out_of_range ? pre.data() : nullptr, center.data(), scale.data(), shift.data()},
        {{options.residual ? residual.data() : nullptr, shape.stride}, activation}, nullptr);
    check_registers(set.name, "normalize");
    check(y.memory() == expected.memory(), std::string(set.name) + " normalize " + name_of(row.x) +
                                               " to " + name_of(row.y) + " " + shape.text());
}

// ---- Gradients ----

enum class GradientForm { same, frozen, rows, mask, elements };

template <class C>
void check_input_gradient(const Set& set, int row_index, const Shape& shape, const Options& options,
                          GradientForm form) {
    const GradientKernels& row = set.gradient[row_index];
    const bool has_residual = options.residual && options.activation != ActivationKind::none;
    const Array dy(row.dy, shape.size(), [](std::ptrdiff_t) { return normal(0, 1); });
    const Array x(row.x, shape.size(), [](std::ptrdiff_t) { return normal(3, 1); });
    const Array residual(row.dy, shape.size(), [](std::ptrdiff_t) { return normal(0, 1); });
    const Array pre = coefficients(row.computed, shape, options, true);
    const Array center = coefficients(row.computed, shape, options, false);
    const Array coef_x = coefficients(row.computed, shape, options, false);
    const Array coef_const = coefficients(row.computed, shape, options, false);
    const Array scale = coefficients(row.computed, shape, options, false);
    const Array shift = coefficients(row.computed, shape, options, false);
    const Weights numbers(
        form == GradientForm::rows ? WeightsForm::by_row : WeightsForm::by_element, shape);
    const Array elements(row.computed, shape.rows * shape.cols, [&](std::ptrdiff_t i) {
        return numbers.numbers[static_cast<std::size_t>(i) % numbers.numbers.size()];
    });
    const Activation activation{options.activation, 0.125};
    Array dx(row.dy, shape.size());
    Array dz(row.dy, shape.size());
    Array expected(row.dy, shape.size());
    Array expected_dz(row.dy, shape.size());
    for (std::ptrdiff_t r = 0; r < shape.rows; ++r) {
        for (std::ptrdiff_t i = 0; i < shape.cols; ++i) {
            const std::ptrdiff_t at = r * shape.stride + i;
            const std::ptrdiff_t c = options.entry(i);
            const C power = options.out_of_range ? static_cast<C>(pre.at(c)) : C(1);
            const C centred = static_cast<C>(x.at(at)) * power - static_cast<C>(center.at(c));
            C z = centred * static_cast<C>(scale.at(c)) + static_cast<C>(shift.at(c));
            if (has_residual) z = z + static_cast<C>(residual.at(at));
            const C grad = gradient_of(activation, z, static_cast<C>(dy.at(at)));
            if (has_residual) expected_dz.set(at, grad);
            C flow = centred * static_cast<C>(coef_x.at(c)) + static_cast<C>(coef_const.at(c));
            const std::ptrdiff_t element = r * shape.cols + i;
            switch (form) {
                case GradientForm::same:
                    break;
                case GradientForm::frozen:
                    flow = 0;
                    break;
                case GradientForm::rows:
                    flow = flow * static_cast<C>(numbers.numbers[static_cast<std::size_t>(r)]);
                    if (numbers.numbers[static_cast<std::size_t>(r)] == 0.0) flow = 0;
                    break;
                case GradientForm::mask:
                    if (numbers.mask[static_cast<std::size_t>(element)] == 0) flow = 0;
                    break;
                case GradientForm::elements:
                    flow = flow * static_cast<C>(elements.at(element));
                    if (elements.at(element) == 0.0) flow = 0;
                    break;
            }
            expected.set(at, (grad * power - flow) * static_cast<C>(scale.at(c)));
        }
    }
    const void* const power = options.out_of_range ? pre.data() : nullptr;
    const bool activated = options.activation != ActivationKind::none;
    row.input_gradient(
        {dy.data(), shape.stride}, {x.data(), shape.stride}, {dx.data(), shape.stride},
        {has_residual ? dz.data() : nullptr, shape.stride},
        {shape.rows, shape.cols, options.period, options.channel_width, 0, options.stream},
        {power, power, center.data(), coef_x.data(), coef_const.data(), scale.data()},
        {activation,
         activated ? Affine<const void>{power, center.data(), scale.data(), shift.data()}
                   : Affine<const void>{},
         {has_residual ? residual.data() : nullptr, shape.stride},
         false},
        {form == GradientForm::frozen,
         form == GradientForm::rows ? numbers.numbers.data() : nullptr,
         shape.cols,
         {form == GradientForm::mask ? numbers.mask.data() : nullptr, shape.cols},
         {form == GradientForm::elements ? elements.data() : nullptr, shape.cols}});
    check_registers(set.name, "input_gradient");
    const std::string what =
        std::string(set.name) + " input_gradient of " + name_of(row.x) + " " + shape.text();
    check(dx.memory() == expected.memory(), what);
    check(dz.memory() == expected_dz.memory(), what + " dz");
}

template <class C>
void check_gradient_sums(const Set& set, int row_index, const Shape& shape, const Options& options,
                         bool columns) {
    const GradientKernels& row = set.gradient[row_index];
    const bool activated = options.activation != ActivationKind::none;
    const Array dy(row.dy, shape.size(),
                   [](std::ptrdiff_t) { return chance(6) ? 0.0 : normal(0, 1); });
    const Array x(row.x, shape.size(), [](std::ptrdiff_t) { return normal(3, 1); });
    const Array center = coefficients(row.computed, shape, options, false);
    const Array scale = coefficients(row.computed, shape, options, false);
    const Array shift = coefficients(row.computed, shape, options, false);
    const Activation activation{options.activation, 0.125};
    const std::size_t n = static_cast<std::size_t>(columns ? shape.cols : 1);
    const std::vector<double> mean(n, 3.0);
    const std::vector<double> invstd(n, 0.75);
    std::vector<std::vector<double>> sums;
    // The generic set converts before it sums.
    const Array wide_dy(row.computed, shape.size(), [&](std::ptrdiff_t i) { return dy.at(i); });
    const Array wide_x(row.computed, shape.size(), [&](std::ptrdiff_t i) { return x.at(i); });
    for (const Set& which : {set, sets()[0]}) {
        const bool converts = which.gradient[row_index].sums.tile == nullptr;
        const auto& kernels = which.gradient[converts ? 0 : row_index].sums;
        sums.emplace_back(2 * n, 0.0);
        (columns ? kernels.columns : kernels.tile)(
            {converts ? wide_dy.data() : dy.data(), shape.stride},
            {converts ? wide_x.data() : x.data(), shape.stride}, shape.rows, shape.cols, 1,
            mean.data(), invstd.data(), {sums.back().data(), sums.back().data() + n},
            {activation,
             activated ? Affine<const void>{nullptr, center.data(), scale.data(), shift.data()}
                       : Affine<const void>{},
             {nullptr, 0},
             options.residual});  // either way: there is no NaN
        check_registers(which.name, "gradient sums");
    }
    const std::string what = std::string(set.name) + " gradient sums of " + name_of(row.x) +
                             (columns ? " columns " : " tile ") + shape.text();
    check(sums[0] == sums[1], what + ": not the generic set's bits");
    for (std::size_t c = 0; c < n; ++c) {
        long double sum_dy = 0;
        long double sum_dy_xhat = 0;
        long double size = 0;
        for (std::ptrdiff_t r = 0; r < shape.rows; ++r) {
            for (std::ptrdiff_t i = 0; i < shape.cols; ++i) {
                if (columns && i != static_cast<std::ptrdiff_t>(c)) continue;
                const std::ptrdiff_t at = r * shape.stride + i;
                const std::ptrdiff_t k = columns ? i : 0;
                const C z = (static_cast<C>(x.at(at)) - static_cast<C>(center.at(k))) *
                                static_cast<C>(scale.at(k)) +
                            static_cast<C>(shift.at(k));
                const long double dz =
                    static_cast<double>(gradient_of(activation, z, static_cast<C>(dy.at(at))));
                sum_dy += dz;
                sum_dy_xhat += dz * (x.at(at) - 3.0L) * 0.75L;
                size += std::fabs(dz) * (1.0L + std::fabs(x.at(at) - 3.0L));
            }
        }
        check(std::fabs(sums[0][c] - sum_dy) <= size * 1e-13L, what + ": dy");
        check(std::fabs(sums[0][n + c] - sum_dy_xhat) <= size * 1e-13L, what + ": dy * xhat");
    }
}

// A tile of several channels side by side has the gradient's sums of each alone: with an activation
// or without, and the residual's channels side by side too.
void check_adjacent_gradient_sums(const Set& set, int row_index, const Shape& shape,
                                  bool activated) {
    const GradientKernels& row = set.gradient[row_index];
    constexpr std::ptrdiff_t channels = 3;
    const std::ptrdiff_t stride = channels * shape.cols + 5;
    const auto random = [](std::ptrdiff_t) { return normal(0, 1); };
    const Array dy(row.dy, shape.rows * stride, random);
    const Array x(row.x, shape.rows * stride, random);
    const Array residual(row.dy, shape.rows * stride, random);
    const Array z(row.computed, 3 * channels, random);
    const double means[channels] = {0.5, -2.0, 0.0};
    const double invstds[channels] = {0.75, 1.5, 3.0};
    // The sums of so many channels from number `first` on.
    const auto sums_of = [&](std::ptrdiff_t first, std::ptrdiff_t n) {
        const auto from_channel = [=](const Array& array, DType dtype, std::ptrdiff_t apart) {
            return static_cast<const char*>(array.data()) + first * apart * size_of(dtype);
        };
        const auto coefficient = [&](std::ptrdiff_t i) {
            return from_channel(z, row.computed, 1) + i * channels * size_of(row.computed);
        };
        std::vector<double> sums(static_cast<std::size_t>(2 * n), 0.0);
        ActivationGradient activation{};
        if (activated) {
            activation.activation = {ActivationKind::leaky_relu, 0.125};
            activation.z = {nullptr, coefficient(0), coefficient(1), coefficient(2)};
            activation.residual = {from_channel(residual, row.dy, shape.cols), stride};
        }
        row.sums.tile({from_channel(dy, row.dy, shape.cols), stride},
                      {from_channel(x, row.x, shape.cols), stride}, shape.rows, shape.cols, n,
                      means + first, invstds + first, {sums.data(), sums.data() + n}, activation);
        check_registers(set.name, "gradient sums of adjacent channels");
        return sums;
    };
    const std::vector<double> together = sums_of(0, channels);
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        const std::vector<double> alone = sums_of(c, 1);
        const auto at = static_cast<std::size_t>(c);
        check(together[at] == alone[0] && together[at + channels] == alone[1],
              std::string(set.name) + " gradient sums of adjacent channels of " + name_of(row.x) +
                  " " + shape.text());
    }
}

std::vector<char> random_bytes(std::ptrdiff_t n) {
    std::vector<char> bytes(static_cast<std::size_t>(n));
    for (char& byte : bytes) byte = static_cast<char>(bits() & 0xffU);
    return bytes;
}

// Both ways, with elements told apart by their bytes; and that nothing else is written to.
void check_transposition(const Set& set, std::ptrdiff_t size, std::ptrdiff_t rows,
                         std::ptrdiff_t cols, std::ptrdiff_t gap, bool stream) {
    const std::ptrdiff_t stride = rows + gap;
    const std::string what = std::string(set.name) + " transposition of " + std::to_string(rows) +
                             " x " + std::to_string(cols) + " x " + std::to_string(size);
    const std::vector<char> packed = random_bytes(rows * cols * size + transpose_overhang);
    std::vector<char> array = random_bytes(stride * cols * size);
    const std::vector<char> before = array;
    set.pack.unpack(size, {packed.data(), cols}, {array.data(), stride}, rows, cols, stream);
    check_registers(set.name, "unpack");
    bool right = true;
    for (std::ptrdiff_t c = 0; c < cols; ++c) {
        for (std::ptrdiff_t r = 0; r < stride; ++r) {
            const auto at = static_cast<std::size_t>((c * stride + r) * size);
            const char* const wanted =
                r < rows ? packed.data() + (r * cols + c) * size : before.data() + at;
            right &= std::memcmp(array.data() + at, wanted, static_cast<std::size_t>(size)) == 0;
        }
    }
    check(right, what + ": unpacked");
    std::vector<char> again = random_bytes(rows * cols * size + transpose_overhang + 1);
    const char beyond = again.back();
    set.pack.pack(size, {array.data(), stride}, {again.data(), cols}, rows, cols);
    check_registers(set.name, "pack");
    check(
        std::memcmp(again.data(), packed.data(), static_cast<std::size_t>(rows * cols * size)) == 0,
        what + ": packed");
    check(again.back() == beyond, what + ": beyond the overhang");
}

template <class X>
void check_integers(const Set& set, DType type, const Shape& shape, bool columns) {
    const MomentsKernels* kernels = nullptr;
    for (const MomentsKernels& row : set.integers) {
        if (row.x == type) kernels = &row;
    }
    const std::ptrdiff_t elements = (shape.rows - 1) * shape.stride + shape.cols;
    const std::vector<char> bytes = random_bytes(elements * static_cast<std::ptrdiff_t>(sizeof(X)));
    std::vector<X> x(static_cast<std::size_t>(elements));
    std::memcpy(x.data(), bytes.data(), bytes.size());
    const auto channels = static_cast<std::size_t>(columns ? shape.cols : 1);
    std::vector<double> sum(channels, 3.0);  // what is there already is added to
    std::vector<double> squares(channels, 5.0);
    std::vector<double> squares_lo(channels, 0.0);
    const IntegerSumsKernel kernel =
        columns ? kernels->integer_sums.columns : kernels->integer_sums.tile;
    kernel({x.data(), shape.stride}, shape.rows, shape.cols,
           {sum.data(), squares.data(), squares_lo.data()});
    check_registers(set.name, "integer_sums");
    for (std::size_t c = 0; c < channels; ++c) {
        std::int64_t wanted = 3;
        std::int64_t wanted_squares = 5;
        for (std::ptrdiff_t r = 0; r < shape.rows; ++r) {
            for (std::ptrdiff_t i = 0; i < shape.cols; ++i) {
                if (columns && i != static_cast<std::ptrdiff_t>(c)) continue;
                std::int64_t value = x[static_cast<std::size_t>(r * shape.stride + i)];
                if (type == DType::boolean) value = value != 0 ? 1 : 0;
                wanted += value;
                wanted_squares += value * value;
            }
        }
        const bool right = sum[c] == static_cast<double>(wanted) &&
                           squares[c] + squares_lo[c] == static_cast<double>(wanted_squares);
        check(right, std::string(set.name) + " sums of integers " +
                         std::to_string(static_cast<int>(type)) + " " + shape.text());
    }
}

void check_storage(const Set& set) {
    for (const std::ptrdiff_t size : {1, 2, 4, 8}) {
        for (const std::ptrdiff_t rows : {1, 2, 7, 16, 17, 64, 65, 130}) {
            for (const std::ptrdiff_t cols : {1, 2, 3, 4, 5, 8, 15, 16, 17, 33}) {
                for (const std::ptrdiff_t gap : {0, 3, 64}) {
                    check_transposition(set, size, rows, cols, gap, false);
                    check_transposition(set, size, rows, cols, gap, true);
                }
            }
        }
    }
    for (const Shape& shape : shapes) {
        for (const bool columns : {false, true}) {
            check_integers<std::uint8_t>(set, DType::uint8, shape, columns);
            check_integers<std::int8_t>(set, DType::int8, shape, columns);
            check_integers<std::uint16_t>(set, DType::uint16, shape, columns);
            check_integers<std::int16_t>(set, DType::int16, shape, columns);
            check_integers<std::uint8_t>(set, DType::boolean, shape, columns);
        }
    }
}

// The value that a type's bytes at `at` stand for, converted to T by the language.
template <class T>
T value_of(DType type, const char* at) {
    return visit_dtype(type, [&](auto value) {
        std::memcpy(&value, at, sizeof value);
        if constexpr (std::is_same_v<decltype(value), Float16> ||
                      std::is_same_v<decltype(value), Bfloat16>) {
            return static_cast<T>(widen(value));
        } else {
            return type == DType::boolean ? T(value != 0 ? 1 : 0) : static_cast<T>(value);
        }
    });
}

// Whether no other number of the sixteen-bit type is nearer to a value in the range of its normal
// numbers; of two that are as near, it must be the even one.
template <class Half>
bool is_nearest(Half half, double value) {
    const auto distance = [&](int to) {
        const Half other{static_cast<std::uint16_t>(half.bits + to)};
        return std::fabs(static_cast<long double>(widen(other)) - value);
    };
    const bool even = half.bits % 2 == 0;
    return (distance(0) < distance(1) || (even && distance(0) == distance(1))) &&
           (distance(0) < distance(-1) || (even && distance(0) == distance(-1)));
}

template <class T>
bool is_same_value(DType from, const char* source, DType to, const char* found) {
    const T wanted = value_of<T>(from, source);
    const T seen = value_of<T>(to, found);
    return seen == wanted || (std::isnan(seen) && std::isnan(wanted));
}
bool is_converted(DType from, const char* source, DType to, const char* found) {
    if (to == DType::float32) return is_same_value<float>(from, source, to, found);
    if (to == DType::float64) return is_same_value<double>(from, source, to, found);
    const auto value = value_of<double>(from, source);
    std::uint16_t half;
    std::memcpy(&half, found, sizeof half);
    if (value == 0.0) return half == 0;
    return to == DType::float16 ? is_nearest(Float16{half}, value)
                                : is_nearest(Bfloat16{half}, value);
}

void check_conversion(const Set& set, DType from, DType to, std::ptrdiff_t n) {
    const Conversion conversion = set.convert.conversion(from, to);
    const std::string what = std::string(set.name) + " conversion of " + std::to_string(n) +
                             " of " + std::to_string(static_cast<int>(from)) + " to " +
                             std::to_string(static_cast<int>(to));
    const bool to_half = to == DType::float16 || to == DType::bfloat16;
    const bool from_float = from == DType::float32 || from == DType::float64;
    const bool exists = from != to && (!to_half || from_float);
    check((conversion != nullptr) == exists, what + ": whether there is one");
    if (!exists || conversion == nullptr) return;
    Array values(from, n);
    char* const stored = static_cast<char*>(values.data());
    for (std::ptrdiff_t i = 0; i < n * size_of(from); ++i) {
        stored[i] = from == DType::boolean && chance(2) ? '\0' : static_cast<char>(bits());
    }
    // What is rounded to sixteen bits: numbers that those hold, numbers in the middle between two,
    // and any others, all in their normal range or 0.
    for (std::ptrdiff_t i = 0; i < n && to_half; ++i) {
        const int digits = chance(2) ? 12 : 9;
        values.set(i, chance(3)
                          ? std::ldexp(std::floor(std::ldexp(normal(0.0, 1.0), digits)), -digits)
                          : 1.0 + std::fabs(normal(0.0, 9.0)));
    }
    Array results(to, n);
    const Array untouched = results;
    conversion(values.data(), results.data(), n);
    check_registers(set.name, "conversion");
    Array of_generic = untouched;
    sets()[0].convert.conversion(from, to)(values.data(), of_generic.data(), n);
    check(results.memory() == of_generic.memory(), what + ": not the generic set's bits");
    bool right = true;
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const char* const source = stored + i * size_of(from);
        char* const found = static_cast<char*>(results.data()) + i * size_of(to);
        right = right && is_converted(from, source, to, found);
        std::memset(found, 0, static_cast<std::size_t>(size_of(to)));
    }
    check(right, what + ": value");
    check(results.memory() == untouched.memory(), what + ": beyond the results");
}

void check_reversal(const Set& set, std::ptrdiff_t size, std::ptrdiff_t n, std::ptrdiff_t offset) {
    const std::string what = std::string(set.name) + " reversal of " + std::to_string(n) +
                             " elements of " + std::to_string(size);
    const auto bytes = static_cast<std::size_t>(n * size + 2 * offset);
    std::vector<char> values(bytes);
    for (char& value : values) value = static_cast<char>(bits());
    std::vector<char> wanted(bytes);
    for (std::ptrdiff_t i = 0; i < n * size; ++i) {
        const std::ptrdiff_t mirrored = i / size * size + (size - 1 - i % size);
        wanted[static_cast<std::size_t>(offset + i)] =
            values[static_cast<std::size_t>(offset + mirrored)];
    }
    std::vector<char> results(bytes);
    set.convert.reversal(size)(values.data() + offset, results.data() + offset, n);
    check_registers(set.name, "reversal");
    check(results == wanted, what);
}

void check_conversions(const Set& set) {
    for (const std::ptrdiff_t n : {0, 1, 7, 16, 17, 63, 200, 300}) {
        for (int from = 0; from <= static_cast<int>(DType::boolean); ++from) {
            for (int to = 0; is_float(static_cast<DType>(to)); ++to) {
                check_conversion(set, static_cast<DType>(from), static_cast<DType>(to), n);
            }
        }
        for (const std::ptrdiff_t size : {2, 4, 8}) {
            for (const std::ptrdiff_t offset : {0, 1, 4}) check_reversal(set, size, n, offset);
        }
    }
}

// Finished moments of n channels, of which some have no values.
struct FinishedMoments {
    explicit FinishedMoments(std::ptrdiff_t channels)
        : values(static_cast<std::size_t>(5 * channels)), n(channels) {}

    CentralMoments<double*> arrays() {
        double* const first = values.data();
        return {first, first + n, first + 2 * n, first + 3 * n, first + 4 * n};
    }
    CentralMoments<const double*> read() {
        const CentralMoments<double*> a = arrays();
        return {a.count, a.mean, a.mean_lo, a.m2, a.m2_lo};
    }
    void fill() {
        const CentralMoments<double*> a = arrays();
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const bool empty = chance(5);
            a.count[i] = empty ? 0.0 : std::floor(1.0 + std::fabs(normal(0.0, 9.0)));
            a.mean[i] = empty ? std::nan("") : normal(1e3, 1.0);
            a.mean_lo[i] = empty ? 0.0 : a.mean[i] * 0x1p-54;
            a.m2[i] = empty ? 0.0 : std::fabs(normal(1.0, 1.0));
            a.m2_lo[i] = a.m2[i] * -0x1p-54;
        }
    }

    std::vector<double> values;
    std::ptrdiff_t n;
};

void check_central_merge(const Set& set, std::ptrdiff_t n) {
    const std::string what = std::string(set.name) + " merge of " + std::to_string(n) + " moments";
    FinishedMoments a(n);
    FinishedMoments b(n);
    FinishedMoments both(n);
    FinishedMoments other(n);
    a.fill();
    b.fill();
    set.moments.merge_central(a.read(), b.read(), both.arrays(), n);
    check_registers(set.name, "merge_central");
    sets()[0].moments.merge_central(b.read(), a.read(), other.arrays(), n);
    const std::size_t bytes = both.values.size() * sizeof(double);
    // The bytes of a NaN may differ: those are of means of no values.
    for (std::vector<double>* values : {&both.values, &other.values}) {
        for (double& value : *values) value = std::isnan(value) ? -1.0 : value;
    }
    check(std::memcmp(both.values.data(), other.values.data(), bytes) == 0,
          what + ": not the generic set's bits, or not those in the other order");
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const CentralMoments<double> x = at(a.read(), i);
        const CentralMoments<double> y = at(b.read(), i);
        const CentralMoments<double> found = at(both.read(), i);
        check(found.count == x.count + y.count, what + ": count");
        if (x.count == 0.0 || y.count == 0.0) {
            const CentralMoments<double>& one = y.count == 0.0 ? x : y;
            const double mean = one.count == 0.0 ? -1.0 : one.mean;
            check(found.mean == mean && found.m2 == one.m2, what + ": of one set");
            continue;
        }
        const long double part = static_cast<long double>(y.count) / found.count;
        const long double delta =
            (static_cast<long double>(y.mean) - x.mean) + (y.mean_lo - x.mean_lo);
        const long double mean = x.mean + (x.mean_lo + delta * part);
        const long double m2 = (x.m2 + x.m2_lo) + (y.m2 + y.m2_lo) + delta * delta * x.count * part;
        // The mean is the rounded one or next to it; m2 is off by some roundings.
        check(std::fabs(found.mean - mean) <= 0x1p-53L * mean, what + ": mean");
        check(std::fabs(found.m2 - m2) <= 0x1p-50L * m2, what + ": m2");
    }
}

void check_set(const Set& set) {
    check_storage(set);
    check_conversions(set);
    const WeightsForm forms[] = {WeightsForm::none,    WeightsForm::omit_nan,
                                 WeightsForm::by_row,  WeightsForm::by_row_omit_nan,
                                 WeightsForm::by_mask, WeightsForm::by_element};
    for (const bool columns : {false, true}) {
        for (const WeightsForm form : forms) {
            check_constants(set, form, columns);
            for (const Shape& shape : shapes) {
                for (int row = 0; row < moments_rows; ++row) {
                    check_moments(set, row, form, shape, columns, 0.5);
                    if (row < 2) check_moments(set, row, form, shape, columns, 1e5);
                    const bool by_value =
                        form == WeightsForm::by_mask || form == WeightsForm::by_element;
                    if (!columns && !by_value) check_adjacent_moments(set, row, form, shape);
                }
            }
        }
        for (const Shape& shape : shapes) {
            for (int row = 0; row < 2; ++row) {
                check_range(set, row, shape, columns, false);
                check_range(set, row, shape, columns, true);
            }
        }
    }
    for (const Shape& shape : shapes) {
        for (int row = 0; row < gradient_rows; ++row) {
            if (set.gradient[row].sums.tile == nullptr) continue;
            check_adjacent_gradient_sums(set, row, shape, false);
            check_adjacent_gradient_sums(set, row, shape, true);
        }
        for (const Options& options : all_options(shape.cols)) {
            for (int row = 0; row < normalize_rows; ++row) {
                if (set.normalize.rows[row].normalize == nullptr) continue;
                const bool in_double = set.normalize.rows[row].computed == DType::float64;
                (in_double ? check_normalize<double> : check_normalize<float>)(set, row, shape,
                                                                               options);
            }
            for (int row = 0; row < gradient_rows; ++row) {
                if (set.gradient[row].input_gradient == nullptr) continue;
                const bool in_double = set.gradient[row].computed == DType::float64;
                for (const bool columns : {false, true}) {
                    (in_double ? check_gradient_sums<double>
                               : check_gradient_sums<float>)(set, row, shape, options, columns);
                }
                for (const auto form :
                     {GradientForm::same, GradientForm::frozen, GradientForm::rows,
                      GradientForm::mask, GradientForm::elements}) {
                    (in_double ? check_input_gradient<double>
                               : check_input_gradient<float>)(set, row, shape, options, form);
                }
            }
        }
    }
    for (const std::ptrdiff_t n : {1, 16, 100}) check_central_merge(set, n);
}

}  // namespace
}  // namespace fastbn

int main() {
    for (const fastbn::Set& set : fastbn::sets()) {
        const int before = fastbn::checks;
        fastbn::check_set(set);
        std::printf("%s: %d checks\n", set.name, fastbn::checks - before);
    }
    std::printf("%d of %d checks failed\n", fastbn::failures, fastbn::checks);
    return fastbn::failures == 0 ? 0 : 1;
}
