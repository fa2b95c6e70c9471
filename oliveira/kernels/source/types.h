// What the library's parts share: stored matrices, what happens to a product, the table of kernels of one instruction set.
//
// Layout. A matrix (d_out, d_in) is cut into panels of 16 outputs, a panel into tiles of 64 inputs. In a vector of 16
// lanes, lane r is output r of the panel. A batch of rows x (M, d) is kept as (d / 64, M, 64): what one tile needs of all
// rows lies together. Widths are multiples of 16; a last group is filled up with zeros.
//
// Panels stand in fours: the tiles of four panels that read the same inputs are neighbours in memory, so that a product of one
// row is one stream. The last four may be padding.
//
// Order of summation, the same for every number of rows, threads and chunk of a prompt, so that the same row gives the
// same bits:   acc = sum of w x over the 64 inputs of a tile, one after the other;
//              total = total + scale acc (+ minimum sum(x)), tile after tile.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr int LANES = 16;     // outputs of a panel
constexpr int GROUP = 64;     // inputs of a tile
constexpr int FOUR = 4;       // panels side by side
constexpr int POSITIONS = 16; // tokens of a key/value block
constexpr int MAX_ROWS = 256; // rows of one product
constexpr int MAX_THREADS = 64;

enum Kind { F32 = 0, INT8 = 1, INT4 = 2, NF4 = 3, INT6 = 4 };
constexpr size_t TILE_BYTES[] = {GROUP * LANES * 4, GROUP * LANES, GROUP * LANES / 2 + 64, GROUP * LANES / 2 + 64,
                                 GROUP * LANES * 3 / 4 + 32};

// 4-bit tile: 8 vectors of codes (dword of lane r: inputs 8 c … 8 c + 7, lowest nibble first), then 64 bytes: int4 has 16
// fp16 minima and 16 fp16 steps, nf4 16 fp32 scales. int6: 32 more than the number; 8 vectors with the low four bits, 4 with
// the high two, 16 fp16 scales. int8: 16 vectors (dword of lane r: inputs 0 2 4 6 of eight, then one of 1 3 5 7), `scale` one
// a row. fp32: 64 vectors.
struct Matrix {
    int32_t kind, d_out, d_in, unused;
    const uint8_t *data;
    const float *scale; // int8: padded to whole panels
    const float *bias;  // null, or padded to whole panels
};

static inline int panels(const Matrix &w) { return (w.d_out + LANES - 1) / LANES; }
static inline int groups(int d) { return (d + GROUP - 1) / GROUP; }
static inline int groups(const Matrix &w) { return groups(w.d_in); }
static inline const uint8_t *tile_at(const Matrix &w, int p, int g) {
    return w.data + ((size_t(p / FOUR) * groups(w) + g) * FOUR + p % FOUR) * TILE_BYTES[w.kind];
}

enum Mode {
    PLAIN = 0,  // out[m * stride + n] = y
    ADD = 1,    // out[m * stride + n] += y
    PACKED = 2, // out (d / 64, M, 64) = activation(y)
    GATED = 3,  // the same, y = silu(even panel) * odd panel, or gelu(even panel) where that is the activation
};
enum Activation { IDENTITY = 0, GELU = 1, RELU = 2, GELU_EXACT = 3 };

struct Output {
    int mode, activation;
    float *out;
    int64_t stride;     // PLAIN, ADD
    const float *extra; // null, or (M, panels, 16) to be added to y
};

// One layer's LoRA term B A x, alpha / r already in B. Its output n goes to panel first + step (n / 16).
struct LowRank {
    const float *a; // (rank, d_in filled up to groups)
    const float *b; // (rank, d_out filled up to panels)
    int32_t rank, d_out, first, step; // rank 0: none
};

// 4-bit weights as compression/packing.py stores them: blocks of 64, the earlier weight of a byte in its high nibble.
// A weight is base + table[code] scale.
struct Stored {
    const uint8_t *codes;
    const float *table, *scale, *base; // 16; one a block; null or one a block
    int bf16;                          // what is written: bfloat16, else fp32
};

// One number of head `h` and position `t` stands at data[b batch + h head + t position + feature].
struct Slab {
    float *data;
    int64_t batch, head, position;
    float *at(int b, int h) const { return data + b * batch + h * head; }
};

// Causal attention of a training step (source/causal.h). The gradients' slabs are null on the way there.
struct Causal {
    Slab q, k, v, out, d_out, d_q, d_k, d_v;
    float *log_sum; // (B, heads, length)
    int32_t n_batch, heads, kv_heads, length, d_head;
    float scale;
};

// How far one row of keys or scores is from the next: not a power of two, or rows would fall on each other in the first cache.
static inline int causal_stride(int length) { return (length + LANES - 1) / LANES * LANES + LANES; }
constexpr int QUERIES = 64; // at a time
static inline size_t causal_memory(const Causal &t) { return size_t(2 * t.d_head + 2 * QUERIES) * causal_stride(t.length); }

