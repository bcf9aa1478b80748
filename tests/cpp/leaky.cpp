// What the symbol check must catch: an inline function that an ISA's object emits for the whole
// program, beside a proper table. Compiled for the check's own test only.

namespace fastbn::leaky {

inline int twice(int x) { return 2 * x; }

extern int (*const kernels)(int);
int (*const kernels)(int) = &twice;

}  // namespace fastbn::leaky
