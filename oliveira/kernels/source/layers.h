// The rest of a transformer step: sums of a row, norms, rotation, attention over blocks of keys and values.
#pragma once
#include "simd.h"

namespace {

// Sum of each group of 64 inputs, what int4's minimum is multiplied by.
static void sums(const float *x, int count, float *out) {
    for (int i = 0; i < count; i++, x += GROUP)
        out[i] = sum(add(add(load(x), load(x + 16)), add(load(x + 32), load(x + 48))));
}

INLINE void fill_up(int d, float *out, int m, int row) { // zeros behind the last feature
    for (int n = d; n < groups(d) * GROUP; n += LANES) store(out + (size_t(n / GROUP) * m + row) * GROUP + n % GROUP, zero());
}

static void pack(const float *x, int d, float *out, int m, int row) {
    fill_up(d, out, m, row);
    for (int n = 0; n < d; n += LANES) store(out + (size_t(n / GROUP) * m + row) * GROUP + n % GROUP, load(x + n));
}

// `shift` null: RMSNorm, gain x / sqrt(mean(x^2) + eps). Else LayerNorm, gain (x - mean) / sqrt(var + eps) + shift.
// `at(n)`: where features n … n + 15 of the result go; it may be where they came from.
template <class At>
INLINE void norm_to(const float *x, const float *gain, const float *shift, int d, float eps, At at) {
    V mean = zero(), s = zero();
    if (shift) {
        for (int n = 0; n < d; n += LANES) s = add(s, load(x + n));
        mean = broadcast(sum(s) / float(d));
        s = zero();
    }
    for (int n = 0; n < d; n += LANES) {
        V c = sub(load(x + n), mean);
        s = fma(c, c, s);
    }
    const V scale = broadcast(1.0f / std::sqrt(sum(s) / float(d) + eps));
    for (int n = 0; n < d; n += LANES) {
        V y = mul(mul(sub(load(x + n), mean), scale), load(gain + n));
        store(at(n), shift ? add(y, load(shift + n)) : y);
    }
}

static void norm(const float *x, const float *gain, const float *shift, int d, float eps, float *out, int m, int row) {
    fill_up(d, out, m, row);
    norm_to(x, gain, shift, d, eps, [=](int n) { return out + (size_t(n / GROUP) * m + row) * GROUP + n % GROUP; });
}

static void norm_here(float *x, const float *gain, const float *shift, int d, float eps) {
    norm_to(x, gain, shift, d, eps, [=](int n) { return x + n; });
}

// RoPE, half rotation: (a, b) -> (a cos - b sin, b cos + a sin).
static void rope(float *head, const float *cosine, const float *sine, int turned, int d_head, float scale) {
    const int half = turned / 2;
    if (cosine)
        for (int i = 0; i < half; i++) {
            const float a = head[i], b = head[i + half], c = cosine[i], s = sine[i];
            head[i] = a * c - b * s;
            head[i + half] = b * c + a * s;
        }
    for (int i = 0; i < d_head; i += LANES) store(head + i, mul(load(head + i), broadcast(scale)));
}

static void cap(float *x, int64_t n, float cap) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(x + i, capped(load(x + i), cap));
    float last[LANES] = {};
    for (int64_t k = i; k < n; k++) last[k - i] = x[k];
    store(last, capped(load(last), cap));
    for (int64_t k = i; k < n; k++) x[k] = last[k - i];
}

static void low_rank(const LowRank &layer, const float *x, int groups, int m, int row, float *extra) {
    const int panels = (layer.d_out + LANES - 1) / LANES;
    for (int k = 0; k < layer.rank; k++) {
        const float *a = layer.a + size_t(k) * groups * GROUP, *b = layer.b + size_t(k) * panels * LANES;
        V s = zero();
        for (int g = 0; g < groups; g++)
            for (int n = 0; n < GROUP; n += LANES)
                s = fma(load(a + g * GROUP + n), load(x + (size_t(g) * m + row) * GROUP + n), s);
        const V t = broadcast(sum(s));
        for (int p = 0; p < panels; p++) {
            float *out = extra + size_t(layer.first + layer.step * p) * LANES;
            store(out, fma(load(b + p * LANES), t, load(out)));
        }
    }
}

INLINE V load(const uint16_t *p) { return halves(p); }

// Keys stand in columns, so that a score needs no sum across lanes.
template <class T> INLINE void keep_as(T *block, int slot, const float *key, const float *value, int d_head) {
    T column[LANES];
    for (int d = 0; d < d_head; d += LANES) {
        store(column, load(key + d));
        for (int i = 0; i < LANES; i++) block[(d + i) * POSITIONS + slot] = column[i];
        store(block + (POSITIONS + slot) * d_head + d, load(value + d));
    }
}

static void keep(void *block, int slot, const float *key, const float *value, int d_head, bool half) {
    half ? keep_as((uint16_t *)block, slot, key, value, d_head) : keep_as((float *)block, slot, key, value, d_head);
}