// The next token of a stream (source/sample.h): what is asked, and what came of it.
struct Draw {
    const float *logits;
    const uint32_t *mask;       // null = all; bit i of word j allows token 32 j + i
    const int32_t *bias_tokens; // n_bias of them
    const float *bias;
    const int32_t *seen;   // n_seen tokens of prompt and answer, each once
    const int32_t *counts; // how often each stands in the answer
    double *top_logprobs;  // n_top of them, the most likely first
    int32_t *top_tokens;
    double temperature, greedy_below, top_p, min_p, uniform, logprob;
    float repetition, frequency, presence;
    int32_t top_k, n_bias, n_seen, n_top; // n_top -1: no log-probabilities
    int32_t token, finite;                // token -1: none is allowed, or a logit is NaN or +inf
};

struct Query {
    const float *q; // (d_head), already multiplied by the scale of the scores
    int row, first; // the result goes to row `row`, features `first` … of the packed output
    int from, limit; // sees positions from … limit - 1
};

// A batch of rows, as a product reads it. `q` not null: what the rows were rounded to, and with it a product is done in whole
// numbers. Then x of a group is about scale * q, q within -127 … 127, in the order 0 2 4 6 1 3 5 7 within each eight, as the
// even and odd nibbles of a dword come out.
struct Rows {
    const float *x;    // (d / 64, m, 64)
    const float *sums; // (d / 64, m) of x, for int4
    const int8_t *q;   // like x
    const float *scale, *low; // (d / 64, m): scale, and scale times the sum of q
    const int32_t *total;     // (d / 64, m): the sum of q
    int m;
};

struct Scratch {         // of one thread
    float *tile;          // (64, 16) decoded weights
    float *sums;         // (d / 64, M)
    int8_t *q;           // a few rounded rows, their scale, low and total
    float *scores;       // (4, positions)
    float *packed;       // a few normalised rows
    const void **blocks; // of one stream, layer and head
    float *own;          // `Needs::own` floats, zero or what this kind of work has left there
};

struct Isa {
    const char *name;
    // Outputs of panels first … last - 1.
    void (*product)(const Matrix &w, int first, int last, const Rows &x, const Output &to);
    void (*sums)(const float *x, int count, float *out); // of `count` times 64 numbers
    void (*round)(const float *x, int count, int8_t *q, float *scale, float *low, int32_t *total);
    // One row x (d) into row `row` of a packed block of m rows, normalised or as it is.
    void (*norm)(const float *x, const float *gain, const float *shift, int d, float eps, float *out, int m, int row);
    void (*pack)(const float *x, int d, float *out, int m, int row);
    // One row where it stands, normalised as above.
    void (*norm_here)(float *x, const float *gain, const float *shift, int d, float eps);
    // blocks[i]: keys (d_head, 16), then values (16, d_head), of positions 16 i … 16 i + 15, fp32 or fp16. At most 4 queries.
    // `cap`: scores s become cap tanh(s / cap); 0: as they are. Where one query's `from` is not 0, or with a cap: `part`.
    void (*keep)(void *block, int slot, const float *key, const float *value, int d_head, bool half);
    void (*attend)(const void *const *blocks, bool half, const Query *queries, int n, int d_head, bool part, float cap, float *out, int m, float *scores);
    void (*cap)(float *x, int64_t n, float cap); // x becomes cap tanh(x / cap)
    void (*decode)(const Matrix &w, int p, int g, float *out); // a tile as (64, 16) fp32
    // One row of a packed block of m rows: extra += B A x, in the panels of this layer.
    void (*low_rank)(const LowRank &layer, const float *x, int groups, int m, int row, float *extra);
    // The first `turned` numbers of one head turned in place (none if cosine is null), and the head multiplied by `scale`.
    void (*rope)(float *head, const float *cosine, const float *sine, int turned, int d_head, float scale);
    void (*expand)(const Stored &from, int64_t first, int64_t last, void *out);
    // One batch element and key/value head, in `causal_memory` floats.
    void (*causal)(const Causal &t, int item, float *memory);
    void (*causal_back)(const Causal &t, int item, float *memory);
    // silu(gate) up of n numbers, a multiple of 16, and what it gives back.
    void (*gated)(const float *gate, const float *up, int64_t n, float *out);
    void (*gated_back)(const float *out, const float *gate, const float *up, int64_t n, float *d_gate, float *d_up);
    // One stream's next token of n, in `sample_memory(n)` floats.
    void (*sample)(Draw &draw, int n, float *memory);
    size_t (*sample_memory)(int n);
};

extern "C" {
const Isa *oliveira_scalar();
const Isa *oliveira_avx2();
const Isa *oliveira_avx512();
const Isa *oliveira_avx512vnni();
}
