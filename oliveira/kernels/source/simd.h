// Sixteen float lanes, three times: AVX-512, AVX2, plain C++. Included once by each kernels_*.cpp, which says which.
#pragma once
#include "types.h"
#include <cmath>
#include <cstring>

#if defined(OLIVEIRA_AVX512) || defined(OLIVEIRA_AVX2)
#include <immintrin.h>
#endif

namespace {

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16") // whole: sums that are indexed by a loop would live in memory

// VNNI multiplies unsigned weights: signed ones are lifted by 128, and 128 times the sum of x is taken off again.
#if defined(__AVX512VNNI__)
constexpr int BIAS = 128;
#else
constexpr int BIAS = 0;
#endif

#if defined(OLIVEIRA_AVX512)

using V = __m512;
using Codes = __m512i;
struct Table { __m512 v; };
INLINE V zero() { return _mm512_setzero_ps(); }
INLINE V broadcast(float x) { return _mm512_set1_ps(x); }
INLINE V load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, V a) { _mm512_storeu_ps(p, a); }
INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
INLINE V first_lanes(V a, V other, int n) { return _mm512_mask_mov_ps(other, __mmask16((1u << n) - 1), a); }
INLINE float sum(V a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float largest(V a) { return _mm512_reduce_max_ps(a); }
INLINE V halves(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void store(uint16_t *p, V a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }
INLINE Codes codes(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE Codes next(Codes c) { return _mm512_srli_epi32(c, 4); }
INLINE Codes codes(int32_t x) { return _mm512_set1_epi32(x); }
INLINE void store(uint8_t *p, Codes c) { _mm512_storeu_si512(p, c); }
INLINE Codes low_nibbles(Codes c) { return _mm512_and_si512(c, _mm512_set1_epi8(15)); }
template <int LEFT> INLINE Codes sixes(Codes c, Codes h) { // two bits of h above four of c
    Codes moved = LEFT >= 0 ? _mm512_slli_epi32(h, LEFT >= 0 ? LEFT : 0) : _mm512_srli_epi32(h, LEFT < 0 ? -LEFT : 0);
    return _mm512_or_si512(c, _mm512_and_si512(moved, _mm512_set1_epi8(0x30)));
}
INLINE Codes look_bytes(Codes c, const uint8_t *t) { // the low nibble of each byte
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)t)), c);
}
INLINE Codes flip(Codes c) { return _mm512_xor_si512(c, _mm512_set1_epi8(int8_t(BIAS))); }
#if defined(__AVX512VNNI__)
INLINE Codes dot(Codes sum, Codes w, Codes x) { // the intrinsic makes g++ 12 keep every sum in memory as well: 1.6 times slower
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}
#else
INLINE Codes dot(Codes sum, Codes w, Codes x) { // |w| times x with the sign of w: at most 2 * 127 * 127 in 16 bits
    const __m512i signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_x);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
INLINE V floats(Codes c) { return _mm512_cvtepi32_ps(c); }
INLINE Codes rounded(V a) { return _mm512_cvtps_epi32(a); }
INLINE int32_t sum(Codes c) { return _mm512_reduce_add_epi32(c); }
template <int BYTE> INLINE V byte_of(Codes c) { // signed
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(c, 24 - 8 * BYTE), 24));
}
INLINE void narrow(int8_t *p, Codes c) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(c)); }
INLINE Codes in_order(const uint8_t *p) { // 16 codes of 8 bytes, the high nibble first
    const __m128i b = _mm_loadl_epi64((const __m128i *)p), low = _mm_set1_epi8(15);
    return _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), low), _mm_and_si128(b, low)));
}
INLINE void store_bf16(uint16_t *p, V a) { // to the nearest, ties to even
    __m512i bits = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}
INLINE Table table(const float *p) { return {load(p)}; }
template <int KIND> INLINE V look(Codes c, const Table &t) { return _mm512_permutexvar_ps(c, t.v); } // 4 bits count
INLINE V power(V shifted) { // 2^n, n in the low bits of `shifted`
    __m512i n = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(n, 23));
}

#elif defined(OLIVEIRA_AVX2)

