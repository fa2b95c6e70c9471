// What Python calls through ctypes. Shapes, types and contiguity are checked there. No exception leaves: what can fail gives a
// code, which Python (oliveira/kernels/build.py) turns into an error.
#include "decoder.h"
#include "threads.h"
#include <cstring>
#include <stdexcept>
#include <sys/mman.h>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

const Isa *isa = nullptr;
void decode(const Decoder &d, const Batch &batch);

namespace {
enum Code { DONE = 0, FEWER_THREADS = 1, NO_MEMORY = 2, FAILED = 3 }; // FEWER_THREADS: done; said once

template <class Work> int guarded(Work work) noexcept {
    try {
        work();
        return fewer_threads() ? FEWER_THREADS : DONE;
    } catch (const std::bad_alloc &) {
        return NO_MEMORY;
    } catch (const std::length_error &) {
        return NO_MEMORY;
    } catch (...) {
        return FAILED;
    }
}
} // namespace

// 1 if this machine can run the path "scalar", "avx2", "avx512" or "avx512vnni".
API int oliveira_has(const char *name) noexcept {
    if (!std::strcmp(name, "scalar")) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (!std::strcmp(name, "avx2")) return avx2;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!std::strcmp(name, "avx512")) return avx512;
    if (!std::strcmp(name, "avx512vnni")) return avx512 && __builtin_cpu_supports("avx512vnni");
#endif
    return 0;
}

// The same, and it is used from now on.
API int oliveira_use(const char *name) noexcept {
    if (!oliveira_has(name)) return 0;
    isa = oliveira_scalar();
#if defined(__x86_64__)
    if (!std::strcmp(name, "avx2")) isa = oliveira_avx2();
    if (!std::strcmp(name, "avx512")) isa = oliveira_avx512();
    if (!std::strcmp(name, "avx512vnni")) isa = oliveira_avx512vnni();
#endif
    return 1;
}

// Of a structure that Python fills in, so that the two cannot drift apart; 0 for one that is not known.
API int64_t oliveira_size(const char *name) noexcept {
    static const struct {
        const char *name;
        size_t size;
    } known[] = {{"Matrix", sizeof(Matrix)}, {"LowRank", sizeof(LowRank)}, {"Slab", sizeof(Slab)},   {"Causal", sizeof(Causal)},
                 {"Norm", sizeof(Norm)},     {"Layer", sizeof(Layer)},     {"Decoder", sizeof(Decoder)}, {"Batch", sizeof(Batch)}, {"Draw", sizeof(Draw)}};
    for (const auto &one : known)
        if (!std::strcmp(name, one.name)) return int64_t(one.size);
    return 0;
}

API int64_t oliveira_bytes(int kind, int64_t d_out, int64_t d_in) noexcept {
    const int64_t fours = (d_out + FOUR * LANES - 1) / (FOUR * LANES);
    return fours * FOUR * groups(int(d_in)) * int64_t(TILE_BYTES[kind]);
}

API void oliveira_huge_pages(void *data, int64_t size) noexcept {
    constexpr uintptr_t PAGE = 2 << 20;
    const uintptr_t from = (uintptr_t(data) + PAGE - 1) / PAGE * PAGE, end = (uintptr_t(data) + size) / PAGE * PAGE;
    if (end > from) madvise((void *)from, end - from, MADV_HUGEPAGE);
}