// Scores of N queries in B blocks. Few queries wait for memory: the next blocks' keys and these blocks' values are prefetched.
template <class T, int N, int B>
INLINE void score(const T *const *blocks, int left, const Query *q, int d_head, float *out, int stride) {
    V s[N][B];
    for (int i = 0; i < N; i++)
        for (int b = 0; b < B; b++) s[i][b] = zero();
    for (int d = 0; d < d_head; d++) {
        V k[B];
        for (int b = 0; b < B; b++) {
            k[b] = load(blocks[b] + d * POSITIONS);
            if (N < 4 && d % (64 / POSITIONS / sizeof(T)) == 0) {
                __builtin_prefetch(blocks[b] + (d_head + d) * POSITIONS);
                if (left > B + b) __builtin_prefetch(blocks[B + b] + d * POSITIONS);
            }
        }
        for (int i = 0; i < N; i++) {
            V x = broadcast(q[i].q[d]);
            for (int b = 0; b < B; b++) s[i][b] = fma(x, k[b], s[i][b]);
        }
    }
    for (int i = 0; i < N; i++)
        for (int b = 0; b < B; b++) store(out + size_t(i) * stride + b * POSITIONS, s[i][b]);
}

// Weights times values, D vectors of features at a time; positions one after the other. PART: not from the first on.
template <class T, int N, int D, bool PART>
INLINE void gather(const T *const *blocks, const Query *q, const V *share, int d_head, int from, const float *p, int stride,
                   float *out, int m) {
    V acc[N][D];
    int common = q[0].limit;
    for (int i = 1; i < N; i++) common = q[i].limit < common ? q[i].limit : common;
    for (int i = 0; i < N; i++)
        for (int d = 0; d < D; d++) acc[i][d] = zero();
    int begin = 0;
    if (PART) {
        for (int i = 0; i < N; i++) begin = q[i].from > begin ? q[i].from : begin;
        common = common > begin ? common : begin;
        UNROLL
        for (int i = 0; i < N; i++)
            for (int t = q[i].from; t < begin && t < q[i].limit; t++) {
                const T *value = blocks[t / POSITIONS] + (POSITIONS + t % POSITIONS) * d_head + from;
                V w = broadcast(p[size_t(i) * stride + t]);
                for (int d = 0; d < D; d++) acc[i][d] = fma(w, load(value + d * LANES), acc[i][d]);
            }
    }
    for (int t = begin; t < common; t++) {
        const T *value = blocks[t / POSITIONS] + (POSITIONS + t % POSITIONS) * d_head + from;
        V v[D];
        for (int d = 0; d < D; d++) v[d] = load(value + d * LANES);
        for (int i = 0; i < N; i++) {
            V w = broadcast(p[size_t(i) * stride + t]);
            for (int d = 0; d < D; d++) acc[i][d] = fma(w, v[d], acc[i][d]);
        }
    }
    for (int i = 0; i < N; i++) {
        for (int t = common; t < q[i].limit; t++) {
            const T *value = blocks[t / POSITIONS] + (POSITIONS + t % POSITIONS) * d_head + from;
            V w = broadcast(p[size_t(i) * stride + t]);
            for (int d = 0; d < D; d++) acc[i][d] = fma(w, load(value + d * LANES), acc[i][d]);
        }
        for (int d = 0; d < D; d++) {
            const int n = q[i].first + from + d * LANES;
            store(out + (size_t(n / GROUP) * m + q[i].row) * GROUP + n % GROUP, mul(acc[i][d], share[i]));
        }
    }
}

// Scores of one query to its weights, up to the factor that is given back. Lanes of positions that it does not see are zero,
// so that it does not matter in which block others begin.
INLINE V weights_of_part(const Query &q, float cap, float *s) {
    const int begin = q.from / POSITIONS, skip = q.from % POSITIONS, end = (q.limit + POSITIONS - 1) / POSITIONS, rest = q.limit % POSITIONS;
    const auto seen = [&](V v, V other, int j) {
        if (j == begin && skip) v = first_lanes(other, v, skip);
        return j == end - 1 && rest ? first_lanes(v, other, rest) : v;
    };
    const V lowest = broadcast(-3.0e38f);
    V top = lowest;
    for (int j = begin; j < end; j++) {
        V v = load(s + j * POSITIONS);
        if (cap) store(s + j * POSITIONS, v = capped(v, cap));
        top = max(top, seen(v, lowest, j));
    }
    top = broadcast(largest(top));
    V total = zero();
    for (int j = begin; j < end; j++) {
        V e = seen(exponential(sub(load(s + j * POSITIONS), top)), zero(), j);
        store(s + j * POSITIONS, e);
        total = add(total, e);
    }
    return broadcast(1.0f / sum(total));
}

