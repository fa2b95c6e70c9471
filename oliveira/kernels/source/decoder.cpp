// One forward pass of a GPT over new tokens of several streams, in one call: see decoder.h and docs/kernels.md.
#include "decoder.h"
#include "threads.h"
#include <vector>

extern const Isa *isa;

namespace {

constexpr int ALONE = 4;    // up to so many rows each thread normalises all by itself: cheaper than waiting
constexpr int ROWS_AT_ONCE = 16; // queries of one task of attention
constexpr int64_t SMALL = 1 << 21; // multiply-adds a thread below which work is divided once and for all

struct Row {
    int run, position, slot;
};

struct Buffers {
    std::vector<float> x, normed, qkv, mixed, hidden, scales, extra, branch;
    std::vector<int8_t> q;
    std::vector<Row> rows;
    std::vector<int> first;         // row of each run
    std::vector<int> wanted;        // rows whose logits are asked for
    std::vector<int> tasks;         // of attention, before each run
};

struct Pass {
    const Decoder &d;
    const Batch &batch;
    Buffers &at;
    int m;        // rows
    bool single;  // one row a run

    void *block(int run, int i, int layer, int kv_head) const {
        const int64_t number = batch.blocks[batch.table[run] + i];
        const int64_t head = 2 * int64_t(POSITIONS) * d.d_head * (d.half ? 2 : 4);
        return d.pool + ((number * d.n_layers + layer) * d.n_kv_heads + kv_head) * head;
    }
};

// What a product needs besides the rows: by each thread for itself if they are few, else shared.
Rows prepare(Worker &w, const Pass &pass, const Matrix &matrix, const float *x, int m) {
    const size_t n = size_t(groups(matrix)) * m;
    Rows rows{x, w.scratch.sums, nullptr, nullptr, nullptr, nullptr, m};
    if (!pass.d.int8 || matrix.kind == F32) {
        if (matrix.kind == INT4) isa->sums(x, int(n), w.scratch.sums);
        return rows;
    }
    const bool alone = m <= ALONE || w.team.n == 1;
    int8_t *q = m <= ALONE ? w.scratch.q : pass.at.q.data();
    float *scale = m <= ALONE ? reinterpret_cast<float *>(q + n * GROUP) : pass.at.scales.data(), *low = scale + n;
    int32_t *total = reinterpret_cast<int32_t *>(low + n);
    int from = 0, end = int(n);
    if (alone || w.take(int(n), 1, false, from, end))
        isa->round(x + size_t(from) * GROUP, end - from, q + size_t(from) * GROUP, scale + from, low + from, total + from);
    if (!alone) w.barrier();
    rows.q = q, rows.scale = scale, rows.low = low, rows.total = total;
    return rows;
}

// The LoRA terms of a product with the parts first … last of a layer; the rows of runs without an adapter get zeros.
void adapt(Worker &w, const Pass &pass, const Matrix &matrix, const float *x, int layer, int first, int last) {
    const size_t stride = size_t(panels(matrix)) * LANES;
    for (int from, end; w.take(pass.m, 1, false, from, end);)
        for (int row = from; row < end; row++) {
            float *extra = pass.at.extra.data() + row * stride;
            const LowRank *parts = pass.batch.adapter[pass.at.rows[row].run];
            for (size_t i = 0; i < stride; i++) extra[i] = 0;
            for (int part = first; parts && part <= last; part++) {
                const LowRank &low = parts[layer * PARTS + part];
                if (low.rank) isa->low_rank(low, x, groups(matrix), pass.m, row, extra);
            }
        }
    w.barrier();
}

void multiply(Worker &w, const Pass &pass, const Matrix &matrix, const float *x, int m, const Output &to) {
    const Rows rows = prepare(w, pass, matrix, x, m);
    const int unit = m > ALONE ? FOUR : 2, total = panels(matrix); // even: see `REST`
    const bool steal = int64_t(matrix.d_in) * matrix.d_out * m > SMALL * w.team.n;
    for (int from, end; w.take(total, unit, steal, from, end);) isa->product(matrix, from, end, rows, to);
}

// Normalised rows, packed: by each thread for itself if they are few, else shared.
const float *normalise(Worker &w, const Pass &pass, const Norm &norm, const int *which, int m) {
    const int d = pass.d.d_model;
    const bool alone = m <= ALONE || w.team.n == 1;
    float *out = m <= ALONE ? w.scratch.packed : pass.at.normed.data();
    int from = 0, end = m;
    if (alone || w.take(m, 1, false, from, end))
        for (int i = from; i < end; i++) {
            const float *x = pass.at.x.data() + int64_t(which ? which[i] : i) * d;
            isa->norm(x, norm.gain, norm.shift, d, pass.d.norm_eps, out, m, i);
        }
    if (!alone) w.barrier();
    return out;
}

void embed(const Pass &pass, int row, int64_t token, float *scratch) {
    const Decoder &d = pass.d;
    float *x = pass.at.x.data() + int64_t(row) * d.d_model;
    if (d.embedding) {
        const float *e = d.embedding + token * d.d_model;
        for (int i = 0; i < d.d_model; i++) x[i] = e[i];
    } else {
        for (int g = 0; g < groups(d.head); g++) {
            isa->decode(d.head, int(token / LANES), g, scratch);
            for (int k = 0; k < GROUP && g * GROUP + k < d.d_model; k++) x[g * GROUP + k] = scratch[k * LANES + token % LANES];
        }
    }
    if (d.embedding_scale != 1)
        for (int i = 0; i < d.d_model; i++) x[i] *= d.embedding_scale;
    if (d.positions) {
        const float *p = d.positions + int64_t(pass.at.rows[row].position) * d.d_model;
        for (int i = 0; i < d.d_model; i++) x[i] += p[i];
    }
}

// Turns the queries and keys of one row that share a key/value head, and puts key and value into their block.
void keep(const Pass &pass, int row, int layer, int kv_head) {
    const Decoder &d = pass.d;
    const int stride = (d.n_heads + 2 * d.n_kv_heads) * d.d_head, share = d.n_heads / d.n_kv_heads;
    const Row &r = pass.at.rows[row];
    float *q = pass.at.qkv.data() + int64_t(row) * stride;
    const Layer &of = d.layers[layer];
    const int64_t turned = int64_t(r.position) * d.turned;
    const float *cosine = of.cosine ? of.cosine + turned : nullptr, *sine = of.cosine ? of.sine + turned : nullptr;
    const float scale = d.attention_scale ? d.attention_scale : 1.0f / __builtin_sqrtf(float(d.d_head));
    for (int i = 0; i < share; i++) {
        float *head = q + (kv_head * share + i) * d.d_head;
        if (of.query_norm.gain) isa->norm_here(head, of.query_norm.gain, nullptr, d.d_head, d.norm_eps);
        isa->rope(head, cosine, sine, d.turned, d.d_head, scale);
    }
    float *k = q + (d.n_heads + kv_head) * d.d_head, *v = k + d.n_kv_heads * d.d_head;
    if (of.key_norm.gain) isa->norm_here(k, of.key_norm.gain, nullptr, d.d_head, d.norm_eps);
    if (cosine) isa->rope(k, cosine, sine, d.turned, d.d_head, 1.0f);
    isa->keep(pass.block(r.run, r.slot / POSITIONS, layer, kv_head), r.slot % POSITIONS, k, v, d.d_head, d.half);
}

void look_back(Worker &w, const Pass &pass, int run, int layer, int kv_head, int first, int last) {
    const Decoder &d = pass.d;
    const int stride = (d.n_heads + 2 * d.n_kv_heads) * d.d_head, share = d.n_heads / d.n_kv_heads;
    const int n_blocks = pass.at.rows[last - 1].slot / POSITIONS + 1, window = d.layers[layer].window;
    const auto from = [&](int row) { return window && pass.at.rows[row].slot >= window ? pass.at.rows[row].slot - window + 1 : 0; };
    for (int i = from(first) / POSITIONS; i < n_blocks; i++) w.scratch.blocks[i] = pass.block(run, i, layer, kv_head);
    Query queries[4];
    int n = 0;
    for (int row = first; row < last; row++)
        for (int i = 0; i < share; i++) {
            const int head = kv_head * share + i;
            const float *q = pass.at.qkv.data() + int64_t(row) * stride + head * d.d_head;
            queries[n++] = {q, row, head * d.d_head, from(row), pass.at.rows[row].slot + 1};
            if (n == 4 || (row == last - 1 && i == share - 1)) {
                const bool part = d.attention_cap || queries[n - 1].from; // the last of them has the largest
                isa->attend(w.scratch.blocks, d.half, queries, n, d.d_head, part, d.attention_cap, pass.at.mixed.data(), pass.m, w.scratch.scores);
                n = 0;
            }
        }
}

void attention(Worker &w, const Pass &pass, int layer) {
    const Decoder &d = pass.d;
    int from, end;
    if (!pass.single) {
        for (; w.take(pass.m, 1, false, from, end);)
            for (int row = from; row < end; row++)
                for (int h = 0; h < d.n_kv_heads; h++) keep(pass, row, layer, h);
        w.barrier();
    }
    const std::vector<int> &tasks = pass.at.tasks;
    while (w.take(tasks.back(), 1, !pass.single || pass.m > ALONE, from, end)) {
        int run = 0;
        for (int task = from; task < end; task++) {
            while (tasks[run + 1] <= task) run++;
            const int chunk = (task - tasks[run]) / d.n_kv_heads, kv_head = (task - tasks[run]) % d.n_kv_heads;
            const int first = pass.at.first[run] + chunk * ROWS_AT_ONCE;
            const int beyond = pass.at.first[run] + pass.batch.length[run];
            const int last = first + ROWS_AT_ONCE < beyond ? first + ROWS_AT_ONCE : beyond;
            if (pass.single) keep(pass, first, layer, kv_head);
            look_back(w, pass, run, layer, kv_head, first, last);
        }
    }
}

// x += y, or, with a norm behind, x += Norm(y) row by row, which all threads wait for.
void add(Worker &w, const Pass &pass, const Matrix &matrix, const Norm &norm, const float *input, const float *extra) {
    const int d = pass.d.d_model;
    float *x = pass.at.x.data(), *branch = pass.at.branch.data();
    multiply(w, pass, matrix, input, pass.m, {norm.gain ? PLAIN : ADD, IDENTITY, norm.gain ? branch : x, d, extra});
    w.barrier();
    if (!norm.gain) return;
    int from, end;
    if (w.take(pass.m, 1, false, from, end))
        for (int row = from; row < end; row++) {
            float *y = branch + int64_t(row) * d;
            isa->norm_here(y, norm.gain, norm.shift, d, pass.d.norm_eps);
            for (int i = 0; i < d; i++) x[int64_t(row) * d + i] += y[i];
        }
    w.barrier();
}

void forward(Worker &w, void *data) {
    const Pass &pass = *static_cast<Pass *>(data);
    const Decoder &d = pass.d;
    Buffers &at = pass.at;
    const int m = pass.m;
    const float *extra = pass.batch.adapter ? at.extra.data() : nullptr;
    int from, end;
    if (w.take(m, 1, false, from, end))
        for (int row = from; row < end; row++) embed(pass, row, pass.batch.tokens[row], w.scratch.tile);
    w.barrier();
    for (int i = 0; i < d.n_layers; i++) {
        const Layer &layer = d.layers[i];
        const float *x = normalise(w, pass, layer.attention_norm, nullptr, m);
        if (extra) adapt(w, pass, layer.qkv, x, i, QUERY, VALUE);
        multiply(w, pass, layer.qkv, x, m, {PLAIN, IDENTITY, at.qkv.data(), int64_t(d.n_heads + 2 * d.n_kv_heads) * d.d_head, extra});
        w.barrier();
        if (d.parallel) x = normalise(w, pass, layer.feed_forward_norm, nullptr, m); // before anything is added
        attention(w, pass, i);
        w.barrier();
        if (extra) adapt(w, pass, layer.output, at.mixed.data(), i, OUTPUT, OUTPUT);
        add(w, pass, layer.output, layer.attention_post_norm, at.mixed.data(), extra);
        if (!d.parallel) x = normalise(w, pass, layer.feed_forward_norm, nullptr, m);
        if (extra) adapt(w, pass, layer.up, x, i, GATE, UP);
        multiply(w, pass, layer.up, x, m, {d.gated ? GATED : PACKED, d.activation, at.hidden.data(), 0, extra});
        w.barrier();
        if (extra) adapt(w, pass, layer.down, at.hidden.data(), i, DOWN, DOWN);
        add(w, pass, layer.down, layer.feed_forward_post_norm, at.hidden.data(), extra);
    }
    const int wanted = int(at.wanted.size());
    if (!wanted) return;
    const float *x = normalise(w, pass, d.norm, at.wanted.data(), wanted);
    if (pass.batch.states) {
        if (w.take(wanted, 1, false, from, end))
            for (int row = from; row < end; row++)
                for (int k = 0; k < d.d_model; k++)
                    pass.batch.states[int64_t(row) * d.d_model + k] = x[(size_t(k / GROUP) * wanted + row) * GROUP + k % GROUP];
        return;
    }
    multiply(w, pass, d.head, x, wanted, {PLAIN, IDENTITY, pass.batch.logits, d.vocab_size, nullptr});
    if (!d.logit_cap) return;
    w.barrier();
    while (w.take(wanted, 1, false, from, end))
        isa->cap(pass.batch.logits + int64_t(from) * d.vocab_size, int64_t(end - from) * d.vocab_size, d.logit_cap);
}

} // namespace