// Puts rows of weights into the panels first, first + step, … of `target`. `codes`: fp32 weights, int8 codes (also for int6) or
// the packed 4-bit codes (earlier weight in the high nibble); `a`, `b`: int4's fp16 minimum and step, nf4's fp32 scale, int6's
// fp16 scale, one for 64.
API void oliveira_pack(const Matrix *target, const void *codes, const void *a, const void *b, int d_out, int first, int step) noexcept {
    const int n_groups = groups(*target), d_in = target->d_in; // what is not written stays as it is: zero
    for (int row = 0; row < d_out; row++) {
        const int p = first + row / LANES * step, lane = row % LANES;
        for (int g = 0; g < n_groups; g++) {
            uint8_t *tile = const_cast<uint8_t *>(tile_at(*target, p, g));
            const int64_t from = int64_t(row) * d_in + g * GROUP;
            const int count = d_in - g * GROUP < GROUP ? d_in - g * GROUP : GROUP;
            if (target->kind == F32) {
                for (int k = 0; k < count; k++) ((float *)tile)[k * LANES + lane] = ((const float *)codes)[from + k];
            } else if (target->kind == INT8) {
                for (int k = 0; k < count; k++) // dword of lane r: inputs 0 2 4 6 of eight, the next one 1 3 5 7
                    tile[(k / 8 * 2 + k % 2) * 64 + lane * 4 + k % 8 / 2] = ((const uint8_t *)codes)[from + k];
            } else if (target->kind == INT6) {
                for (int k = 0; k < count; k++) {
                    const uint32_t lifted = uint32_t(((const int8_t *)codes)[from + k] + 32);
                    const int run = k / 8, j = k % 8;
                    ((uint32_t *)tile)[run * LANES + lane] |= (lifted & 15) << (4 * j);
                    tile[512 + run / 2 * 64 + lane * 4 + j / 2] |= uint8_t(lifted >> 4 << (run % 2 * 4 + j % 2 * 2));
                }
                ((uint16_t *)(tile + 768))[lane] = ((const uint16_t *)a)[from / GROUP];
            } else {
                const uint8_t *packed = (const uint8_t *)codes + from / 2;
                for (int c = 0; c < count / 8; c++) {
                    uint32_t dword = 0;
                    for (int j = 0; j < 8; j++) {
                        const int k = c * 8 + j;
                        const uint32_t code = k % 2 ? packed[k / 2] & 15 : packed[k / 2] >> 4;
                        dword |= code << (4 * j);
                    }
                    ((uint32_t *)tile)[c * LANES + lane] = dword;
                }
                const int64_t block = from / GROUP;
                if (target->kind == INT4) {
                    ((uint16_t *)(tile + 512))[lane] = ((const uint16_t *)a)[block];
                    ((uint16_t *)(tile + 512))[LANES + lane] = ((const uint16_t *)b)[block];
                } else {
                    ((float *)(tile + 512))[lane] = ((const float *)a)[block];
                }
            }
        }
    }
}

// Panels first, first + step, … as fp32 weights (d_out, d_in).
API void oliveira_unpack(const Matrix *source, float *out, int d_out, int first, int step) noexcept {
    float tile[GROUP * LANES];
    for (int i = 0; i * LANES < d_out; i++)
        for (int g = 0; g < groups(*source); g++) {
            isa->decode(*source, first + i * step, g, tile);
            for (int lane = 0; lane < LANES && i * LANES + lane < d_out; lane++)
                for (int k = 0; k < GROUP && g * GROUP + k < source->d_in; k++)
                    out[int64_t(i * LANES + lane) * source->d_in + g * GROUP + k] = tile[k * LANES + lane];
        }
}

namespace {
struct Product {
    const Matrix &w;
    const float *x;
    float *y;
    int64_t m;
    std::vector<float> &packed, &scales;
    std::vector<int8_t> &q;
    bool int8;
};

void multiply_all(Worker &w, void *data) {
    const Product &job = *static_cast<Product *>(data);
    const Matrix &matrix = job.w;
    for (int64_t row = 0; row < job.m; row += MAX_ROWS) {
        const int m = int(job.m - row < MAX_ROWS ? job.m - row : MAX_ROWS);
        int from, end;
        const float *x = job.x + row * matrix.d_in;
        if (m > 1 || matrix.d_in % GROUP) { // else the row is packed as it stands
            if (w.take(m, 1, false, from, end))
                for (int i = from; i < end; i++) isa->pack(x + int64_t(i) * matrix.d_in, matrix.d_in, job.packed.data(), m, i);
            w.barrier();
            x = job.packed.data();
        }
        const int n = groups(matrix) * m;
        Rows rows{x, w.scratch.sums, nullptr, nullptr, nullptr, nullptr, m};
        if (job.int8 && matrix.kind != F32) {
            float *scale = job.scales.data(), *low = scale + n;
            int32_t *total = reinterpret_cast<int32_t *>(low + n);
            if (w.take(n, 1, false, from, end))
                isa->round(x + size_t(from) * GROUP, end - from, job.q.data() + size_t(from) * GROUP, scale + from, low + from, total + from);
            w.barrier();
            rows.q = job.q.data(), rows.scale = scale, rows.low = low, rows.total = total;
        } else if (matrix.kind == INT4) {
            isa->sums(x, n, w.scratch.sums);
        }
        const Output to{PLAIN, IDENTITY, job.y + row * matrix.d_out, matrix.d_out};
        while (w.take(panels(matrix), m > 4 ? FOUR : 2, true, from, end)) isa->product(matrix, from, end, rows, to);
        w.barrier();
    }
}
} // namespace

// y (m, d_out) = x (m, d_in) W^T + bias. `int8`: x is rounded to 8 bits first, if the weights are quantised.
API int oliveira_linear(const Matrix *w, const float *x, float *y, int64_t m, int int8, int threads) noexcept {
    return guarded([&] {
        static thread_local std::vector<float> packed, scales;
        static thread_local std::vector<int8_t> q;
        const int64_t rows = m < MAX_ROWS ? m : MAX_ROWS;
        packed.resize(size_t(rows) * groups(*w) * GROUP);
        if (int8) q.resize(packed.size()), scales.resize(packed.size() / GROUP * 3);
        Product job{*w, x, y, m, packed, scales, q, int8 != 0};
        run(threads, {size_t(groups(*w)) * rows, 0, 0, 0}, multiply_all, &job);
    });
}

