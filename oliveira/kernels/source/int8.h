// Products in whole numbers: rows rounded to 8 bits a group, weights as they are stored (nf4: its sixteen values as
// bytes). Sums of a group are exact, so their order is free; groups are added in fp32, one after the other.
#pragma once
#include "product.h"

namespace {

alignas(16) static const uint8_t NF4_BYTES[16] = {
    // 127 times the values of TABLES[1], rounded
    uint8_t(BIAS - 127), uint8_t(BIAS - 88), uint8_t(BIAS - 67), uint8_t(BIAS - 50), uint8_t(BIAS - 36), uint8_t(BIAS - 23),
    uint8_t(BIAS - 12),  uint8_t(BIAS + 0),  uint8_t(BIAS + 10), uint8_t(BIAS + 20), uint8_t(BIAS + 31), uint8_t(BIAS + 43),
    uint8_t(BIAS + 56),  uint8_t(BIAS + 71), uint8_t(BIAS + 92), uint8_t(BIAS + 127)};

static void round_rows(const float *x, int count, int8_t *q, float *scale, float *low, int32_t *total) {
    for (int i = 0; i < count; i++, x += GROUP, q += GROUP) {
        V part[4], top = zero();
        for (int j = 0; j < 4; j++) {
            part[j] = load(x + j * LANES);
            top = max(top, max(part[j], sub(zero(), part[j])));
        }
        // Not a number, or infinite: the scale says so, whatever the rounding makes of it.
        const float poison = 0.0f * sum(add(add(part[0], part[1]), add(part[2], part[3])));
        const float widest = largest(top), s = widest / 127.0f + poison;
        const V by = broadcast(widest > 0 ? 127.0f / widest : 0.0f);
        Codes c[4];
        alignas(64) int8_t plain[GROUP];
        int32_t t = 0;
        for (int j = 0; j < 4; j++) {
            c[j] = rounded(mul(part[j], by));
            t += sum(c[j]);
            narrow(plain + j * LANES, c[j]);
        }
        for (int k = 0; k < GROUP; k += 8)
            for (int j = 0; j < 4; j++) q[k + j] = plain[k + 2 * j], q[k + 4 + j] = plain[k + 2 * j + 1];
        scale[i] = s, low[i] = s * float(t), total[i] = t;
    }
}

// The eight inputs of a run, as bytes: the even ones, then the odd ones.
template <int KIND> INLINE void run_bytes(const uint8_t *tile, int run, Codes &even, Codes &odd) {
    if (KIND == INT8) {
        even = flip(codes(tile + run * 128));
        odd = flip(codes(tile + run * 128 + 64));
        return;
    }
    if (KIND == INT6) return six_bits(tile, run, even, odd);
    const Codes c = codes(tile + run * 64);
    even = low_nibbles(c), odd = low_nibbles(next(c));
    if (KIND == NF4) even = look_bytes(even, NF4_BYTES), odd = look_bytes(odd, NF4_BYTES);
}

template <int KIND> INLINE V whole_scale(const Matrix &w, const uint8_t *tile, int p) {
    V scale = scale_of<KIND>(w, tile, p);
    return KIND == NF4 ? mul(scale, broadcast(1.0f / 127.0f)) : scale;
}

INLINE Codes dword(const int8_t *q) {
    int32_t x;
    std::memcpy(&x, q, 4);
    return codes(x);
}

template <int KIND> INLINE Codes start(int32_t total) { return codes(KIND == INT4 ? 0 : KIND == INT6 ? -32 * total : -BIAS * total); }

template <int KIND, int P, int M> static void whole_strip(const Matrix &w, int p, const Rows &x, int row, float *y) {
    const uint8_t *tile[P];
    V total[P][M];
    UNROLL
    for (int i = 0; i < P; i++) {
        tile[i] = tile_at(w, p + i, 0);
        UNROLL
        for (int m = 0; m < M; m++) total[i][m] = zero();
    }
    size_t at = row;
    for (int g = groups(w); g; g--, at += x.m) {
        const int8_t *q = x.q + at * GROUP;
        const float *by = x.scale + at, *low = x.low + at;
        Codes acc[P][M];
        UNROLL
        for (int i = 0; i < P; i++)
            UNROLL
            for (int m = 0; m < M; m++) acc[i][m] = start<KIND>(x.total[at + m]);
        UNROLL
        for (int run = 0; run < 8; run++) {
            Codes even[P], odd[P];
            UNROLL
            for (int i = 0; i < P; i++) {
                run_bytes<KIND>(tile[i], run, even[i], odd[i]);
                prefetch(tile[i], KIND, run);
            }
            UNROLL
            for (int m = 0; m < M; m++) {
                const Codes x0 = dword(q + m * GROUP + run * 8), x1 = dword(q + m * GROUP + run * 8 + 4);
                UNROLL
                for (int i = 0; i < P; i++) acc[i][m] = dot(dot(acc[i][m], even[i], x0), odd[i], x1);
            }
        }
        UNROLL
        for (int i = 0; i < P; i++) {
            const V scale = whole_scale<KIND>(w, tile[i], p + i);
            UNROLL
            for (int m = 0; m < M; m++) total[i][m] = fma(floats(acc[i][m]), mul(scale, broadcast(by[m])), total[i][m]);
            if (KIND == INT4) {
                V minimum = halves((const uint16_t *)(tile[i] + 512));
                UNROLL
                for (int m = 0; m < M; m++) total[i][m] = fma(minimum, broadcast(low[m]), total[i][m]);
            }
            tile[i] += FOUR * TILE_BYTES[KIND];
        }
    }
    UNROLL
    for (int i = 0; i < P; i++)
        UNROLL
        for (int m = 0; m < M; m++) store(y + (i * M + m) * LANES, total[i][m]);
}

template <int KIND> static void whole_of(const Matrix &w, int first, int last, const Rows &x, const Output &to) {
    all_rows(w, first, last, x.m, to, [&](auto n, auto m, int p, int row, float *y) {
        whole_strip<KIND, decltype(n)::value, decltype(m)::value>(w, p, x, row, y);
    });
}

static void product(const Matrix &w, int first, int last, const Rows &x, const Output &to) {
    switch (w.kind) {
    case F32: return product_of<F32>(w, first, last, x, to);
    case INT8: return (x.q ? whole_of<INT8> : product_of<INT8>)(w, first, last, x, to);
    case INT4: return (x.q ? whole_of<INT4> : product_of<INT4>)(w, first, last, x, to);
    case INT6: return (x.q ? whole_of<INT6> : product_of<INT6>)(w, first, last, x, to);
    default: return (x.q ? whole_of<NF4> : product_of<NF4>)(w, first, last, x, to);
    }
}

} // namespace