// The caller has checked tokens, positions and block numbers; at most MAX_ROWS tokens.
void decode(const Decoder &d, const Batch &batch) {
    static thread_local Buffers at;
    Pass pass{d, batch, at, 0, true};
    at.rows.clear(), at.first.clear(), at.wanted.clear(), at.tasks.assign(1, 0);
    int reach = 0;
    for (int run = 0; run < batch.n_runs; run++) {
        const int n = batch.length[run];
        at.first.push_back(pass.m);
        for (int i = 0; i < n; i++) {
            if (i >= n - batch.wanted[run]) at.wanted.push_back(pass.m + i);
            at.rows.push_back({run, batch.position[run] + i, batch.slot[run] + i});
        }
        at.tasks.push_back(at.tasks.back() + (n + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * d.n_kv_heads);
        pass.m += n;
        pass.single = pass.single && n == 1;
        reach = batch.slot[run] + n > reach ? batch.slot[run] + n : reach;
    }
    const size_t m = size_t(pass.m), width = size_t(d.n_heads) * d.d_head;
    const auto padded = [&](size_t n) { return m * groups(int(n)) * GROUP; };
    at.x.resize(m * d.d_model), at.normed.resize(padded(d.d_model));
    // Nobody writes the filling of these two.
    if (width % GROUP) at.mixed.assign(padded(width), 0);
    if (d.d_ff % GROUP) at.hidden.assign(padded(d.d_ff), 0);
    at.mixed.resize(padded(width)), at.hidden.resize(padded(d.d_ff));
    at.qkv.resize(m * (d.n_heads + 2 * d.n_kv_heads) * d.d_head);
    if (d.layers->attention_post_norm.gain) at.branch.resize(m * d.d_model);
    size_t widest = size_t(d.d_ff) > width ? d.d_ff : width;
    widest = widest > size_t(d.d_model) ? widest : d.d_model;
    const size_t rounded = groups(int(widest));
    if (batch.adapter) {
        size_t most = 0;
        for (const Matrix *one : {&d.layers->qkv, &d.layers->output, &d.layers->up, &d.layers->down})
            most = size_t(panels(*one)) > most ? panels(*one) : most;
        at.extra.resize(m * most * LANES);
    }
    if (d.int8) at.q.resize(m * rounded * GROUP), at.scales.resize(m * rounded * 3);
    run(d.threads, {groups(int(widest)) * m, (size_t(reach) + POSITIONS - 1) / POSITIONS * POSITIONS, padded(d.d_model) / m * ALONE, d.int8 ? groups(int(widest)) * ALONE * (GROUP / 4 + 3) : 0}, forward, &pass);
}
