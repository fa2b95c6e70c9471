// The next token of a stream from its logits z: mask, bias, penalties, temperature, top-k, top-p, min-p, without a full sort.
//
//   w = exp((z - max z) / T), kept for the first tokens by (z, then the lower number): the top k, those before which the sum of
//   w has not reached top_p of it all, those with w >= min_p. The token is the first, by number, at which the sum of what is
//   kept passes `uniform` of its whole.
//
// One thread does one stream, in one order, so neither batch nor threads change a bit. What can be kept is gathered first: no
// token below the k-th largest maximum of groups of 64 is among the top k, and tokens whose sum is below 1 - top_p are none of
// the nucleus. The last one that stays is between two logits, which come nearer to each other by halves, a pass over what was
// gathered each; among the few in between an order by halves (quickselect) finds it.
#pragma once
#include "simd.h"
#include <algorithm>
#include <functional>
#include <limits>

namespace {

#if defined(OLIVEIRA_AVX512)
INLINE uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
INLINE V chosen(V a, uint32_t bits, V other) { return _mm512_mask_mov_ps(other, __mmask16(bits), a); }
INLINE int squeeze(V z, V w, int first, uint32_t bits, float *to_z, float *to_w, int32_t *to) { // chosen lanes side by side
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    store(to_z, _mm512_maskz_compress_ps(__mmask16(bits), z)), store(to_w, _mm512_maskz_compress_ps(__mmask16(bits), w));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(__mmask16(bits), _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
    return __builtin_popcount(bits);
}
#elif defined(OLIVEIRA_AVX2)
INLINE uint32_t at_least(V a, V b) {
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.a, b.a, _CMP_GE_OQ))) |
           uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.b, b.b, _CMP_GE_OQ))) << 8;
}
INLINE V chosen(V a, uint32_t bits, V other) {
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i low = _mm256_and_si256(_mm256_set1_epi32(int(bits)), each), high = _mm256_and_si256(_mm256_set1_epi32(int(bits >> 8)), each);
    return {_mm256_blendv_ps(other.a, a.a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(low, each))),
            _mm256_blendv_ps(other.b, a.b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(high, each)))};
}
#else
INLINE uint32_t at_least(V a, V b) {
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= uint32_t(a[i] >= b[i]) << i;
    return bits;
}
INLINE V chosen(V a, uint32_t bits, V other) {
    for (int i = 0; i < LANES; i++)
        if (bits >> i & 1) other[i] = a[i];
    return other;
}
#endif

#if !defined(OLIVEIRA_AVX512)
INLINE int squeeze(V z, V w, int first, uint32_t bits, float *to_z, float *to_w, int32_t *to) { // chosen lanes side by side
    if (!bits) return 0;
    alignas(64) float each_z[LANES], each_w[LANES];
    store(each_z, z), store(each_w, w);
    int n = 0;
    for (; bits; bits &= bits - 1, n++) {
        const int lane = __builtin_ctz(bits);
        to_z[n] = each_z[lane], to_w[n] = each_w[lane], to[n] = first + lane;
    }
    return n;
}
#endif

constexpr float LOWEST = -std::numeric_limits<float>::infinity();
constexpr int CHUNK = 1024;                            // tokens of which one sum is kept
constexpr float LEVELS[] = {1.0f / 128, 1.0f / 16384}; // weights above which there may be enough for top_p

struct Sampled { // the work of one stream, in `sample_memory` floats
    const Draw &d;
    int n, groups_64, padded; // tokens; groups of 64, filled up with the lowest
    float *z, *w, *tops;      // logits, weights, the largest logit of each group
    float *some_z, *some_w;   // of those that may be kept
    int32_t *found, *order;   // their tokens, by number; places in them that are being ordered
    double *chunks;           // sums of weights
    float largest_z = LOWEST;
    double total = 0, above[2] = {0, 0}; // sum of all weights, and of those above each level
    int count = 0;                       // of `found`

