// The kernels between arrays and packed tiles. See moments.cpp for how this is compiled.
#include "kernels/differences.hpp"
#include "kernels/table.hpp"
#include "kernels/transpose.hpp"

namespace fastbn::FASTBN_ISA {

extern constexpr PackTable pack_table = {{transpose_kernels<1>(), transpose_kernels<2>(),
                                          transpose_kernels<4>(), transpose_kernels<8>()},
                                         {difference_kernels<std::int64_t>(DType::int64),
                                          difference_kernels<std::uint64_t>(DType::uint64)}};

}  // namespace fastbn::FASTBN_ISA
