// Causal attention while a model trains, and its way back: one batch element and one key/value head at a time, 64 queries after
// the other, so that scores never leave the second cache. Each item is computed by one thread in one order: the number of threads
// does not change a bit.
#pragma once
#include "simd.h"

namespace {

#if defined(OLIVEIRA_AVX512) // rows and vectors of a product that fill the registers
constexpr int ROWS_AT_ONCE = 4, VECTORS = 4;
#elif defined(OLIVEIRA_AVX2)
constexpr int ROWS_AT_ONCE = 2, VECTORS = 2;
#else
constexpr int ROWS_AT_ONCE = 2, VECTORS = 1;
#endif

// a(r, i) stands at data[r * row + i * column].
struct Strided {
    const float *data;
    int64_t row, column;
};

template <int R, int W> INLINE void corner(Strided a, const float *b, int64_t ldb, float *c, int64_t ldc, int depth, bool add_to) {
    V sum[R][W];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int w = 0; w < W; w++) sum[r][w] = add_to ? load(c + r * ldc + w * LANES) : zero();
    for (int i = 0; i < depth; i++, b += ldb, a.data += a.column) {
        V line[W];
        UNROLL for (int w = 0; w < W; w++) line[w] = load(b + w * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            const V left = broadcast(a.data[r * a.row]);
            UNROLL for (int w = 0; w < W; w++) sum[r][w] = fma(left, line[w], sum[r][w]);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int w = 0; w < W; w++) store(c + r * ldc + w * LANES, sum[r][w]);
}

template <int W> static void columns(Strided a, const float *b, int64_t ldb, float *c, int64_t ldc, int rows, int depth, bool add_to) {
    int r = 0;
    for (; r + ROWS_AT_ONCE <= rows; r += ROWS_AT_ONCE)
        corner<ROWS_AT_ONCE, W>({a.data + r * a.row, a.row, a.column}, b, ldb, c + r * ldc, ldc, depth, add_to);
    for (; r < rows; r++) corner<1, W>({a.data + r * a.row, a.row, a.column}, b, ldb, c + r * ldc, ldc, depth, add_to);
}

// c (rows, n) = a (rows, depth) b (depth, n), or added to c; n is a multiple of 16.
static void multiply(Strided a, const float *b, int64_t ldb, float *c, int64_t ldc, int rows, int n, int depth, bool add_to) {
    int j = 0;
    for (; j + VECTORS * LANES <= n; j += VECTORS * LANES) columns<VECTORS>(a, b + j, ldb, c + j, ldc, rows, depth, add_to);
    for (; j < n; j += LANES) columns<1>(a, b + j, ldb, c + j, ldc, rows, depth, add_to);
}

INLINE int whole_vectors(int n) { return (n + LANES - 1) / LANES * LANES; }

static void transpose(const float *from, int64_t stride, int rows, int d, float *to, int ld) { // (rows, d) to (d, ld), zeros behind
    for (int first = 0; first < ld; first += LANES)
        for (int i = 0; i < d; i++)
            for (int r = first; r < first + LANES; r++) to[int64_t(i) * ld + r] = r < rows ? from[r * stride + i] : 0;
}

// Scores of positions 0 … seen - 1 become e^(scale s - shift), what lies behind them up to `n` becomes 0. Returns their sum.
static float exponentials(float *scores, int seen, int n, float scale, float shift) {
    V total = zero();
    for (int j = 0; j < n; j += LANES) {
        const int here = seen - j;
        V e = here > 0 ? exponential(sub(mul(load(scores + j), broadcast(scale)), broadcast(shift))) : zero();
        if (here > 0 && here < LANES) e = first_lanes(e, zero(), here);
        store(scores + j, e);
        total = add(total, e);
    }
    return sum(total);
}

static float largest_of(const float *scores, int seen) {
    V found = broadcast(scores[0]);
    int j = 0;
    for (; j + LANES <= seen; j += LANES) found = max(found, load(scores + j));
    if (j < seen) found = max(found, first_lanes(load(scores + j), found, seen - j));
    return largest(found);
}

INLINE float dot(const float *a, const float *b, int d) {
    V s = zero();
    for (int i = 0; i < d; i += LANES) s = fma(load(a + i), load(b + i), s);
    return sum(s);
}

static void causal(const Causal &t, int item, float *memory) {
    const int batch = item / t.kv_heads, kv = item % t.kv_heads, group = t.heads / t.kv_heads, d = t.d_head;
    const int ld = causal_stride(t.length);
    float *keys = memory, *scores = keys + size_t(d) * ld;
    transpose(t.k.at(batch, kv), t.k.position, t.length, d, keys, ld);
    for (int head = kv * group; head < (kv + 1) * group; head++)
        for (int first = 0; first < t.length; first += QUERIES) {
            const int rows = t.length - first < QUERIES ? t.length - first : QUERIES, seen = first + rows, n = whole_vectors(seen);
            const float *q = t.q.at(batch, head) + first * t.q.position;
            float *out = t.out.at(batch, head) + first * t.out.position;
            float *log_sum = t.log_sum + (int64_t(batch) * t.heads + head) * t.length + first, shares[QUERIES];
            multiply({q, t.q.position, 1}, keys, ld, scores, ld, rows, n, d, false);
            for (int r = 0; r < rows; r++) {
                const float top = t.scale * largest_of(scores + int64_t(r) * ld, first + r + 1);
                const float total = exponentials(scores + int64_t(r) * ld, first + r + 1, n, t.scale, top);
                log_sum[r] = top + std::log(total), shares[r] = 1.0f / total;
            }
            multiply({scores, ld, 1}, t.v.at(batch, kv), t.v.position, out, t.out.position, rows, d, seen, false);
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < d; i += LANES) store(out + r * t.out.position + i, mul(load(out + r * t.out.position + i), broadcast(shares[r])));
        }
}