    Sampled(const Draw &d, int n, float *memory) : d(d), n(n), groups_64((n + GROUP - 1) / GROUP), padded(groups_64 * GROUP) {
        chunks = reinterpret_cast<double *>(memory), memory += 2 * (padded / CHUNK + 1);
        z = memory, w = z + padded, tops = w + padded;
        some_z = tops + groups_64, some_w = some_z + padded + LANES;
        found = reinterpret_cast<int32_t *>(some_w + padded + LANES), order = found + padded + LANES;
    }

    // Logits into z. False: one of them is not finite.
    bool fill() {
        V odd = zero(), zeros = zero();
        int i = 0;
        for (; i + LANES <= n; i += LANES) {
            const V x = load(d.logits + i);
            odd = fma(x, zeros, odd); // NaN once x is not finite
            store(z + i, x);
        }
        float wrong = sum(odd);
        for (; i < n; i++) wrong += d.logits[i] * 0.0f, z[i] = d.logits[i];
        for (; i < padded; i++) z[i] = LOWEST;
        return wrong == 0.0f;
    }

    void measure() { // the largest logits
        V most = broadcast(LOWEST);
        for (int g = 0; g < groups_64; g++) {
            const float *p = z + g * GROUP;
            const V top = max(max(load(p), load(p + 16)), max(load(p + 32), load(p + 48)));
            tops[g] = largest(top);
            most = max(most, top);
        }
        largest_z = largest(most);
    }

    void hide() {
        const V lowest = broadcast(LOWEST);
        for (int i = 0; i < n; i += LANES) store(z + i, chosen(load(z + i), d.mask[i / 32] >> (i % 32) & 0xffff, lowest));
    }

    void adjust() {
        for (int i = 0; i < d.n_bias; i++) z[d.bias_tokens[i]] += d.bias[i];
        for (int i = 0; i < d.n_seen; i++) {
            float &x = z[d.seen[i]];
            x = x > 0 ? x / d.repetition : x * d.repetition;
            if (d.counts[i] > 0) x = x - d.frequency * float(d.counts[i]) - d.presence;
        }
    }

    template <bool LEVELLED> void weigh(double temperature) {
        const V scale = broadcast(float(1 / temperature)), top = broadcast(largest_z), tiny = exponential(broadcast(-88.0f));
        total = above[0] = above[1] = 0;
        for (int from = 0; from < padded; from += CHUNK) {
            const int to = std::min(padded, from + CHUNK);
            V all = zero(), high = zero(), middle = zero();
            for (int i = from; i < to; i += LANES) { // what is below e^-87 is nothing
                const V x = max(sub(exponential(mul(sub(load(z + i), top), scale)), tiny), zero());
                store(w + i, x);
                all = add(all, x);
                if (LEVELLED) {
                    high = add(high, chosen(x, at_least(x, broadcast(LEVELS[0])), zero()));
                    middle = add(middle, chosen(x, at_least(x, broadcast(LEVELS[1])), zero()));
                }
            }
            total += chunks[from / CHUNK] = sum(all);
            if (LEVELLED) above[0] += sum(high), above[1] += sum(middle);
        }
    }

    // No token with a smaller logit is among the first k.
    float bound(int k) {
        if (k >= groups_64) return LOWEST;
        std::copy(tops, tops + groups_64, w); // before there are weights, or after they were used
        std::nth_element(w, w + k - 1, w + groups_64, std::greater<float>());
        return w[k - 1];
    }

    void gather(float least) {
        count = 0;
        const V limit = broadcast(least);
        for (int g = 0; g < groups_64; g++) {
            if (!(tops[g] >= least)) continue;
            for (int i = g * GROUP; i < (g + 1) * GROUP; i += LANES) {
                const V x = load(z + i);
                count += squeeze(x, load(w + i), i, at_least(x, limit), some_z + count, some_w + count, found + count);
            }
        }
        while (count && found[count - 1] >= n) count--; // what was filled up
        for (int i = 0; i < LANES; i++) some_z[count + i] = LOWEST, some_w[count + i] = 0;
    }

    // Of places in `found`.
    bool before(int32_t a, int32_t b) const { return some_z[a] > some_z[b] || (some_z[a] == some_z[b] && a < b); }

