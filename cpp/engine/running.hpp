// Running statistics: checked, read before anything is written, and written back last.
#pragma once

#include "engine/features.hpp"
#include "engine/operations.hpp"
#include "engine/parameters.hpp"
#include "engine/shares.hpp"

namespace fastbn {

// Raises std::invalid_argument for what the caller may have got wrong. allow_single: a channel of
// which too little counts for an unbiased variance has its biased one remembered.
void check_running(const Running& running, const Features& features, const Shares& shares,
                   bool allow_single);

class RunningUpdate {
public:
    RunningUpdate(const Running& running, const Features& features, bool allow_single)
        : running_(running),
          count_(static_cast<double>(features.count)),
          allow_single_(allow_single),
          mean_(running.mean, features, 0.0),
          var_(running.var, features, 1.0) {}

    // By a batch's statistics, one value per channel; without counts, all values count.
    void apply(const StatisticsOut& batch) noexcept;

private:
    double blend(double old, double now) const {
        return (1.0 - running_.momentum) * old + running_.momentum * now;
    }
    bool is_finite(const StatisticsOut& batch) const;

    const Running& running_;
    double count_;
    bool allow_single_;
    Values mean_;
    Values var_;
};

}  // namespace fastbn
