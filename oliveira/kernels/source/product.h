// y = x W^T for panels of a stored matrix, in the order of summation that types.h promises. Weights are decoded in registers, at
// every strip of rows anew: that is faster than keeping a decoded tile, since it runs beside the multiplications.
#pragma once
#include "simd.h"

namespace {

// How many rows are multiplied at once, and how many panels (first by `P`, what is left by `REST`): so many that the sums fill
// the registers. A rest of 2 may end in a panel of padding.
#if defined(OLIVEIRA_AVX512) // 32 registers of 16 lanes
constexpr int STRIP = 8, REST = 2;
constexpr int AT_ONCE[] = {0, 6, 4, 2, 2, 2, 2, 2, 2};
#elif defined(OLIVEIRA_AVX2) // 16 registers of 8 lanes
constexpr int STRIP = 5, REST = 1;
constexpr int AT_ONCE[] = {0, 2, 2, 1, 1, 1};
#else
constexpr int STRIP = 2, REST = 1;
constexpr int AT_ONCE[] = {0, 1, 1};
#endif
constexpr size_t AHEAD = 4 * FOUR; // tiles: how far ahead of the sum weights are called from memory

alignas(64) static const float TABLES[2][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    // QLoRA, appendix E, as in oliveira/compression/nf4.py.
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
     -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
};

// Reads the 64 vectors of a tile one after the other, in runs of eight.
template <int KIND> struct Reader;
template <> struct Reader<F32> {
    const float *p;
    INLINE Reader at(const uint8_t *tile, int run) { return {(const float *)tile + run * 8 * LANES}; }
    __attribute__((always_inline)) V operator()(const Table &) { V w = load(p); p += LANES; return w; }
};
INLINE void six_bits(const uint8_t *tile, int run, Codes &even, Codes &odd) {
    const Codes c = codes(tile + run * 64), h = codes(tile + 512 + run / 2 * 64);
    even = low_nibbles(c), odd = low_nibbles(next(c));
    even = run % 2 ? sixes<0>(even, h) : sixes<4>(even, h);
    odd = run % 2 ? sixes<-2>(odd, h) : sixes<2>(odd, h);
}

template <int LIFTED> struct ByteReader { // even inputs in one vector, odd ones in the other
    Codes even, odd;
    int k;
    __attribute__((always_inline)) V operator()(const Table &) {
        const V v = byte_at(k % 2 ? odd : even, k / 2);
        k++;
        return LIFTED ? sub(v, broadcast(float(LIFTED))) : v;
    }
    INLINE V byte_at(Codes c, int i) {
        switch (i) {
        case 0: return byte_of<0>(c);
        case 1: return byte_of<1>(c);
        case 2: return byte_of<2>(c);
        default: return byte_of<3>(c);
        }
    }
};
template <> struct Reader<INT8> : ByteReader<0> {
    INLINE Reader at(const uint8_t *tile, int run) { return {{codes(tile + run * 128), codes(tile + run * 128 + 64), 0}}; }
};
template <> struct Reader<INT6> : ByteReader<32> {
    INLINE Reader at(const uint8_t *tile, int run) {
        Reader r{};
        six_bits(tile, run, r.even, r.odd);
        return r;
    }
};
template <int KIND> struct Reader {
    Codes c;
    INLINE Reader at(const uint8_t *tile, int run) { return {codes(tile + run * 64)}; }
    __attribute__((always_inline)) V operator()(const Table &t) { V w = look<KIND>(c, t); c = next(c); return w; }
};

template <int KIND> INLINE V scale_of(const Matrix &w, const uint8_t *tile, int p) {
    if (KIND == F32) return broadcast(1.0f);
    if (KIND == INT8) return load(w.scale + p * LANES);
    if (KIND == INT4) return halves((const uint16_t *)(tile + 512) + LANES);
    if (KIND == INT6) return halves((const uint16_t *)(tile + 768));
    return load((const float *)(tile + 512));
}

INLINE V activate(V x, int kind) {
    if (kind == RELU) return max(x, zero());
    if (kind == GELU_EXACT) return gelu(x);
    if (kind != GELU) return x;
    // 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
    V u = mul(mul(broadcast(-1.5957691216057308f), x), fma(mul(x, x), broadcast(0.044715f), broadcast(1.0f)));
    return div(x, add(broadcast(1.0f), exponential(u)));
}

INLINE V biased(const Matrix &w, int p, int row, V y, const Output &to) {
    if (w.bias) y = add(y, load(w.bias + p * LANES));
    return to.extra ? add(y, load(to.extra + (size_t(row) * panels(w) + p) * LANES)) : y;
}

// What becomes of rows row … row + count - 1 of `n` panels from p on; y (n, count, 16).
static void finish(const Matrix &w, int p, int n, const float *y, int row, int count, int m, const Output &to) {
    for (int i = 0; i < n; i++, p++) {
        const int at = p * LANES, valid = w.d_out - at < LANES ? w.d_out - at : LANES;
        for (int r = 0; r < count; r++) {
            V v = biased(w, p, row + r, load(y + (i * count + r) * LANES), to);
            if (to.mode == PACKED) {
                store(to.out + (size_t(at / GROUP) * m + row + r) * GROUP + at % GROUP, activate(v, to.activation));
            } else if (to.mode == GATED) {
                V up = biased(w, p + 1, row + r, load(y + ((i + 1) * count + r) * LANES), to);
                V g = to.activation == GELU ? activate(v, GELU) : div(v, add(broadcast(1.0f), exponential(sub(zero(), v))));
                V h = mul(g, up);
                const int half = at / 2;
                store(to.out + (size_t(half / GROUP) * m + row + r) * GROUP + half % GROUP, h);
            } else {
                float *out = to.out + (row + r) * to.stride + at;
                if (valid == LANES) {
                    store(out, to.mode == ADD ? add(v, load(out)) : v);
                } else {
                    float lanes[LANES];
                    store(lanes, v);
                    for (int k = 0; k < valid; k++) out[k] = to.mode == ADD ? lanes[k] + out[k] : lanes[k];
                }
            }
        }
        if (to.mode == GATED) i++, p++;
    }
}

INLINE void prefetch(const uint8_t *tile, int kind, int run) { // this run of a tile further on
    const uint8_t *at = tile + AHEAD * TILE_BYTES[kind] + run * (TILE_BYTES[kind] / 8);
    if (kind != F32) __builtin_prefetch(at);
    if (kind == INT8 || kind == INT6) __builtin_prefetch(at + 64);
}

// y (P, M, 16) of M rows from `row` on.
template <int KIND, int P, int M> static void strip(const Matrix &w, int p, const Rows &rows, int row, float *y) {
    const Table t = table(TABLES[KIND == NF4]);
    const uint8_t *tile[P];
    const float *x = rows.x + row * GROUP, *sums = rows.sums + row;
    V total[P][M];
    UNROLL
    for (int i = 0; i < P; i++) {
        tile[i] = tile_at(w, p + i, 0);
        UNROLL
        for (int m = 0; m < M; m++) total[i][m] = zero();
    }
    for (int g = groups(w); g; g--, x += rows.m * GROUP, sums += rows.m) {
        V acc[P][M];
        UNROLL
        for (int i = 0; i < P; i++)
            UNROLL
            for (int m = 0; m < M; m++) acc[i][m] = zero();
        for (int run = 0; run < 8; run++) {
            Reader<KIND> read[P];
            UNROLL
            for (int i = 0; i < P; i++) {
                read[i] = Reader<KIND>::at(tile[i], run);
                prefetch(tile[i], KIND, run);
            }
            UNROLL
            for (int j = 0; j < 8; j++) {
                V v[P];
                UNROLL
                for (int i = 0; i < P; i++) v[i] = read[i](t);
                UNROLL
                for (int m = 0; m < M; m++) {
                    V xm = broadcast(x[m * GROUP + run * 8 + j]);
                    UNROLL
                    for (int i = 0; i < P; i++) acc[i][m] = fma(v[i], xm, acc[i][m]);
                }
            }
        }
        UNROLL
        for (int i = 0; i < P; i++) {
            V scale = scale_of<KIND>(w, tile[i], p + i);
            UNROLL
            for (int m = 0; m < M; m++) total[i][m] = fma(acc[i][m], scale, total[i][m]);
            if (KIND == INT4) {
                V minimum = halves((const uint16_t *)(tile[i] + 512));
                UNROLL
                for (int m = 0; m < M; m++) total[i][m] = fma(minimum, broadcast(sums[m]), total[i][m]);
            }
            tile[i] += FOUR * TILE_BYTES[KIND];
        }
    }
    UNROLL
    for (int i = 0; i < P; i++)
        UNROLL
        for (int m = 0; m < M; m++) store(y + (i * M + m) * LANES, total[i][m]);
}

template <int N> struct Number {
    static constexpr int value = N;
};

// `compute(panels, rows, first panel, first row, result)`, panels and rows as Numbers, over all panels of M rows.
template <int M, class F> INLINE void all_panels(const Matrix &w, int first, int last, int row, int m, const Output &to, F compute) {
    constexpr int P = AT_ONCE[M];
    alignas(64) float y[(P > 2 ? P : 2) * M * LANES];
    const int least = to.mode == GATED ? 2 : 1; // a gated pair goes to one call of `finish`
    for (int p = first; p < last;) {
        int n = P;
        if (P >= least && last - p >= P) {
            compute(Number<P>(), Number<M>(), p, row, y);
        } else {
            n = REST > least ? REST : least;
            for (int i = 0; i < n; i += REST) compute(Number<REST>(), Number<M>(), p + i, row, y + i * M * LANES);
            n = last - p < n ? last - p : n;
        }
        finish(w, p, n, y, row, M, m, to);
        p += n;
    }
}

template <int M, class F>
INLINE void all_panels_of(int count, const Matrix &w, int first, int last, int row, int m, const Output &to, F compute) {
    if (count == M) return all_panels<M>(w, first, last, row, m, to, compute);
    if constexpr (M > 1) all_panels_of<M - 1>(count, w, first, last, row, m, to, compute);
}

// All rows in strips, as equal as can be: nine are five and four.
template <class F> INLINE void all_rows(const Matrix &w, int first, int last, int m, const Output &to, F compute) {
    const int strips = (m + STRIP - 1) / STRIP;
    for (int i = 0; i < strips; i++) {
        const int row = m * i / strips, end = m * (i + 1) / strips;
        all_panels_of<STRIP>(end - row, w, first, last, row, m, to, compute);
    }
}

template <int KIND> static void product_of(const Matrix &w, int first, int last, const Rows &x, const Output &to) {
    all_rows(w, first, last, x.m, to, [&](auto n, auto m, int p, int row, float *y) {
        strip<KIND, decltype(n)::value, decltype(m)::value>(w, p, x, row, y);
    });
}

template <int KIND> static void decode_tile(const uint8_t *tile, float *out) {
    const Table t = table(TABLES[KIND == NF4]);
    for (int run = 0; run < 8; run++) {
        auto read = Reader<KIND>::at(tile, run);
        UNROLL
        for (int j = 0; j < 8; j++, out += LANES) store(out, read(t));
    }
}

static void decode(const Matrix &w, int p, int g, float *out) {
    const uint8_t *tile = tile_at(w, p, g);
    V scale, minimum = zero();
    switch (w.kind) {
    case F32: decode_tile<F32>(tile, out), scale = scale_of<F32>(w, tile, p); break;
    case INT8: decode_tile<INT8>(tile, out), scale = scale_of<INT8>(w, tile, p); break;
    case INT4: decode_tile<INT4>(tile, out), scale = scale_of<INT4>(w, tile, p), minimum = halves((const uint16_t *)(tile + 512)); break;
    case INT6: decode_tile<INT6>(tile, out), scale = scale_of<INT6>(w, tile, p); break;
    default: decode_tile<NF4>(tile, out), scale = scale_of<NF4>(w, tile, p);
    }
    for (int k = 0; k < GROUP; k++) store(out + k * LANES, fma(load(out + k * LANES), scale, minimum));
}

} // namespace