    // How many of the gathered have at least this logit, and their weight.
    int beyond(float least, double &weight) const {
        const V limit = broadcast(least);
        int n_beyond = 0;
        weight = 0;
        for (int from = 0; from < count; from += CHUNK) {
            V all = zero();
            for (int i = from; i < std::min(count, from + CHUNK); i += LANES) { // LOWEST follows the last one
                const uint32_t bits = at_least(load(some_z + i), limit);
                n_beyond += __builtin_popcount(bits), all = add(all, chosen(load(some_w + i), bits, zero()));
            }
            weight += sum(all);
        }
        return n_beyond;
    }

    // The place of the last of the gathered, in order, before which there are fewer than k and less than `reach` of weight.
    int32_t last(int64_t k, double reach) {
        float low = LOWEST, high = std::numeric_limits<float>::infinity(); // it is at least low and below high
        double weight = 0;                                                 // of those from high on, all of which stay
        int before_it = 0, up_to = count;
        k = std::min<int64_t>(k, count);
        for (int i = 0; i < 24 && up_to - before_it > GROUP; i++) {
            const float from = low == LOWEST ? some_least : low, middle = from + (std::min(high, largest_z) - from) / 2;
            if (!(middle > from && middle < high)) break;
            double found_weight;
            const int n_beyond = beyond(middle, found_weight);
            if (n_beyond < k && found_weight < reach) high = middle, weight = found_weight, before_it = n_beyond;
            else low = middle, up_to = n_beyond;
        }
        int from = 0, to = 0;
        for (int i = 0; i < count; i++)
            if (some_z[i] >= low && some_z[i] < high) order[to++] = i;
        k -= before_it;
        uint32_t luck = 1;
        while (to - from > 1) { // it is in from … to - 1; those before stay, `weight` in all
            luck = luck * 1664525u + 1013904223u;
            const int32_t pivot = order[from + int((uint64_t(luck) * uint64_t(to - from)) >> 32)];
            int middle = from;
            double more = 0;
            for (int i = from; i < to; i++) // those before the pivot to the front
                if (before(order[i], pivot)) more += some_w[order[i]], std::swap(order[i], order[middle++]);
            if (middle > from && (middle >= k || weight + more >= reach)) { // the pivot goes
                to = middle;
            } else { // the pivot stays: to the front of what comes after it
                for (int i = middle; i < to; i++)
                    if (order[i] == pivot) { std::swap(order[i], order[middle]); break; }
                weight += more;
                if (middle + 1 == to || middle + 1 >= k || weight + some_w[pivot] >= reach) return pivot;
                weight += some_w[pivot], from = middle + 1;
            }
        }
        return order[from];
    }

    // The first of some weights at which their sum passes `uniform` of it all.
    int draw(const float *weights, int n_weights) const {
        double left = d.uniform * total;
        int chunk = 0, place = -1;
        const int n_chunks = (n_weights + CHUNK - 1) / CHUNK;
        while (chunk < n_chunks - 1 && left >= chunks[chunk]) left -= chunks[chunk++];
        for (int i = chunk * CHUNK; i < std::min(n_weights, (chunk + 1) * CHUNK); i++)
            if (weights[i] > 0) {
                place = i;
                if ((left -= weights[i]) < 0) return place;
            }
        for (int i = chunk * CHUNK; place < 0 && i-- > 0;) // only a rounding led here
            if (weights[i] > 0) place = i;
        return place;
    }

