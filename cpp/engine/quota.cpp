#include "engine/quota.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

namespace fastbn {
namespace {

constexpr double unlimited = std::numeric_limits<double>::infinity();

// Microseconds of processor time per period, or "max" or -1.
double processors_of(const std::string& quota, double period) {
    double time = 0;
    if (!(std::istringstream(quota) >> time) || time <= 0 || period <= 0) return unlimited;
    return time / period;
}

// One group's own, version 2 of control groups: "quota period" in one file.
double group_v2(const std::string& folder) {
    std::ifstream file(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    return file >> quota >> period ? processors_of(quota, period) : unlimited;
}

// Version 1: two files.
double group_v1(const std::string& folder) {
    std::ifstream quota_file(folder + "/cpu.cfs_quota_us");
    std::ifstream period_file(folder + "/cpu.cfs_period_us");
    std::string quota;
    double period = 0;
    return quota_file >> quota && period_file >> period ? processors_of(quota, period) : unlimited;
}

// The least of a group's and those above it. Inside of a container the path may be the one outside:
// its folders are not there, and the container's own group is the mount itself, which comes last.
template <class Group>
double least(const std::string& mount, std::string path, const Group& group) {
    double found = unlimited;
    while (true) {
        found = std::min(found, group(mount + path));
        const std::size_t slash = path.rfind('/');
        if (slash == std::string::npos) return found;
        path.erase(slash);
    }
}

bool lists(const std::string& controllers, const std::string& wanted) {
    std::istringstream list(controllers);
    for (std::string name; std::getline(list, name, ',');) {
        if (name == wanted) return true;
    }
    return false;
}

}  // namespace

int quota_of(const std::string& root) {
    const std::string mount = root + "/sys/fs/cgroup";
    std::ifstream groups(root + "/proc/self/cgroup");
    double found = unlimited;
    // Lines of "number:controllers:path", without controllers for version 2.
    for (std::string line; std::getline(groups, line);) {
        const std::size_t first = line.find(':');
        const std::size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            found = std::min(found, least(mount, path, group_v2));
        } else if (lists(controllers, "cpu")) {
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
