#include "engine/dispatch.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "engine/errors.hpp"

#ifdef FASTBN_X86
#include <cpuid.h>
#endif

namespace fastbn {
namespace {

#ifdef FASTBN_X86

// What cpuid says in one of its registers; 0 where the processor does not know the leaf.
unsigned leaf1_ecx() {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(1, 0, &eax, &ebx, &ecx, &edx) != 0 ? ecx : 0;
}
unsigned leaf7_ebx() {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 ? ebx : 0;
}

// XCR0: which registers the operating system saves. Only valid where cpuid reports OSXSAVE.
std::uint64_t saved_registers() {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (std::uint64_t{high} << 32) | low;
}

bool has(std::uint64_t value, std::uint64_t bits) { return (value & bits) == bits; }

// Bits of Intel's manual, volume 2, CPUID, and volume 1, 13.2 (XCR0).
constexpr unsigned leaf1_ecx_fma_osxsave_avx_f16c =
    (1U << 12) | (1U << 27) | (1U << 28) | (1U << 29);
constexpr unsigned leaf7_ebx_avx2 = 1U << 5;
constexpr unsigned leaf7_ebx_avx512f_dq_bw_vl = (1U << 16) | (1U << 17) | (1U << 30) | (1U << 31);
constexpr std::uint64_t xcr0_sse_avx = 0x6;
constexpr std::uint64_t xcr0_opmask_zmm = 0xe0;

// These equal the flags that CMakeLists.txt compiles the two with.
bool can_run_avx2() {
    if (!has(leaf1_ecx(), leaf1_ecx_fma_osxsave_avx_f16c)) return false;
    return has(saved_registers(), xcr0_sse_avx) && has(leaf7_ebx(), leaf7_ebx_avx2);
}

bool can_run_avx512() {
    return can_run_avx2() && has(saved_registers(), xcr0_opmask_zmm) &&
           has(leaf7_ebx(), leaf7_ebx_avx512f_dq_bw_vl);
}

#endif

bool always() { return true; }

struct Isa {
    const char* name;
    const MomentsTable* moments;
    const NormalizeTable* normalize;
    const ConvertTable* convert;
    const GradientKernels (&gradient)[gradient_rows];
    const MomentsKernels (&integers)[integers_rows];
    const PackTable* pack;
    bool (*can_run)();
};

const Isa isas[] = {
    {"generic", &generic::moments_table, &generic::normalize_table, &generic::convert_table,
     generic::gradient_table, generic::integers_table, &generic::pack_table, always},
#ifdef FASTBN_X86
    {"avx2", &avx2::moments_table, &avx2::normalize_table, &avx2::convert_table,
     avx2::gradient_table, avx2::integers_table, &avx2::pack_table, can_run_avx2},
    {"avx512", &avx512::moments_table, &avx512::normalize_table, &avx512::convert_table,
     avx512::gradient_table, avx512::integers_table, &avx512::pack_table, can_run_avx512},
#endif
#ifdef FASTBN_AARCH64
    {"neon", &neon::moments_table, &neon::normalize_table, &neon::convert_table,
     neon::gradient_table, neon::integers_table, &neon::pack_table, always},
#endif
};

std::atomic<const Isa*> active{&isas[0]};

// The first of a table's rows for which fits(row) holds.
template <class Row, int n, class Fits>
const Row* find_row(const Row (&rows)[n], const Fits& fits) {
    for (const Row& row : rows) {
        if (fits(row)) return &row;
    }
    return nullptr;
}

DType converted_type(bool to_double) { return to_double ? DType::float64 : DType::float32; }

// x's own row if it has what is asked for, else that of the type that x is converted to.
template <class Has>
const MomentsKernels& moments_row(DType x, const Has& has) {
    const auto& rows = active.load()->moments->rows;
    const MomentsKernels* own =
        find_row(rows, [&](const MomentsKernels& row) { return row.x == x && has(row); });
    if (own != nullptr) return *own;
    const DType type = converted_type(needs_double(x));
    return *find_row(rows, [=](const MomentsKernels& row) { return row.x == type; });
}

}  // namespace

const MomentsKernels& moments_kernels(DType x, WeightsForm form) {
    const int i = static_cast<int>(form);
    return moments_row(x,
                       [=](const MomentsKernels& row) { return row.moments[i].tile != nullptr; });
}

const Reduction<IntegerSumsKernel>* integer_sums_kernels(DType x, WeightsForm form) {
    if (form != WeightsForm::none) return nullptr;
    const MomentsKernels* const row =
        find_row(active.load()->integers, [=](const MomentsKernels& each) { return each.x == x; });
    return row != nullptr ? &row->integer_sums : nullptr;
}

DType moments_type(DType x, WeightsForm form) {
    return integer_sums_kernels(x, form) != nullptr ? x : moments_kernels(x, form).x;
}

const MomentsTable& moments_table() { return *active.load()->moments; }
const NormalizeTable& normalize_table() { return *active.load()->normalize; }
const ConvertTable& convert_table() { return *active.load()->convert; }
const PackTable& pack_table() { return *active.load()->pack; }

const MomentsKernels& value_range_kernels(DType x) {
    return moments_row(x,
                       [](const MomentsKernels& row) { return row.value_range.tile != nullptr; });
}

const NormalizeKernels& normalize_kernels(DType x, DType y) {
    const auto& rows = active.load()->normalize->rows;
    const NormalizeKernels* own = find_row(rows, [=](const NormalizeKernels& row) {
        return row.x == x && row.y == y && row.normalize != nullptr;
    });
    if (own != nullptr) return *own;
    const DType type = converted_type(needs_double(x) || y == DType::float64);
    return *find_row(rows, [=](const NormalizeKernels& row) {
        return row.x == type && row.y == type && row.normalize != nullptr;
    });
}

const GradientKernels& gradient_kernels(DType x, DType dy) {
    const auto& rows = active.load()->gradient;
    const GradientKernels* own = find_row(rows, [=](const GradientKernels& row) {
        return row.x == x && row.dy == dy && row.input_gradient != nullptr;
    });
    if (own != nullptr) return *own;
    const DType type = converted_type(needs_double(x) || needs_double(dy));
    return *find_row(rows, [=](const GradientKernels& row) {
        return row.x == type && row.dy == type && row.input_gradient != nullptr;
    });
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : isas) {
        if (isa.can_run()) names.emplace_back(isa.name);
    }
    return names;
}

void set_isa(const std::string& name) {
    std::string valid;
    for (const Isa& isa : isas) {
        if (!isa.can_run()) continue;
        if (name == isa.name) {
            active = &isa;
            return;
        }
        valid += (valid.empty() ? "'" : ", '") + std::string(isa.name) + "'";
    }
    refuse("FASTBN_ISA", "be one of " + valid + " on this machine", "'" + name + "'");
}

const char* get_isa() { return active.load()->name; }

void choose_isa() {
    const char* wanted = std::getenv("FASTBN_ISA");
    set_isa(wanted != nullptr && *wanted != '\0' ? wanted : available_isas().back());
}

}  // namespace fastbn