struct V { __m256 a, b; };
struct Codes { __m256i a, b; };
struct Table { __m256 low, high; };
INLINE V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE V broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE V load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void store(float *p, V x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
INLINE V fma(V x, V y, V z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE V add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INLINE V sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
INLINE V mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INLINE V div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
INLINE V max(V x, V y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
INLINE V min(V x, V y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
INLINE V first_lanes(V x, V other, int n) {
    __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), j = _mm256_add_epi32(i, _mm256_set1_epi32(8)), k = _mm256_set1_epi32(n);
    return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(k, i))),
            _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(k, j)))};
}
INLINE float sum(V x) {
    __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float largest(V x) {
    __m256 h = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
INLINE V halves(const uint16_t *p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
INLINE void store(uint16_t *p, V x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
INLINE Codes codes(const uint8_t *p) {
    return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE Codes next(Codes c) { return {_mm256_srli_epi32(c.a, 4), _mm256_srli_epi32(c.b, 4)}; }
INLINE Codes codes(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE void store(uint8_t *p, Codes c) { _mm256_storeu_si256((__m256i *)p, c.a), _mm256_storeu_si256((__m256i *)(p + 32), c.b); }
INLINE Codes low_nibbles(Codes c) {
    const __m256i low = _mm256_set1_epi8(15);
    return {_mm256_and_si256(c.a, low), _mm256_and_si256(c.b, low)};
}
template <int LEFT> INLINE __m256i sixes_half(__m256i c, __m256i h) {
    __m256i moved = LEFT >= 0 ? _mm256_slli_epi32(h, LEFT >= 0 ? LEFT : 0) : _mm256_srli_epi32(h, LEFT < 0 ? -LEFT : 0);
    return _mm256_or_si256(c, _mm256_and_si256(moved, _mm256_set1_epi8(0x30)));
}
template <int LEFT> INLINE Codes sixes(Codes c, Codes h) { return {sixes_half<LEFT>(c.a, h.a), sixes_half<LEFT>(c.b, h.b)}; }
INLINE Codes look_bytes(Codes c, const uint8_t *t) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)t));
    return {_mm256_shuffle_epi8(both, c.a), _mm256_shuffle_epi8(both, c.b)};
}
INLINE Codes flip(Codes c) { return c; }
INLINE __m256i dot_half(__m256i sum, __m256i w, __m256i x) { // at most 2 * 127 * 127 in 16 bits
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE Codes dot(Codes sum, Codes w, Codes x) { return {dot_half(sum.a, w.a, x.a), dot_half(sum.b, w.b, x.b)}; }
INLINE V floats(Codes c) { return {_mm256_cvtepi32_ps(c.a), _mm256_cvtepi32_ps(c.b)}; }
INLINE Codes rounded(V x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
INLINE int32_t sum(Codes c) {
    __m256i h = _mm256_add_epi32(c.a, c.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
template <int BYTE> INLINE V byte_of(Codes c) {
    return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(c.a, 24 - 8 * BYTE), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(c.b, 24 - 8 * BYTE), 24))};
}
INLINE void narrow(int8_t *p, Codes c) {
    alignas(32) int32_t lanes[16];
    _mm256_store_si256((__m256i *)lanes, c.a), _mm256_store_si256((__m256i *)(lanes + 8), c.b);
    for (int i = 0; i < 16; i++) p[i] = int8_t(lanes[i]);
}
INLINE Codes in_order(const uint8_t *p) {
    const __m128i b = _mm_loadl_epi64((const __m128i *)p), low = _mm_set1_epi8(15);
    const __m128i c = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), low), _mm_and_si128(b, low));
    return {_mm256_cvtepu8_epi32(c), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(c, c))};
}
INLINE __m256i bf16_half(__m256 x) {
    __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
INLINE void store_bf16(uint16_t *p, V x) {
    const __m256i pairs = _mm256_packus_epi32(bf16_half(x.a), bf16_half(x.b)); // each half of the register for itself
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(pairs, 0xd8));
}
INLINE Table table(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE __m256 look_half(__m256i c, const Table &t) { // vpermps reads 3 bits; the fourth chooses the half
    __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(c, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, c), _mm256_permutevar8x32_ps(t.high, c), fourth);
}
template <int KIND> INLINE V look(Codes c, const Table &t) {
    if (KIND == NF4) return {look_half(c.a, t), look_half(c.b, t)};
    const __m256i low = _mm256_set1_epi32(15);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(c.a, low)), _mm256_cvtepi32_ps(_mm256_and_si256(c.b, low))};
}
INLINE V power(V shifted) {
    const __m256i one = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(shifted.a), one), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(shifted.b), one), 23))};
}

