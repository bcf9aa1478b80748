// What the symbol check must catch: an inline function that an ISA's object emits for the whole
// program, beside the proper tables. Compiled for the check's own test only.

namespace fastbn::leaky {

inline int twice(int x) { return 2 * x; }

extern int (*const convert_table)(int);
extern int (*const gradient_table)(int);
extern int (*const integers_table)(int);
extern int (*const moments_table)(int);
extern int (*const normalize_table)(int);
extern int (*const pack_table)(int);
int (*const convert_table)(int) = &twice;
int (*const gradient_table)(int) = &twice;
int (*const integers_table)(int) = &twice;
int (*const moments_table)(int) = &twice;
int (*const normalize_table)(int) = &twice;
int (*const pack_table)(int) = &twice;

}  // namespace fastbn::leaky
