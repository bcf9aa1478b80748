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

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    if (__get_cpuid_max(0, nullptr) >= leaf) {
        __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    }
    return r;
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
    if (!has(cpuid(1, 0).ecx, leaf1_ecx_fma_osxsave_avx_f16c)) return false;
    return has(saved_registers(), xcr0_sse_avx) && has(cpuid(7, 0).ebx, leaf7_ebx_avx2);
}

bool can_run_avx512() {
    return can_run_avx2() && has(saved_registers(), xcr0_opmask_zmm) &&
           has(cpuid(7, 0).ebx, leaf7_ebx_avx512f_dq_bw_vl);
}

#endif

bool always() { return true; }

struct Isa {
    const char* name;
    const Kernels* kernels;
    bool (*can_run)();
};

const Isa isas[] = {
    {"generic", &generic::kernels, always},
#ifdef FASTBN_X86
    {"avx2", &avx2::kernels, can_run_avx2},
    {"avx512", &avx512::kernels, can_run_avx512},
#endif
};

std::atomic<const Isa*> active{&isas[0]};

}  // namespace

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

const Kernels& active_kernels() { return *active.load()->kernels; }

}  // namespace fastbn