#else

// The compiler's own vectors of 16, cut into whatever the machine has.
typedef float V __attribute__((vector_size(64)));
typedef uint32_t Codes __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
struct Table { const float *v; };
INLINE V zero() { return V{}; }
INLINE V broadcast(float x) { return x - V{}; }
INLINE V load(const float *p) { V r; std::memcpy(&r, p, 64); return r; }
INLINE void store(float *p, V a) { std::memcpy(p, &a, 64); }
INLINE V fma(V a, V b, V c) { return a * b + c; }
INLINE V add(V a, V b) { return a + b; }
INLINE V sub(V a, V b) { return a - b; }
INLINE V mul(V a, V b) { return a * b; }
INLINE V div(V a, V b) { return a / b; }
INLINE V max(V a, V b) { return a > b ? a : b; }
INLINE V min(V a, V b) { return a < b ? a : b; }
INLINE V first_lanes(V a, V other, int n) { for (int i = n; i < 16; i++) a[i] = other[i]; return a; }
INLINE float sum(V a) { float s = 0; for (int i = 0; i < 16; i++) s += a[i]; return s; }
INLINE float largest(V a) { float s = a[0]; for (int i = 1; i < 16; i++) s = s > a[i] ? s : a[i]; return s; }
static float half(uint16_t h) {
    const uint32_t rest = h & 0x7fff, bits = (rest << 13) + ((rest >= 0x7c00 ? 224u : 112u) << 23);
    float f;
    std::memcpy(&f, &bits, 4);
    if (rest < 0x0400) f = float(rest) * 5.9604644775390625e-8f; // subnormal: 2^-24
    return h & 0x8000 ? -f : f;
}
static uint16_t half(float f) { // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (rest < 0x38800000) { // subnormal: the sum's last bits are the number
        const uint32_t half_bits = 126u << 23;
        float magnitude, shift;
        std::memcpy(&magnitude, &rest, 4), std::memcpy(&shift, &half_bits, 4);
        magnitude += shift;
        uint32_t sum;
        std::memcpy(&sum, &magnitude, 4);
        return uint16_t(sign | (sum - half_bits));
    }
    return uint16_t(sign | ((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13));
}
INLINE V halves(const uint16_t *p) { V r; for (int i = 0; i < 16; i++) r[i] = half(p[i]); return r; }
INLINE void store(uint16_t *p, V a) { for (int i = 0; i < 16; i++) p[i] = half(a[i]); }
INLINE Codes codes(const uint8_t *p) { Codes c; std::memcpy(&c, p, 64); return c; }
INLINE Codes next(Codes c) { return c >> 4; }
INLINE Codes codes(int32_t x) { return uint32_t(x) - Codes{}; }
INLINE void store(uint8_t *p, Codes c) { std::memcpy(p, &c, 64); }
INLINE Codes low_nibbles(Codes c) { return c & 0x0f0f0f0fu; }
template <int LEFT> INLINE Codes sixes(Codes c, Codes h) {
    return c | ((LEFT >= 0 ? h << (LEFT >= 0 ? LEFT : 0) : h >> (LEFT < 0 ? -LEFT : 0)) & 0x30303030u);
}
INLINE Codes look_bytes(Codes c, const uint8_t *t) {
    uint8_t b[64];
    std::memcpy(b, &c, 64);
    for (int i = 0; i < 64; i++) b[i] = t[b[i]];
    return codes(b);
}
INLINE Codes flip(Codes c) { return c; }
INLINE Codes dot(Codes sum, Codes w, Codes x) {
    int8_t a[64], b[64];
    std::memcpy(a, &w, 64), std::memcpy(b, &x, 64);
    for (int i = 0; i < 64; i++) sum[i / 4] += uint32_t(a[i] * b[i]);
    return sum;
}
INLINE V floats(Codes c) { return __builtin_convertvector(Integers(c), V); }
INLINE Codes rounded(V a) { Codes c; for (int i = 0; i < 16; i++) c[i] = uint32_t(int32_t(std::nearbyintf(a[i]))); return c; }
INLINE int32_t sum(Codes c) { uint32_t s = 0; for (int i = 0; i < 16; i++) s += c[i]; return int32_t(s); }
template <int BYTE> INLINE V byte_of(Codes c) { return __builtin_convertvector(Integers(c << (24 - 8 * BYTE)) >> 24, V); }
INLINE void narrow(int8_t *p, Codes c) { for (int i = 0; i < 16; i++) p[i] = int8_t(c[i]); }
INLINE Codes in_order(const uint8_t *p) {
    Codes c;
    for (int i = 0; i < 16; i++) c[i] = i % 2 ? p[i / 2] & 15 : p[i / 2] >> 4;
    return c;
}
INLINE void store_bf16(uint16_t *p, V a) {
    Codes bits;
    std::memcpy(&bits, &a, 64);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    for (int i = 0; i < 16; i++) p[i] = uint16_t(bits[i]);
}
INLINE Table table(const float *p) { return {p}; }
template <int KIND> INLINE V look(Codes c, const Table &t) {
    if (KIND == INT4) return __builtin_convertvector(Integers(c & 15), V);
    V r;
    for (int i = 0; i < 16; i++) r[i] = t.v[c[i] & 15];
    return r;
}
INLINE V power(V shifted) { return V((Codes(shifted) + 127) << 23); }

