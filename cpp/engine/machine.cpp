#include "engine/machine.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "engine/errors.hpp"

namespace fastbn {
namespace {

// All of a file of the system's; empty where it cannot be read.
std::string contents_of(const std::string& path) {
    std::string contents;
    std::FILE* const file = std::fopen(path.c_str(), "r");
    if (file == nullptr) return contents;
    char part[256];
    std::size_t n = sizeof part;
    while (n == sizeof part) {
        n = std::fread(part, 1, sizeof part, file);
        contents.append(part, n);
    }
    std::fclose(file);
    return contents;
}

// ---- Caches ----

// Where the system does not say: what small processors of today have.
constexpr std::ptrdiff_t usual_l2 = std::ptrdiff_t{512} << 10;
constexpr std::ptrdiff_t usual_l3 = std::ptrdiff_t{8} << 20;
// What a processor may rely on of a third-level cache that many share: a container or a virtual
// machine is told the size of the whole, 260 MiB for 64 cores, of which others use the rest. There
// plain stores of more than this lost to those past the caches (bench/NOTES.md).
constexpr std::ptrdiff_t l3_of_processor = std::ptrdiff_t{14} << 20;

std::atomic<std::ptrdiff_t> l2_bytes{usual_l2};
std::atomic<std::ptrdiff_t> l3_bytes{usual_l3};

constexpr const char* size_rule = "be a number of bytes from 1 on";

// What the system says of one of the first processor's caches; empty where there is none.
std::string cache_attribute(int index, const char* attribute) {
    const std::string line = contents_of("/sys/devices/system/cpu/cpu0/cache/index" +
                                         std::to_string(index) + "/" + attribute);
    return line.substr(0, line.find('\n'));
}

// A size as Linux writes it, such as "32768K"; 0 for anything else.
std::ptrdiff_t parse_size(const std::string& size) {
    std::ptrdiff_t n = 0;
    const char* const end = size.data() + size.size();
    const auto [rest, error] = std::from_chars(size.data(), end, n);
    if (error != std::errc{} || n < 1 || n > (std::ptrdiff_t{1} << 32)) return 0;
    if (rest == end) return n;
    const bool kibi = *rest == 'K';
    const bool mebi = *rest == 'M';
    return rest + 1 == end && (kibi || mebi) ? n << (kibi ? 10 : 20) : 0;
}

// The caches that the system says the first processor has; not sysconf, which on virtual machines
// may include those of processors that they do not have.
void find_caches(std::ptrdiff_t& l2, std::ptrdiff_t& l3) {
    constexpr int most_caches = 8;
    l2 = 0;
    l3 = 0;
    for (int index = 0; index < most_caches; ++index) {
        const std::ptrdiff_t bytes = parse_size(cache_attribute(index, "size"));
        if (bytes == 0 || cache_attribute(index, "type") == "Instruction") continue;
        const std::string level = cache_attribute(index, "level");
        if (level == "2") l2 = bytes;
        if (level == "3") l3 = bytes;
    }
    if (l2 == 0) {
        l2 = usual_l2;
        l3 = usual_l3;
    } else if (l3 == 0) {
        l3 = l2;  // the second level is the last there
    }
}

// What the environment says, or what is known otherwise.
std::ptrdiff_t chosen_size(const char* variable, std::ptrdiff_t known) {
    const char* const text = std::getenv(variable);
    if (text == nullptr || *text == '\0') return known;
    const char* const end = text + std::strlen(text);
    std::ptrdiff_t bytes = 0;
    const auto [rest, error] = std::from_chars(text, end, bytes);
    if (error != std::errc{} || rest != end || bytes < 1) {
        refuse(variable, size_rule, "'" + std::string(text) + "'");
    }
    return bytes;
}

// ---- Quotas ----

constexpr double unlimited = std::numeric_limits<double>::infinity();

// Of "quota period", the first of which may also be "max" or -1: microseconds of processor time per
// so many microseconds.
double processors_of(const std::string& limit) {
    char* end = nullptr;
    const long long quota = std::strtoll(limit.c_str(), &end, 10);
    const long long period = std::strtoll(end, nullptr, 10);
    if (quota <= 0 || period <= 0) return unlimited;
    return static_cast<double>(quota) / static_cast<double>(period);
}

// One group's own, version 2 of control groups: in one file.
double group_v2(const std::string& folder) {
    return processors_of(contents_of(folder + "/cpu.max"));
}

// Version 1: in two files.
double group_v1(const std::string& folder) {
    return processors_of(contents_of(folder + "/cpu.cfs_quota_us") + " " +
                         contents_of(folder + "/cpu.cfs_period_us"));
}

// The least of a group's and those above it. Inside of a container the path may be the one outside:
// its folders are not there, and the container's own group is the mount itself, which comes last.
double least(const std::string& mount, std::string path,
             double (*group)(const std::string& folder)) {
    double found = unlimited;
    while (true) {
        found = std::min(found, group(mount + path));
        const std::size_t slash = path.rfind('/');
        if (slash == std::string::npos) return found;
        path.erase(slash);
    }
}

// ---- Processors ----

bool is_intel() {
#ifdef FASTBN_X86
    static const bool is = __builtin_cpu_is("intel") != 0;
    return is;
#else
    return false;
#endif
}

}  // namespace

std::ptrdiff_t l2_cache() { return l2_bytes.load(); }
std::ptrdiff_t l3_cache() { return l3_bytes.load(); }

void set_caches(std::ptrdiff_t l2, std::ptrdiff_t l3) {
    if (l2 < 1) refuse("l2", size_rule, std::to_string(l2));
    if (l3 < 1) refuse("l3", size_rule, std::to_string(l3));
    l2_bytes = l2;
    l3_bytes = l3;
}

void choose_caches(int processors) {
    std::ptrdiff_t l2;
    std::ptrdiff_t l3;
    find_caches(l2, l3);
    l3 = std::min(l3, l3_of_processor * processors);
    set_caches(chosen_size("FASTBN_L2", l2), chosen_size("FASTBN_L3", l3));
}

bool prefetches_next_slab() { return !is_intel(); }
std::ptrdiff_t bytes_to_prefetch() { return is_intel() ? 4096 : 0; }

int quota_of(const std::string& root) {
    const std::string mount = root + "/sys/fs/cgroup";
    const std::string groups = contents_of(root + "/proc/self/cgroup");
    double found = unlimited;
    // Lines of "number:controllers:path", without controllers for version 2.
    std::size_t end = 0;
    for (std::size_t begin = 0; begin < groups.size(); begin = end + 1) {
        end = std::min(groups.find('\n', begin), groups.size());
        const std::string line = groups.substr(begin, end - begin);
        const std::size_t first = line.find(':');
        const std::size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            found = std::min(found, least(mount, path, group_v2));
        } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
            // Mounted under the controllers' names, to which some systems link each name.
            for (const char* const name : {controllers.c_str(), "cpu"}) {
                std::string folder = mount;
                folder.append("/").append(name);
                found = std::min(found, least(folder, path, group_v1));
            }
        }
    }
    if (found == unlimited) return 0;
    return static_cast<int>(std::clamp<double>(found, 1, std::numeric_limits<int>::max()));
}

}  // namespace fastbn