// softmax(q K^T) V. Two passes: all scores, then their weights. Positions from `limit` on are never read as values.
template <class T, int N, bool PART>
static void attend_to(const T *const *blocks, const Query *q, int d_head, float cap, float *out, int m, float *scores) {
    int reach = 0;
    for (int i = 0; i < N; i++) reach = q[i].limit > reach ? q[i].limit : reach;
    const int n_blocks = (reach + POSITIONS - 1) / POSITIONS, stride = n_blocks * POSITIONS;
    constexpr int B = N == 1 ? 4 : 2;
    int b = PART ? q[0].from / POSITIONS : 0; // of the first query, which looks back furthest
    for (; b + B <= n_blocks; b += B) score<T, N, B>(blocks + b, n_blocks - b, q, d_head, scores + b * POSITIONS, stride);
    for (; b < n_blocks; b++) score<T, N, 1>(blocks + b, n_blocks - b, q, d_head, scores + b * POSITIONS, stride);
    V share[N];
    for (int i = 0; i < N; i++) {
        float *s = scores + size_t(i) * stride;
        if (PART) {
            share[i] = weights_of_part(q[i], cap, s);
            continue;
        }
        const int full = q[i].limit / POSITIONS, rest = q[i].limit % POSITIONS;
        V top = broadcast(-3.0e38f);
        for (int j = 0; j < full; j++) top = max(top, load(s + j * POSITIONS));
        if (rest) top = max(top, first_lanes(load(s + full * POSITIONS), top, rest));
        top = broadcast(largest(top));
        V total = zero();
        for (int j = 0; j < full; j++) {
            V e = exponential(sub(load(s + j * POSITIONS), top));
            store(s + j * POSITIONS, e);
            total = add(total, e);
        }
        if (rest) {
            V e = first_lanes(exponential(sub(load(s + full * POSITIONS), top)), zero(), rest);
            store(s + full * POSITIONS, e);
            total = add(total, e);
        }
        share[i] = broadcast(1.0f / sum(total));
    }
    int from = 0;
    for (; from + 4 * LANES <= d_head; from += 4 * LANES)
        gather<T, N, 4, PART>(blocks, q, share, d_head, from, scores, stride, out, m);
    for (; from < d_head; from += LANES) gather<T, N, 1, PART>(blocks, q, share, d_head, from, scores, stride, out, m);
}

template <class T, bool PART>
INLINE void attend_in(const T *const *blocks, const Query *q, int n, int d_head, float cap, float *out, int m, float *scores) {
    if (n == 4) return attend_to<T, 4, PART>(blocks, q, d_head, cap, out, m, scores);
    if (n == 3) return attend_to<T, 3, PART>(blocks, q, d_head, cap, out, m, scores);
    if (n == 2) return attend_to<T, 2, PART>(blocks, q, d_head, cap, out, m, scores);
    attend_to<T, 1, PART>(blocks, q, d_head, cap, out, m, scores);
}

template <class T>
INLINE void attend_as(const T *const *blocks, const Query *q, int n, int d_head, bool part, float cap, float *out, int m, float *scores) {
    part ? attend_in<T, true>(blocks, q, n, d_head, cap, out, m, scores) : attend_in<T, false>(blocks, q, n, d_head, cap, out, m, scores);
}

static void attend(const void *const *blocks, bool half, const Query *q, int n, int d_head, bool part, float cap, float *out, int m, float *scores) {
    half ? attend_as((const uint16_t *const *)blocks, q, n, d_head, part, cap, out, m, scores)
         : attend_as((const float *const *)blocks, q, n, d_head, part, cap, out, m, scores);
}

// Blocks first … last - 1 of stored weights, written out in their order. Product and sum are rounded one by one, as torch does.
static void expand(const Stored &from, int64_t first, int64_t last, void *out) {
    const Table values = table(from.table);
    for (int64_t block = first; block < last; block++) {
        const V scale = broadcast(from.scale[block]), base = broadcast(from.base ? from.base[block] : 0.0f);
        for (int i = 0; i < GROUP; i += LANES) {
            const int64_t at = block * GROUP + i;
            V y = mul(look<NF4>(in_order(from.codes + at / 2), values), scale);
            if (from.base) y = add(y, base);
            if (from.bf16) store_bf16((uint16_t *)out + at, y);
            else store((float *)out + at, y);
        }
    }
}

INLINE V sigmoid(V x) { return div(broadcast(1.0f), add(broadcast(1.0f), exponential(sub(zero(), x)))); }

static void gated(const float *gate, const float *up, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += LANES) store(out + i, mul(mul(load(gate + i), sigmoid(load(gate + i))), load(up + i)));
}

static void gated_back(const float *out, const float *gate, const float *up, int64_t n, float *d_gate, float *d_up) {
    for (int64_t i = 0; i < n; i += LANES) {
        const V g = load(gate + i), s = sigmoid(g), d = load(out + i), silu = mul(g, s);
        store(d_up + i, mul(d, silu));
        store(d_gate + i, mul(mul(d, load(up + i)), fma(silu, sub(broadcast(1.0f), s), s))); // silu' = s + g s (1 - s)
    }
}

} // namespace
