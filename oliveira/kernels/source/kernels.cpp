// Compiled once for each instruction set: OLIVEIRA_AVX512 (also with VNNI), OLIVEIRA_AVX2 or neither is defined.
#include "causal.h"
#include "layers.h"
#include "product.h"
#include "int8.h"
#include "sample.h"

#if defined(__AVX512VNNI__)
#define NAME avx512vnni
#elif defined(OLIVEIRA_AVX512)
#define NAME avx512
#elif defined(OLIVEIRA_AVX2)
#define NAME avx2
#else
#define NAME scalar
#endif
#define JOIN(a, b) a##b
#define MAKE(name) JOIN(oliveira_, name)
#define TEXT(name) #name
#define NAMED(name) TEXT(name)

static const Isa isa = {NAMED(NAME), product, sums, round_rows, norm, pack, norm_here, keep, attend, cap, decode, low_rank, rope, expand, causal, causal_back, gated, gated_back, sample, sample_memory};

extern "C" const Isa *MAKE(NAME)() { return &isa; }