#endif

// exp(x) to about 1e-7 relative: 2^n e^r, |r| <= ln 2 / 2, a polynomial for e^r. Below -87 it gives about 1e-38.
INLINE V exponential(V x) {
    const V magic = broadcast(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
    x = max(broadcast(-87.0f), min(broadcast(88.0f), x)); // in this order NaN stays NaN
    V shifted = fma(x, broadcast(1.44269504088896341f), magic);
    V n = sub(shifted, magic);
    V r = fma(n, broadcast(-0.693359375f), x);
    r = fma(n, broadcast(2.12194440e-4f), r);
    V p = broadcast(1.9875691500e-4f);
    p = fma(p, r, broadcast(1.3981999507e-3f));
    p = fma(p, r, broadcast(8.3334519073e-3f));
    p = fma(p, r, broadcast(4.1665795894e-2f));
    p = fma(p, r, broadcast(1.6666665459e-1f));
    p = fma(p, r, broadcast(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), broadcast(1.0f));
    return mul(p, power(shifted));
}

// 0.5 x (1 + erf(x / sqrt(2))), erf to 1.5e-7 (Abramowitz and Stegun 7.1.26): x or 0, less 0.5 |x| erfc(|x| / sqrt(2)).
INLINE V gelu(V x) {
    const V size = max(sub(zero(), x), x), z = mul(size, broadcast(0.70710678118654752f));
    const V t = div(broadcast(1.0f), fma(z, broadcast(0.3275911f), broadcast(1.0f)));
    V p = broadcast(1.061405429f);
    p = fma(p, t, broadcast(-1.453152027f));
    p = fma(p, t, broadcast(1.421413741f));
    p = fma(p, t, broadcast(-0.284496736f));
    p = fma(p, t, broadcast(0.254829592f));
    const V erfc = mul(mul(p, t), exponential(sub(zero(), mul(z, z))));
    return sub(max(x, zero()), mul(mul(broadcast(0.5f), size), erfc));
}

// cap tanh(x / cap)
INLINE V capped(V x, float cap) {
    const V e = exponential(mul(x, broadcast(2.0f / cap)));
    return mul(broadcast(cap), sub(broadcast(1.0f), div(broadcast(2.0f), add(e, broadcast(1.0f)))));
}

} // namespace