// dV = P' dO,  dP = dO V',  dS = P (dP - rowsum(dO O)),  dQ = scale dS K,  dK = scale dS' Q   (Dao et al. 2022, appendix B.2)
static void causal_back(const Causal &t, int item, float *memory) {
    const int batch = item / t.kv_heads, kv = item % t.kv_heads, group = t.heads / t.kv_heads, d = t.d_head;
    const int ld = causal_stride(t.length);
    float *keys = memory, *values = keys + size_t(d) * ld, *p = values + size_t(d) * ld, *dp = p + size_t(QUERIES) * ld;
    transpose(t.k.at(batch, kv), t.k.position, t.length, d, keys, ld);
    transpose(t.v.at(batch, kv), t.v.position, t.length, d, values, ld);
    float *dk = t.d_k.at(batch, kv), *dv = t.d_v.at(batch, kv); // zero when this begins
    for (int head = kv * group; head < (kv + 1) * group; head++)
        for (int first = 0; first < t.length; first += QUERIES) {
            const int rows = t.length - first < QUERIES ? t.length - first : QUERIES, seen = first + rows, n = whole_vectors(seen);
            const float *q = t.q.at(batch, head) + first * t.q.position, *out = t.out.at(batch, head) + first * t.out.position;
            const float *d_out = t.d_out.at(batch, head) + first * t.d_out.position;
            const float *log_sum = t.log_sum + (int64_t(batch) * t.heads + head) * t.length + first;
            multiply({q, t.q.position, 1}, keys, ld, p, ld, rows, n, d, false);
            multiply({d_out, t.d_out.position, 1}, values, ld, dp, ld, rows, n, d, false);
            for (int r = 0; r < rows; r++) {
                float *p_row = p + int64_t(r) * ld, *dp_row = dp + int64_t(r) * ld;
                exponentials(p_row, first + r + 1, n, t.scale, log_sum[r]);
                const V mean = broadcast(dot(out + r * t.out.position, d_out + r * t.d_out.position, d));
                for (int j = 0; j < n; j += LANES)
                    store(dp_row + j, mul(mul(load(p_row + j), sub(load(dp_row + j), mean)), broadcast(t.scale)));
            }
            float *dq = t.d_q.at(batch, head) + first * t.d_q.position;
            multiply({dp, ld, 1}, t.k.at(batch, kv), t.k.position, dq, t.d_q.position, rows, d, seen, false);
            multiply({p, 1, ld}, d_out, t.d_out.position, dv, t.d_v.position, seen, d, rows, true);
            multiply({dp, 1, ld}, q, t.q.position, dk, t.d_k.position, seen, d, rows, true);
        }
}

} // namespace