namespace {
struct Read {
    const float *data;
    float *out;
    int count;
};

void read_all(Worker &w, void *data) {
    const Read &job = *static_cast<Read *>(data);
    for (int from, end; w.take(job.count, 4096, false, from, end);)
        isa->sums(job.data + size_t(from) * GROUP, end - from, job.out + from);
}
} // namespace

// Sums of `count` times 64 numbers: reads memory as fast as it can be read. For the roofline (benchmarks/q4.py).
API int oliveira_read(const float *data, float *out, int count, int threads) noexcept {
    Read job{data, out, count};
    return guarded([&] { run(threads, {0, 0, 0, 0}, read_all, &job); });
}

namespace {
struct Expand {
    const Stored &from;
    void *out;
    int blocks;
};

void expand_all(Worker &w, void *data) {
    const Expand &job = *static_cast<Expand *>(data);
    for (int from, end; w.take(job.blocks, 512, true, from, end);) isa->expand(job.from, from, end, job.out);
}
} // namespace

// Stored 4-bit weights, `blocks` times 64 of them, in fp32 or bfloat16 and in their order.
API int oliveira_expand(const uint8_t *codes, const float *table, const float *scale, const float *base, int blocks, void *out, int bf16, int threads) noexcept {
    const Stored from{codes, table, scale, base, bf16};
    Expand job{from, out, blocks};
    return guarded([&] { run(threads, {0, 0, 0, 0}, expand_all, &job, false); });
}

namespace {
struct Gated {
    const float *d_out, *gate, *up;
    float *out, *d_up;
    int pieces;
};

constexpr int64_t PIECE = 4096;

void gated_all(Worker &w, void *data) {
    const Gated &job = *static_cast<Gated *>(data);
    for (int from, end; w.take(job.pieces, 4, true, from, end);) {
        const int64_t at = from * PIECE, n = (end - from) * PIECE;
        if (job.d_out) isa->gated_back(job.d_out + at, job.gate + at, job.up + at, n, job.out + at, job.d_up + at);
        else isa->gated(job.gate + at, job.up + at, n, job.out + at);
    }
}
} // namespace

// out = silu(gate) up; or, where `d_out` is not null, out = its gradient of gate and d_up that of up. 4,096 numbers a piece.
API int oliveira_gated(const float *d_out, const float *gate, const float *up, int pieces, float *out, float *d_up, int threads) noexcept {
    Gated job{d_out, gate, up, out, d_up, pieces};
    return guarded([&] { run(threads, {0, 0, 0, 0}, gated_all, &job, false); });
}

namespace {
void causal_all(Worker &w, void *data) {
    const Causal &job = *static_cast<Causal *>(data);
    for (int from, end; w.take(job.n_batch * job.kv_heads, 1, true, from, end);)
        for (int item = from; item < end; item++) job.d_out.data ? isa->causal_back(job, item, w.scratch.own) : isa->causal(job, item, w.scratch.own);
}
} // namespace

// Attention there, or, where d_out is given, back.
API int oliveira_causal(Causal *job, int threads) noexcept {
    return guarded([&] { run(threads, {0, 0, 0, 0, causal_memory(*job)}, causal_all, job, false); });
}

API int oliveira_decode(const Decoder *d, const Batch *batch) noexcept {
    return guarded([&] { decode(*d, *batch); });
}

namespace {
struct Draws {
    Draw *const *each;
    int n, vocab;
    float *memory; // `size` floats for each thread
    size_t size;
};

void sample_all(Worker &w, void *data) {
    const Draws &job = *static_cast<Draws *>(data);
    for (int from, end; w.take(job.n, 1, true, from, end);)
        for (int i = from; i < end; i++) isa->sample(*job.each[i], job.vocab, job.memory + w.id * job.size);
}
} // namespace

// The next tokens of n streams.
API int oliveira_sample(Draw *const *each, int n, int vocab, int threads) noexcept {
    return guarded([&] {
        static thread_local std::vector<float> memory;
        threads = threads < 1 ? 1 : threads < n ? threads : n;
        const size_t size = (isa->sample_memory(vocab) + LANES) / LANES * LANES;
        memory.resize(size * (threads < MAX_THREADS ? threads : MAX_THREADS));
        Draws job{each, n, vocab, memory.data(), size};
        run(threads, {0, 0, 0, 0}, sample_all, &job, false);
    });
}