    int32_t draw_from_some() {
        constexpr float FINITE = -std::numeric_limits<float>::max();
        const double T = d.temperature, slack = 1e-4 * T + 1e-5 * std::fabs(largest_z);
        const double reach = d.top_p < 1 ? d.top_p * total : std::numeric_limits<double>::infinity();
        some_least = std::max(k_bound, FINITE);
        if (d.top_p < 1) {
            const double level = above[0] >= reach * (1 + 1e-6) ? LEVELS[0] : above[1] >= reach * (1 + 1e-6) ? LEVELS[1] : (1 - d.top_p) * total / n;
            some_least = std::max(some_least, float(largest_z + T * std::log(level) - slack));
        }
        if (d.min_p > 0) some_least = std::max(some_least, min_p_bound());
        gather(some_least);
        some_least = std::max(some_least, *std::min_element(some_z, some_z + count));
        const int32_t end = last(d.top_k > 0 ? d.top_k : count, reach);
        const V limit = broadcast(some_z[end]);
        total = 0;
        for (int from = 0; from < count; from += CHUNK) { // the others weigh nothing from here on
            V all = zero();
            for (int i = from; i < std::min(count, from + CHUNK); i += LANES) {
                const V x = load(some_z + i);
                uint32_t bits = at_least(x, limit);
                if (i + LANES > end)
                    for (uint32_t alike = bits & at_least(limit, x); alike; alike &= alike - 1)
                        if (i + __builtin_ctz(alike) > end) bits &= ~(alike & -alike);
                const V kept = chosen(load(some_w + i), bits, zero());
                store(some_w + i, kept);
                all = add(all, kept);
            }
            total += chunks[from / CHUNK] = sum(all);
        }
        const int place = draw(some_w, count);
        return found[place < 0 ? end : place];
    }

    // The smallest z with (z - max) / T >= log min_p.
    float min_p_bound() const {
        const double limit = std::log(d.min_p);
        const auto stays = [&](float x) { return (double(x) - double(largest_z)) / d.temperature >= limit; };
        float bound = float(largest_z + d.temperature * limit);
        for (int i = 0; i < 8 && !stays(bound); i++) bound = std::nextafter(bound, largest_z); // one step, but for numbers near 0
        for (int i = 0; i < 8 && stays(std::nextafter(bound, LOWEST)); i++) bound = std::nextafter(bound, LOWEST);
        return bound;
    }

    float some_least = LOWEST;
    float k_bound = LOWEST;

    int32_t first() const { // the largest logit with the lowest number
        const V most = broadcast(largest_z);
        for (int g = 0; g < groups_64; g++)
            if (tops[g] == largest_z)
                for (int i = g * GROUP;; i += LANES)
                    if (const uint32_t bits = at_least(load(z + i), most)) return i + __builtin_ctz(bits);
        return -1;
    }
};

size_t sample_memory(int n) {
    const size_t padded = size_t(n + GROUP - 1) / GROUP * GROUP;
    return 6 * padded + 4 * LANES + padded / GROUP + 2 * (padded / CHUNK + 2);
}

void sample(Draw &d, int n, float *memory) {
    Sampled s(d, n, memory);
    d.token = -1;
    d.finite = s.fill();
    s.measure();
    if (!d.finite) // what cannot be, -inf, may be drawn around
        for (int i = 0; i < n; i++)
            if (!(s.z[i] < std::numeric_limits<float>::infinity())) return;
    double top = 0, all = 0; // log-probabilities are those of the model
    if (d.n_top >= 0) {
        const int k = std::min(d.n_top, n);
        if (k > 0) {
            s.gather(s.bound(k));
            std::partial_sort(s.found, s.found + k, s.found + s.count, [&](int32_t a, int32_t b) { return s.z[a] > s.z[b] || (s.z[a] == s.z[b] && a < b); });
            std::copy(s.found, s.found + k, d.top_tokens);
        }
        s.weigh<false>(1.0);
        top = s.largest_z, all = std::log(s.total);
        for (int i = 0; i < k; i++) d.top_logprobs[i] = s.z[d.top_tokens[i]] - top - all;
    }
    if (d.mask) s.hide();
    if (d.n_bias || d.n_seen) s.adjust();
    if (d.mask || d.n_bias || d.n_seen) s.measure();
    if (!(std::fabs(s.largest_z) < std::numeric_limits<float>::infinity())) return; // nothing is allowed
    if (d.temperature < d.greedy_below || d.top_k == 1) {
        d.token = s.first();
    } else {
        const bool some = (d.top_k > 0 && d.top_k < n) || d.top_p < 1 || d.min_p > 0;
        if (d.top_k > 0 && d.top_k < n) s.k_bound = s.bound(d.top_k);
        d.top_p < 1 ? s.weigh<true>(d.temperature) : s.weigh<false>(d.temperature);
        d.token = some ? s.draw_from_some() : s.draw(s.w, s.padded);
    }
    if (d.n_top >= 0) d.logprob = d.logits[d.token] - top - all;
}

} // namespace
